//go:build unix

package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestLocalServersArePrivate(t *testing.T) {
	// Settings of the environment for other servers must not reach ours.
	t.Setenv("PGPORT", "1")
	t.Setenv("PGDATA", "/nonexistent")
	if modes(t)[0] != Local {
		return // this machine has containers only
	}
	s, err := StartSet(t.Context(), SetOptions{Options: Options{Private: true, Mode: Local}, PgBouncer: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []instance{s.Redis.in, s.Postgres.in, s.PgBouncer.in} {
		l := in.(*local)
		info, err := os.Stat(l.dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", l.dir, info.Mode().Perm())
		}
		if command := strings.Join(l.argv, " "); strings.Contains(command, password(t, s.Redis.URL)) || strings.Contains(command, password(t, s.Postgres.URL)) {
			t.Errorf("a password is on a command line that every user can read: %s", l.name)
		}
	}
	// The servers answer only with the password, and only on 127.0.0.1.
	for _, url := range []string{strings.Replace(s.Postgres.URL, password(t, s.Postgres.URL), "guess", 1), strings.Replace(s.PgBouncer.URL, password(t, s.PgBouncer.URL), "guess", 1)} {
		if _, _, err := askPostgres(t.Context(), url); err == nil {
			t.Error("Postgres or PgBouncer let a wrong password in")
		}
	}
	if _, _, err := askRedis(t.Context(), strings.Replace(s.Redis.URL, password(t, s.Redis.URL), "guess", 1)); err == nil {
		t.Error("Redis let a wrong password in")
	}
	for _, ip := range addresses(t) {
		for _, url := range []string{s.Redis.URL, s.Postgres.URL, s.PgBouncer.URL} {
			at := net.JoinHostPort(ip, port(t, url))
			if c, err := net.Dial("tcp", at); err == nil {
				c.Close() //nolint:errcheck // it should not even exist
				t.Errorf("a server listens on %s", at)
			}
		}
	}
	dirs := []string{s.Redis.in.(*local).dir, s.Postgres.in.(*local).dir, s.PgBouncer.in.(*local).dir}
	for range 2 { // twice is once
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}
	for _, dir := range dirs {
		if exists(dir) || strings.Contains(strings.Join(running(t), "\n"), dir) {
			t.Errorf("Stop left something of %s", dir)
		}
	}
}

func password(t *testing.T, raw string) string {
	t.Helper()
	_, rest, _ := strings.Cut(raw, "://")
	userinfo, _, _ := strings.Cut(rest, "@")
	_, password, ok := strings.Cut(userinfo, ":")
	if !ok || len(password) < 32 {
		t.Fatal("no password of 128 bits in a URL")
	}
	return password
}

func port(t *testing.T, raw string) string {
	t.Helper()
	_, rest, _ := strings.Cut(raw, "@")
	hostport, _, _ := strings.Cut(rest, "/")
	_, port, err := net.SplitHostPort(hostport)
	if err != nil {
		t.Fatal("no port in a URL")
	}
	return port
}

// addresses are those of this machine, but for the loopback ones.
func addresses(t *testing.T) []string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			found = append(found, ip.IP.String())
		}
	}
	return found
}

