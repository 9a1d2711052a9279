// Bench prints headrace's figures: it runs the benchmark BenchmarkFigures of every package that has
// one, on one set of servers, one package after the other, and forwards the lines of package bench.
//
//	go run ./internal/bench/cmd/bench                 # all
//	go run ./internal/bench/cmd/bench queue dedup     # of these packages
//	go run ./internal/bench/cmd/bench -json queue     # one JSON object a line
//	go run ./internal/bench/cmd/bench -check          # one round of each: do they work?
//
// The exit code is 1 when a benchmark failed; its last words are on standard error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers"
)

func main() {
	asJSON := flag.Bool("json", false, "print one JSON object a line")
	check := flag.Bool("check", false, "run each benchmark for one round, to see that it works; its figures mean nothing")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: bench [-json] [-check] [package ...]     (queue, ./queue and ./... are all understood)")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := run(flag.Args(), *check, printer{os.Stdout, *asJSON}); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, check bool, out printer) (err error) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	packages, err := withFigures(ctx, args)
	if err != nil {
		return err
	}
	set, err := servers.StartSet(ctx, servers.SetOptions{
		Options:          servers.Options{Log: func(text string) { out.note(text) }},
		PostgresSettings: servers.SharedPostgres,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.Stop()) }()
	for _, line := range set.Chosen() {
		out.note(line)
	}
	env := []string{bench.EnvJSON + "=1"}
	if check {
		env = append(env, bench.EnvCheck+"=1")
	}
	start := time.Now()
	var failed []error
	for _, p := range packages {
		if ctx.Err() != nil {
			return errors.Join(append(failed, ctx.Err())...)
		}
		f := &filter{out: out}
		code, err := set.Run([]string{
			"go", "test", "-run=^$", "-bench=^" + function + "$", "-benchtime=1x", "-count=1", "-timeout=10m", p,
		}, f, env...)
		f.flush()
		switch {
		case err != nil:
			return err
		case code != 0:
			failed = append(failed, fmt.Errorf("%s failed:\n%s", p, f.lastWords()))
		case f.figures == 0:
			failed = append(failed, fmt.Errorf("%s printed no figure", p))
		}
	}
	out.note(fmt.Sprintf("took %s", time.Since(start).Round(time.Second)))
	return errors.Join(failed...)
}
