// With-servers starts a Redis, a Postgres and a PgBouncer, runs a command that finds them in its
// environment, and stops them. So all packages of one `go test` share one set of servers.
//
//	go run ./internal/servers/cmd/with-servers -- go test ./...
//
// The command gets REDIS_URL, DATABASE_URL and PGBOUNCER_URL. Servers that these name already are
// used as they are; HEADRACE_SERVERS chooses how the others are found. The exit code is the
// command's own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/headrace/headrace/internal/servers"
)

// options choose the servers.
type options struct {
	install, bouncer, memory, tuned bool
}

func main() {
	var o options
	flag.BoolVar(&o.install, "install", false, "on Debian as root, first install the servers' packages that are missing")
	flag.BoolVar(&o.bouncer, "pgbouncer", true, "start a PgBouncer too")
	flag.BoolVar(&o.memory, "memory", false, "keep the files of Postgres in memory, where there is enough")
	flag.BoolVar(&o.tuned, "tuned", false, "start them with the settings that README.md recommends, for measurements")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: with-servers [flags] -- command [argument ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	code, err := run(flag.Args(), o)
	if err != nil {
		say("%v", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(argv []string, opts options) (code int, err error) {
	// Until the command runs, a signal ends the start of the servers.
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	o := servers.SetOptions{
		Options:          servers.Options{Log: func(text string) { say("%s", text) }, InMemory: opts.memory},
		PostgresSettings: servers.SharedPostgres,
		PgBouncer:        opts.bouncer,
	}
	if opts.tuned {
		o.PostgresSettings, o.RedisSettings = servers.TunedPostgres, servers.TunedRedis
	}
	if opts.install {
		if err := servers.Install(ctx, o.Options); err != nil {
			return 1, err
		}
		if err := os.Setenv(servers.EnvInstall, "1"); err != nil {
			return 1, err
		}
	}
	set, err := servers.StartSet(ctx, o)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, set.Stop()) }()
	for _, line := range set.Chosen() {
		say("%s", line)
	}
	if ctx.Err() != nil {
		return 1, ctx.Err()
	}
	return set.Run(argv, os.Stdout)
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "# servers: "+format+"\n", args...)
}
