package servers

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// Mode is the way in which servers are found.
type Mode string

// The values of HEADRACE_SERVERS.
const (
	Auto     Mode = "auto"     // every way, in the order of the package comment
	Local    Mode = "local"    // the programs of this machine
	Docker   Mode = "docker"   // containers
	Embedded Mode = "embedded" // miniredis, and a downloaded Postgres: for the demo
)

// The environment variables that this package reads.
const (
	EnvMode      = "HEADRACE_SERVERS"
	EnvRedis     = "REDIS_URL"
	EnvPostgres  = "DATABASE_URL"
	EnvPgBouncer = "PGBOUNCER_URL"
)

// ReachTimeout is how long a server that was given by URL may take to answer.
const ReachTimeout = 5 * time.Second

// startTimeout is how long a server that was started here may take, a crash recovery included.
const startTimeout = 60 * time.Second

// Options configure how a server is found. The zero value follows the environment.
type Options struct {
	// Mode overrides HEADRACE_SERVERS when it is not empty.
	Mode Mode
	// Private always starts a server: the URLs of the environment are left alone.
	Private bool
	// Demo also allows what is good enough for a demonstration only: miniredis, and a download of
	// Postgres.
	Demo bool
	// Settings go to the server: for Redis command line options ("--maxmemory", "100mb"), for Postgres
	// and PgBouncer "name=value".
	Settings []string
	// Image names another container image than the usual one and limits the search to containers.
	Image string
	// Template, if not nil, saves the time of initdb for Postgres servers of this machine's programs.
	Template *PostgresTemplate
	// HostNetwork lets a container share the network of the engine's machine, so that servers reach
	// each other under the addresses that programs use. Servers of this machine always do.
	HostNetwork bool
	// InMemory keeps the files of a Postgres in memory, where there is enough. Such a server cannot be
	// started again after it was killed. Tests that make and drop many databases take a quarter less
	// CPU time: ext4 searches long for the number of a new file after many files were deleted.
	InMemory bool
	// Log, if not nil, receives what takes long (the pull of an image) and which way failed before
	// another one worked.
	Log func(string)

	password string // of a Redis; empty: one of its own
}

func (o *Options) log(text string) {
	if o.Log != nil {
		o.Log(text)
	}
}

// ParseMode reads a value of HEADRACE_SERVERS; "" is Auto.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(cmp.Or(s, string(Auto))); m {
	case Auto, Local, Docker, Embedded:
		return m, nil
	}
	return "", fmt.Errorf("%s is %q, must be %s, %s, %s or %s", EnvMode, s, Auto, Local, Docker, Embedded)
}

func (o *Options) mode() (Mode, error) {
	if o.Mode != "" {
		return ParseMode(string(o.Mode))
	}
	return ParseMode(os.Getenv(EnvMode))
}

// instance is a server that was started here, however that was done.
type instance interface {
	// kill is SIGKILL to the server.
	kill() error
	// start brings a killed server back on the same address and with its data, and returns once it was
	// spawned.
	start() error
	// alive is nil while the server runs, and holds what it printed last when it does not.
	alive() error
	// stop ends the server for good and removes what it had.
	stop() error
}

// await calls ready until it succeeds, the server dies, or time is up.
func await(ctx context.Context, in instance, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for pause := 5 * time.Millisecond; ; pause = min(pause*3/2, 100*time.Millisecond) {
		try, done := context.WithTimeout(ctx, 2*time.Second)
		err := ready(try)
		done()
		if err == nil {
			return nil
		}
		if dead := in.alive(); dead != nil {
			return dead
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server was started and does not answer: %w", err)
		case <-time.After(pause):
		}
	}
}

func startAndAwait(ctx context.Context, in instance, ready func(context.Context) error) error {
	if err := in.start(); err != nil {
		return err
	}
	return await(ctx, in, ready)
}

func kill(in instance, chosen string) error {
	if in == nil {
		return notOurs(chosen)
	}
	return in.kill()
}

func stop(in instance) error {
	if in == nil {
		return nil
	}
	return in.stop()
}

// notOurs is the answer to a test that would kill a server which was given by URL.
func notOurs(chosen string) error {
	return fmt.Errorf("%s was not started here: it is neither killed nor started", chosen)
}

// newPassword returns 128 random bits in a form that needs no escaping anywhere.
func newPassword() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // documented never to return an error
	return hex.EncodeToString(b[:])
}

// Ports are taken from below the ephemeral range of Linux (32768 and up) and macOS (49152 and up).
const (
	firstPort = 20000
	lastPort  = 32000
)

// freePort returns a port of 127.0.0.1 on which no process listens. Another process may take it
// before the server does: then the server ends at once, and its caller tries another port.
func freePort() (int, error) {
	for range 100 {
		var b [2]byte
		rand.Read(b[:]) //nolint:errcheck // documented never to return an error
		port := firstPort + (int(b[0])<<8|int(b[1]))%(lastPort-firstPort)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port found between %d and %d", firstPort, lastPort)
}

// onFreePort calls start with a free port, and with another one when the first was taken meanwhile.
func onFreePort[T any](start func(port int) (T, error)) (T, error) {
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			var none T
			return none, err
		}
		s, err := start(port)
		if err == nil || try == 5 || !portTaken(err) {
			return s, err
		}
	}
}

// portTaken recognizes the messages of Redis, Postgres, PgBouncer and Docker for a port in use.
func portTaken(err error) bool {
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "address already in use") || strings.Contains(text, "port is already allocated") ||
		strings.Contains(text, "address in use")
}

// TB is what the methods for tests need of a testing.TB. So programs that start servers do not
// import testing.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}
