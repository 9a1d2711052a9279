package servers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/reach"
	"github.com/headrace/headrace/internal/servers/container"
)

// PostgresServer is a Postgres server. Its methods are safe for concurrent use.
type PostgresServer struct {
	// URL leads to a database; it holds the password. On a server that was started here it is the
	// database "postgres", and the user is its superuser.
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
	if url := o.given(EnvPostgres); url != "" {
		return givenPostgres(ctx, url)
	}
	return ways[*PostgresServer]{
		server: "Postgres", image: PostgresImage,
		docker: func(ctx context.Context, e container.Engine, image string) (*PostgresServer, error) {
			return onFreePort(func(port int) (*PostgresServer, error) { return postgresContainer(ctx, e, image, port, o) })
		},
		local: func(ctx context.Context) (*PostgresServer, error) {
			prog, err := findPostgres()
			if err != nil {
				return nil, absent{err}
			}
			return onFreePort(func(port int) (*PostgresServer, error) { return postgresProcess(ctx, prog, port, o) })
		},
		embedded: func(ctx context.Context) (*PostgresServer, error) { return downloadedPostgres(ctx, o) },
	}.find(ctx, o)
}

func findPostgres() (program, error) {
	return findProgram("postgres", minPostgres, postgresDirs, "initdb")
}

// superuser owns every throwaway Postgres.
const superuser = "postgres"

// SIGQUIT is Postgres' immediate shutdown: the directory goes away, so there is nothing to be
// saved.
func newPostgresDir(base string) (*local, error) {
	return newLocal("postgres", base, syscall.SIGQUIT, "postgres", "nobody")
}

func postgresProcess(ctx context.Context, prog program, port int, o Options) (*PostgresServer, error) {
	base := ""
	if o.InMemory {
		base = memoryBase()
	}
	l, err := newPostgresDir(base)
	if err != nil {
		return nil, err
	}
	return runPostgres(ctx, l, prog, port, o, "postgres on this machine")
}

// runPostgres initialises the directory and starts the server in it. It stops l when it fails.
func runPostgres(ctx context.Context, l *local, prog program, port int, o Options, how string) (*PostgresServer, error) {
	password, err := initialise(l, prog, o.Template)
	// After a SIGKILL of the postmaster its children need a moment to notice; until then they hold the
	// shared memory.
	l.again = func(log string) bool {
		return strings.Contains(log, "pre-existing shared memory block") || strings.Contains(log, "is another postmaster")
	}
	l.argv = append([]string{prog.path, "-D", l.path("data"), "-k", l.dir, "-p", fmt.Sprint(port), "-c", "listen_addresses=127.0.0.1"},
		asFlags(o.Settings)...)
	s := &PostgresServer{URL: postgresURL("127.0.0.1", port, password), in: l, killBackend: killPID}
	return s, s.launch(ctx, err, how)
}

func postgresContainer(ctx context.Context, e container.Engine, image string, port int, o Options) (*PostgresServer, error) {
	password := newPassword()
	cmd := append([]string{"postgres"}, asFlags(o.Settings)...)
	if o.HostNetwork {
		cmd = append(cmd, "-c", "listen_addresses="+e.Address().Dial, "-c", fmt.Sprintf("port=%d", port))
	}
	spec := container.Spec{
		Image: image, Port: port, Inside: 5432, HostNetwork: o.HostNetwork,
		Env: map[string]string{
			"POSTGRES_USER": superuser, "POSTGRES_PASSWORD": password, "POSTGRES_HOST_AUTH_METHOD": "scram-sha-256",
			"POSTGRES_INITDB_ARGS": "--encoding=UTF8 --locale=C --no-sync",
		},
		Cmd: cmd,
	}
	if o.InMemory {
		spec.Memory = "/memory"
		spec.Env["PGDATA"] = "/memory/data"
	}
	c, err := runContainer(e, spec)
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{URL: postgresURL(e.Address().Dial, port, password), in: c}
	// The pids that SQL sees are the container's own.
	s.killBackend = func(pid int) error { return c.exec(fmt.Sprintf("kill -9 %d", pid)) }
	return s, s.launch(ctx, nil, "container "+image)
}

func asFlags(settings []string) []string {
	var flags []string
	for _, s := range settings {
		flags = append(flags, "-c", s)
	}
	return flags
}

func postgresURL(host string, port int, password string) string {
	return fmt.Sprintf("postgres://%s:%s@%s:%d/postgres?sslmode=disable", superuser, password, host, port)
}

// launch brings a new server up for the first time, unless its preparation failed, and describes
// it.
func (s *PostgresServer) launch(ctx context.Context, prepared error, how string) error {
	err := prepared
	if err == nil {
		err = s.start(ctx)
	}
	if err == nil {
		_, s.Version, err = askPostgres(ctx, s.URL)
	}
	if err != nil {
		return errors.Join(err, s.in.stop())
	}
	s.Chosen = fmt.Sprintf("PostgreSQL %s (%s)", s.Version, how)
	return nil
}

// Kill sends SIGKILL to the postmaster. Its backends notice and end within moments; the next Start
// recovers from the crash, which empties UNLOGGED tables.
func (s *PostgresServer) Kill() error { return kill(s.in, s.Chosen) }

// KillBackend sends SIGKILL to the backend whose pg_backend_pid() is given. The postmaster then
// ends all the others and recovers: a crash without a restart of the server. KillBackend does not
// wait for that: connections are refused or break for a moment.
func (s *PostgresServer) KillBackend(pid int) error {
	if s.in == nil {
		return notOurs(s.Chosen)
	}
	return s.killBackend(pid)
}

// Start brings a killed server back at the same address and waits until it has recovered and
// answers.
func (s *PostgresServer) Start() error {
	if s.in == nil {
		return notOurs(s.Chosen)
	}
	return s.start(context.Background())
}

func (s *PostgresServer) start(ctx context.Context) error {
	return startAndAwait(ctx, s.in, func(ctx context.Context) error {
		_, _, err := askPostgres(ctx, s.URL)
		return err
	})
}

// Stop ends a server that was started here and removes its data. It may be called twice. A server
// given by URL is left alone.
func (s *PostgresServer) Stop() error { return stop(s.in) }

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

// askPostgres checks that the server answers, with our password, and returns its version.
func askPostgres(ctx context.Context, url string) (name, version string, err error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return "", "", reach.Unreadable("the URL of Postgres", "postgres://user:password@host:5432/database")
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // it may lead through an old PgBouncer
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return "", "", err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only a question
	if err := c.QueryRow(ctx, "SHOW server_version").Scan(&version); err != nil {
		return "", "", err
	}
	version, _, _ = strings.Cut(version, " ") // without "(Debian …)"
	return "PostgreSQL", version, nil
}

// WithDatabase returns the URL of another database on the same server.
func WithDatabase(databaseURL, name string) (string, error) {
	if !strings.Contains(databaseURL, "://") {
		return databaseURL + " dbname=" + name, nil // keyword form: the last one wins
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", reach.Unreadable("the URL of Postgres", "postgres://user:password@host:5432/database")
	}
	u.Path = "/" + name
	return u.String(), nil
}