// Another process may take the port between its choice and the server's start. The server reports
// it in words of its own, which must be understood, and the process that has the port must not be
// taken for the server.
func TestTakenPortIsRecognised(t *testing.T) {
	t.Parallel()
	own, err := StartSet(t.Context(), SetOptions{Options: Options{Private: true, Mode: modes(t)[0]}})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Stop() //nolint:errcheck // other tests check it
	db, err := pgx.ParseConfig(own.Postgres.URL)
	if err != nil {
		t.Fatal("unreadable URL")
	}
	ctx := t.Context()
	for _, mode := range modes(t) {
		start := map[string]func(port int) error{}
		switch mode {
		case Local:
			start["redis"] = func(port int) error {
				_, err := redisProcess(ctx, must(findRedis()), port, Options{})
				return err
			}
			start["postgres"] = func(port int) error {
				_, err := postgresProcess(ctx, must(findPostgres()), port, Options{})
				return err
			}
			start["pgbouncer"] = func(port int) error {
				_, err := bouncerProcess(ctx, must(findPgBouncer()), port, db, Options{})
				return err
			}
		case Docker:
			e := must(dockerEngine())
			start["redis"] = func(port int) error {
				_, err := redisContainer(ctx, e, RedisImage, port, Options{})
				return err
			}
			start["pgbouncer"] = func(port int) error {
				_, err := bouncerContainer(ctx, e, PgBouncerImage, port, db, Options{})
				return err
			}
		}
		for name, start := range start {
			t.Run(string(mode)+"/"+name, func(t *testing.T) {
				t.Parallel()
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				err = start(l.Addr().(*net.TCPAddr).Port)
				if err == nil || !portTaken(err) {
					t.Errorf("not recognised: %v", err)
				}
			})
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestOnFreePortTriesAnotherPort(t *testing.T) {
	t.Parallel()
	taken := errors.New("bind: Address already in use")
	var ports []int
	got, err := onFreePort(func(port int) (int, error) {
		ports = append(ports, port)
		if len(ports) < 3 {
			return 0, taken
		}
		return port, nil
	})
	if err != nil || len(ports) != 3 || got != ports[2] {
		t.Errorf("got %d, %v after the ports %v", got, err, ports)
	}
	tries := 0
	if _, err := onFreePort(func(int) (int, error) { tries++; return 0, taken }); !errors.Is(err, taken) || tries != 5 {
		t.Errorf("always taken: %v after %d tries", err, tries)
	}
	tries = 0
	other := errors.New("disk full")
	if _, err := onFreePort(func(int) (int, error) { tries++; return 0, other }); !errors.Is(err, other) || tries != 1 {
		t.Errorf("another error: %v after %d tries", err, tries)
	}
}

func TestServerThatDoesNotStartSaysWhy(t *testing.T) {
	t.Parallel()
	for _, mode := range modes(t) {
		o := Options{Private: true, Mode: mode, Settings: []string{"no_such_setting=1"}}
		_, err := StartPostgres(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
			t.Errorf("%s: Postgres: %v", mode, err)
		}
		o.Settings = []string{"--no-such-setting", "1"}
		if _, err = StartRedis(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no-such-setting") {
			t.Errorf("%s: Redis: %v", mode, err)
		}
		o.Settings = []string{"no_such_setting = 1"}
		if _, err = StartPgBouncer(t.Context(), "postgres://u:p@127.0.0.1:1/d", o); err == nil || !strings.Contains(err.Error(), "no_such_setting") {
			t.Errorf("%s: PgBouncer: %v", mode, err)
		}
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := StartRedis(ctx, Options{Private: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", s, err)
	}
	// While it starts: the directory has to go again.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	l, err := newLocal("test", "", syscall.SIGKILL, "nobody")
	if err != nil {
		t.Fatal(err)
	}
	l.argv = []string{"/bin/sleep", "60"}
	err = startAndAwait(ctx, l, func(context.Context) error { cancel(); return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("got %v", err)
	}
	if err := l.stop(); err != nil || exists(l.dir) {
		t.Errorf("stop: %v, directory left: %v", err, exists(l.dir))
	}
}

func TestKilledServerStartsOnItsAddressWithItsData(t *testing.T) {
	t.Parallel()
	for _, mode := range modes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			s, err := StartPostgres(t.Context(), Options{Private: true, Mode: mode})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Stop(); err != nil {
					t.Error(err)
				}
			})
			if err := s.Start(); err == nil && mode == Local {
				t.Error("a running server was started again")
			}
			ctx := t.Context()
			exec := func(sql string) {
				t.Helper()
				c, err := pgx.Connect(ctx, s.URL)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close(ctx) //nolint:errcheck // the statement is done
				if _, err := c.Exec(ctx, sql); err != nil {
					t.Fatal(err)
				}
			}
			counts := func() string {
				c, err := pgx.Connect(ctx, s.URL)
				if err != nil {
					return err.Error()
				}
				defer c.Close(ctx) //nolint:errcheck // the query is done
				var scratch, durable int
				if err := c.QueryRow(ctx, "SELECT (SELECT count(*) FROM scratch), (SELECT count(*) FROM durable)").Scan(&scratch, &durable); err != nil {
					return err.Error()
				}
				return fmt.Sprint(scratch, durable)
			}
			exec("CREATE UNLOGGED TABLE scratch AS SELECT 1; CREATE TABLE durable AS SELECT 1")

			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			if _, _, err := askPostgres(ctx, s.URL); err == nil {
				t.Error("a killed server answers")
			}
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			if got := counts(); got != "0 1" {
				t.Errorf("rows after Kill: %s, want 0 1: UNLOGGED is emptied by a crash", got)
			}

			// One backend killed is a crash too, from which the server recovers alone.
			exec("INSERT INTO scratch VALUES (1)")
			victim, err := pgx.Connect(ctx, s.URL)
			if err != nil {
				t.Fatal(err)
			}
			var pid int
			if err := victim.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
				t.Fatal(err)
			}
			if err := s.KillBackend(pid); err != nil {
				t.Fatal(err)
			}
			eventually(t, "disconnected: the killed backend", func() bool { return victim.Ping(ctx) != nil })
			// The postmaster notices a moment later than the victim's client: until then a new connection
			// works, or breaks.
			eventually(t, "recovered, with the UNLOGGED table empty", func() bool { return counts() == "0 1" })
		})
	}
}

func TestTemplateServersAreApart(t *testing.T) {
	t.Parallel()
	template := new(PostgresTemplate)
	var urls []string
	for range 2 {
		s, err := StartPostgres(t.Context(), Options{Private: true, Mode: modes(t)[0], Template: template})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Stop() //nolint:errcheck // other tests check it
		urls = append(urls, s.URL)
	}
	if err := template.Close(); err != nil { // the servers do not need it any more
		t.Error(err)
	}
	for i, url := range urls {
		c, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exec(t.Context(), "CREATE DATABASE mine"); err != nil {
			t.Errorf("server %d: %v", i, err)
		}
		c.Close(t.Context()) //nolint:errcheck // the statement is done
	}
	if err := template.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenDirectories(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if open(inner) {
		t.Errorf("%s counts as open, and %s above it is closed", inner, dir)
	}
	if !open("/") || open(filepath.Join(dir, "missing")) {
		t.Error("/ is closed, or a missing directory open")
	}
}
