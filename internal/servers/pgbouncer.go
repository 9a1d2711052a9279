package servers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/reach"
	"github.com/headrace/headrace/internal/servers/container"
)

// PgBouncerServer is a PgBouncer in transaction mode before one Postgres server, all its databases.
type PgBouncerServer struct {
	// URL leads through PgBouncer to the same database as the URL it was started with; it holds the
	// password.
	URL string
	// Chosen is what was taken, for people: "PgBouncer 1.18.0 (pgbouncer on this machine)".
	Chosen string
	// Version is "1.18.0"; it is empty for one that was given by URL.
	Version string

	in instance // nil when it was given by URL
}

// StartPgBouncer finds or starts a PgBouncer before the server of databaseURL. The user of that URL
// may use its console, the database "pgbouncer".
func StartPgBouncer(ctx context.Context, databaseURL string, o Options) (*PgBouncerServer, error) {
	if url := o.given(EnvPgBouncer); url != "" {
		return givenPgBouncer(ctx, url)
	}
	db, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, reach.Unreadable("the URL of Postgres", "postgres://user:password@host:5432/database")
	}
	return ways[*PgBouncerServer]{
		server: "PgBouncer", image: PgBouncerImage,
		docker: func(ctx context.Context, e container.Engine, image string) (*PgBouncerServer, error) {
			return onFreePort(func(port int) (*PgBouncerServer, error) {
				return bouncerContainer(ctx, e, image, port, db, o)
			})
		},
		local: func(ctx context.Context) (*PgBouncerServer, error) {
			prog, err := findPgBouncer()
			if err != nil {
				return nil, absent{err}
			}
			return onFreePort(func(port int) (*PgBouncerServer, error) { return bouncerProcess(ctx, prog, port, db, o) })
		},
	}.find(ctx, o)
}

func findPgBouncer() (program, error) { return findProgram("pgbouncer", 1, nil) }

func bouncerProcess(ctx context.Context, prog program, port int, db *pgx.ConnConfig, o Options) (*PgBouncerServer, error) {
	l, err := newLocal("pgbouncer", "", syscall.SIGKILL, "postgres", "nobody")
	if err != nil {
		return nil, err
	}
	l.argv = []string{prog.path, l.path("pgbouncer.ini")}
	err = errors.Join(
		l.write("users.txt", bouncerUsers(db)),
		l.write("pgbouncer.ini", bouncerConfig(db.Host, db, "127.0.0.1", port, l.path("users.txt"), o.Settings)),
	)
	s := &PgBouncerServer{URL: bouncerURL("127.0.0.1", port, db), in: l}
	return s, s.launch(ctx, err, "pgbouncer on this machine")
}

// inContainer writes the configuration and starts the server as the user that the image has
// prepared: the image's own entrypoint knows only a part of the settings.
const inContainer = `umask 077; d=$(mktemp -d) && printf '%s' "$USERS" >$d/users.txt && printf '%s' "$INI" | sed "s|@DIR@|$d|" >$d/pgbouncer.ini || exit 1
[ "$(id -u)" = 0 ] || exec pgbouncer $d/pgbouncer.ini
chown -R postgres $d && exec pgbouncer -u postgres $d/pgbouncer.ini`

func bouncerContainer(ctx context.Context, e container.Engine, image string, port int, db *pgx.ConnConfig, o Options) (*PgBouncerServer, error) {
	// The database is seen from this machine. On Linux the container shares its network; elsewhere the
	// engine runs in a virtual machine, which knows this one by name.
	at := e.Address()
	host, listen := db.Host, at.Bind
	spec := container.Spec{Image: image, Port: port, Inside: port, HostNetwork: true, Entrypoint: "sh", Cmd: []string{"-c", inContainer}}
	if runtime.GOOS != "linux" || at.Dial != "127.0.0.1" {
		spec.HostNetwork, spec.ExtraHosts = false, []string{"host.docker.internal:host-gateway"}
		listen, spec.Inside = "0.0.0.0", 5432
		if host == "localhost" || host == "127.0.0.1" || host == "::1" {
			host = "host.docker.internal"
		}
	}
	spec.Env = map[string]string{
		"USERS": bouncerUsers(db),
		"INI":   bouncerConfig(host, db, listen, spec.Inside, "@DIR@/users.txt", o.Settings),
	}
	c, err := runContainer(e, spec)
	if err != nil {
		return nil, err
	}
	s := &PgBouncerServer{URL: bouncerURL(at.Dial, port, db), in: c}
	return s, s.launch(ctx, nil, "container "+image)
}

func bouncerUsers(db *pgx.ConnConfig) string {
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	return quote(db.User) + " " + quote(db.Password) + "\n"
}

// bouncerConfig is for any version from 1.18 on: an unknown setting is an error there.
func bouncerConfig(host string, db *pgx.ConnConfig, listen string, port int, users string, settings []string) string {
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
`, host, db.Port, listen, port, users, db.User, strings.Join(settings, "\n"))
}

func bouncerURL(host string, port int, db *pgx.ConnConfig) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(db.User, db.Password),
		Host: fmt.Sprintf("%s:%d", host, port), Path: "/" + db.Database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// launch brings a new server up for the first time, unless its preparation failed, and describes
// it.
func (s *PgBouncerServer) launch(ctx context.Context, prepared error, how string) error {
	err := prepared
	if err == nil {
		err = s.start(ctx)
	}
	if err == nil {
		s.Version, err = askPgBouncer(ctx, s.URL)
	}
	if err != nil {
		return errors.Join(err, s.in.stop())
	}
	s.Chosen = fmt.Sprintf("PgBouncer %s (%s)", s.Version, how)
	return nil
}

// Kill sends SIGKILL to the server.
func (s *PgBouncerServer) Kill() error { return kill(s.in, s.Chosen) }

// Start brings a killed server back at the same address and waits until it answers.
func (s *PgBouncerServer) Start() error {
	if s.in == nil {
		return notOurs(s.Chosen)
	}
	return s.start(context.Background())
}

func (s *PgBouncerServer) start(ctx context.Context) error {
	return startAndAwait(ctx, s.in, func(ctx context.Context) error {
		_, err := askPgBouncer(ctx, s.URL)
		return err
	})
}

// Stop ends a server that was started here. It may be called twice. A server given by URL is left
// alone.
func (s *PgBouncerServer) Stop() error { return stop(s.in) }

// askPgBouncer checks that the server answers, with our password, and returns its version. The
// console answers whatever state the databases behind it are in.
func askPgBouncer(ctx context.Context, url string) (version string, err error) {
	console, err := WithDatabase(url, "pgbouncer")
	if err != nil {
		return "", err
	}
	cfg, err := pgx.ParseConfig(console)
	if err != nil {
		return "", reach.Unreadable("the URL of PgBouncer", "postgres://user:password@host:5432/database")
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // all that the console speaks
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return "", err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only a question
	if err := c.QueryRow(ctx, "SHOW VERSION").Scan(&version); err != nil {
		return "", err
	}
	return strings.TrimPrefix(version, "PgBouncer "), nil
}
