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

func main() {
	install := flag.Bool("install", false, "on Debian as root, first install the servers' packages that are missing")
	bouncer := flag.Bool("pgbouncer", true, "start a PgBouncer too")
	memory := flag.Bool("memory", false, "keep the files of Postgres in memory, where there is enough")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: with-servers [flags] -- command [argument ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	code, err := run(flag.Args(), *install, *bouncer, *memory)
	if err != nil {
		say("%v", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(argv []string, install, bouncer, memory bool) (code int, err error) {
	// Until the command runs, a signal ends the start of the servers.
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	o := servers.SetOptions{
		Options:          servers.Options{Log: func(text string) { say("%s", text) }, InMemory: memory},
		PostgresSettings: servers.SharedPostgres,
		PgBouncer:        bouncer,
	}
	if install {
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
