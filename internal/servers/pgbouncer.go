package servers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// PgBouncerServer is a PgBouncer in transaction mode before one Postgres server, all its databases.
type PgBouncerServer struct {
	// URL leads through PgBouncer to the same database as the URL it was started with; it holds the password.
	URL string
	// Chosen is what was taken, for people: "PgBouncer 1.18.0 (pgbouncer on this machine)".
	Chosen string
	// Version is "1.18.0".
	Version string

	in instance // nil when it was given by URL
}

// StartPgBouncer finds or starts a PgBouncer before the server of databaseURL.
func StartPgBouncer(ctx context.Context, databaseURL string, o Options) (*PgBouncerServer, error) {
	return startLocalPgBouncer(ctx, databaseURL, o)
}

func startLocalPgBouncer(_ context.Context, databaseURL string, o Options) (*PgBouncerServer, error) {
	prog, err := findProgram("pgbouncer", 1, nil)
	if err != nil {
		return nil, err
	}
	return onFreePort(func(port int) (*PgBouncerServer, error) {
		l, err := newLocal("pgbouncer", syscall.SIGKILL, "postgres", "nobody")
		if err != nil {
			return nil, err
		}
		s, err := launchPgBouncer(l, prog, port, databaseURL, o)
		if err != nil {
			l.stop() //nolint:errcheck // the first error counts
			return nil, err
		}
		s.Chosen = fmt.Sprintf("PgBouncer %s (pgbouncer on this machine)", s.Version)
		return s, nil
	})
}

func launchPgBouncer(l *local, prog program, port int, databaseURL string, o Options) (*PgBouncerServer, error) {
	c, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, errors.New("the database URL cannot be read") // the error may repeat it
	}
	err = errors.Join(
		l.write("users.txt", fmt.Sprintf("%q %q\n", c.User, c.Password)),
		l.write("pgbouncer.ini", bouncerConfig(c.Host, int(c.Port), c.User, "127.0.0.1", port, l.path("users.txt"), o.Settings)),
	)
	if err != nil {
		return nil, err
	}
	l.argv = []string{prog.path, l.path("pgbouncer.ini")}
	s := &PgBouncerServer{URL: bouncerURL(c, port), in: l}
	return s, s.Start()
}

// bouncerConfig is for any version from 1.18 on: an unknown setting is an error there.
func bouncerConfig(host string, hostPort int, user, listen string, port int, users string, settings []string) string {
	return fmt.Sprintf(`[databases]
* = host=%s port=%d
[pgbouncer]
listen_addr = %s
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
admin_users = %s
pool_mode = transaction
max_client_conn = 500
default_pool_size = 20
%s
`, host, hostPort, listen, port, users, user, strings.Join(settings, "\n"))
}

func bouncerURL(c *pgx.ConnConfig, port int) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(c.User, c.Password),
		Host: fmt.Sprintf("127.0.0.1:%d", port), Path: "/" + c.Database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Kill sends SIGKILL to the server.
func (s *PgBouncerServer) Kill() error {
	if s.in == nil {
		return fmt.Errorf("%s is not ours to kill", s.Chosen)
	}
	return s.in.kill()
}

// Start brings a killed server back at the same address.
func (s *PgBouncerServer) Start() error {
	if s.in == nil {
		return fmt.Errorf("%s is not ours to start", s.Chosen)
	}
	if err := s.in.start(); err != nil {
		return err
	}
	return await(context.Background(), s.in, s.ask)
}

// Stop ends a server that was started here. It may be called twice. A server given by URL is left alone.
func (s *PgBouncerServer) Stop() error {
	if s.in == nil {
		return nil
	}
	return s.in.stop()
}

// ask checks that the server answers, with our password, and learns its version. Its console answers whatever
// state the databases behind it are in.
func (s *PgBouncerServer) ask(ctx context.Context) error {
	console, err := WithDatabase(s.URL, "pgbouncer")
	if err != nil {
		return err
	}
	cfg, err := pgx.ParseConfig(console)
	if err != nil {
		return errors.New("its URL cannot be read")
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // all that the console speaks
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only a question
	var version string
	if err := c.QueryRow(ctx, "SHOW VERSION").Scan(&version); err != nil {
		return err
	}
	s.Version = strings.TrimPrefix(version, "PgBouncer ")
	return nil
}
