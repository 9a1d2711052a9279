package servers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// PostgresServer is a Postgres server. Its methods are safe for concurrent use.
type PostgresServer struct {
	// URL leads to the database "postgres" as its superuser; it holds the password.
	URL string
	// Chosen is what was taken and its version, for people: "PostgreSQL 18.6 (container postgres:18)".
	Chosen string
	// Version is "18.6".
	Version string

	in          instance // nil when it was given by URL
	killBackend func(pid int) error
}

// StartPostgres finds or starts a Postgres server.
func StartPostgres(ctx context.Context, o Options) (*PostgresServer, error) {
	return startLocalPostgres(ctx, o)
}

// superuser owns every throwaway Postgres.
const superuser = "postgres"

func startLocalPostgres(ctx context.Context, o Options) (*PostgresServer, error) {
	prog, err := findProgram("postgres", minPostgres, postgresDirs, "initdb")
	if err != nil {
		return nil, err
	}
	return onFreePort(func(port int) (*PostgresServer, error) {
		// SIGQUIT is the immediate shutdown: the directory goes away, there is nothing to be saved.
		l, err := newLocal("postgres", syscall.SIGQUIT, "postgres", "nobody")
		if err != nil {
			return nil, err
		}
		s, err := launchPostgres(l, prog, port, o)
		if err != nil {
			l.stop() //nolint:errcheck // the first error counts
			return nil, err
		}
		s.Chosen = fmt.Sprintf("PostgreSQL %s (postgres on this machine)", s.Version)
		return s, nil
	})
}

func launchPostgres(l *local, prog program, port int, o Options) (*PostgresServer, error) {
	password := newPassword()
	if err := initdb(l, prog, password); err != nil {
		return nil, err
	}
	// After a SIGKILL of the postmaster its children need a moment to notice; until then they hold the shared memory.
	l.again = func(log string) bool {
		return strings.Contains(log, "pre-existing shared memory block") || strings.Contains(log, "is another postmaster")
	}
	l.argv = []string{
		prog.path, "-D", l.path("data"), "-k", l.dir, "-p", fmt.Sprint(port),
		"-c", "listen_addresses=127.0.0.1",
	}
	for _, setting := range o.Settings {
		l.argv = append(l.argv, "-c", setting)
	}
	s := &PostgresServer{URL: postgresURL("127.0.0.1", port, password), in: l, killBackend: killPID}
	return s, s.Start()
}

func postgresURL(host string, port int, password string) string {
	return fmt.Sprintf("postgres://%s:%s@%s:%d/postgres?sslmode=disable", superuser, password, host, port)
}

// initdb makes the data directory. Locale C sorts the same everywhere, whatever the machine has installed.
func initdb(l *local, prog program, password string) error {
	if err := l.write("password", password); err != nil {
		return err
	}
	defer os.Remove(l.path("password"))
	out, err := l.command(filepath.Join(filepath.Dir(prog.path), "initdb"), "-D", l.path("data"), "-U", superuser,
		"--auth=scram-sha-256", "--pwfile="+l.path("password"), "--encoding=UTF8", "--locale=C", "--no-sync").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Kill sends SIGKILL to the postmaster. Its backends notice and end within moments; the next Start recovers from
// the crash, which empties UNLOGGED tables.
func (s *PostgresServer) Kill() error {
	if s.in == nil {
		return fmt.Errorf("%s is not ours to kill", s.Chosen)
	}
	return s.in.kill()
}

// KillBackend sends SIGKILL to the backend with the process id that pg_backend_pid() returns there. The
// postmaster then ends all the others and recovers: a crash without a restart of the server.
func (s *PostgresServer) KillBackend(pid int) error {
	if s.in == nil {
		return fmt.Errorf("%s is not ours to kill", s.Chosen)
	}
	return s.killBackend(pid)
}

// Start brings a killed server back at the same address and waits until it has recovered and answers.
func (s *PostgresServer) Start() error {
	if s.in == nil {
		return fmt.Errorf("%s is not ours to start", s.Chosen)
	}
	if err := s.in.start(); err != nil {
		return err
	}
	return await(context.Background(), s.in, s.ask)
}

// Stop ends a server that was started here and removes its data. It may be called twice. A server given by URL is
// left alone.
func (s *PostgresServer) Stop() error {
	if s.in == nil {
		return nil
	}
	return s.in.stop()
}

// Pool returns a new pool on the database of URL, closed at the end of the test.
func (s *PostgresServer) Pool(t TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), s.URL)
	if err != nil {
		t.Fatalf("%s: %v", s.Chosen, err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// ask checks that the server answers, with our password, and learns its version.
func (s *PostgresServer) ask(ctx context.Context) error {
	c, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only a question
	var version string
	if err := c.QueryRow(ctx, "SHOW server_version").Scan(&version); err != nil {
		return err
	}
	s.Version, _, _ = strings.Cut(version, " ") // without "(Debian …)"
	return nil
}

// WithDatabase returns the URL of another database on the same server.
func WithDatabase(databaseURL, name string) (string, error) {
	if !strings.Contains(databaseURL, "://") {
		return databaseURL + " dbname=" + name, nil // keyword form: the last one wins
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", errors.New("the database URL cannot be read") // the error repeats it, password and all
	}
	u.Path = "/" + name
	return u.String(), nil
}
