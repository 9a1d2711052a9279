//go:build unix

package servers

import (
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

const secret = "s3cr3t-w0rd"

// take does what the functions of this package do with a variable's value.
func take(t *testing.T, env, value string) (err error) {
	t.Helper()
	switch env {
	case EnvRedis:
		_, err = givenRedis(t.Context(), value)
	case EnvPostgres:
		_, err = givenPostgres(t.Context(), value)
	case EnvPgBouncer:
		_, err = givenPgBouncer(t.Context(), value)
	}
	return err
}

func TestUnreachableServerIsOneLineWithoutThePassword(t *testing.T) {
	t.Parallel()
	const closed = "127.0.0.1:1" // a free port of the ephemeral range may be taken a moment later
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() }) // connections are queued and never read
	silent := l.Addr().String()

	for _, c := range []struct{ env, url, host, database string }{
		{EnvRedis, "redis://me:" + secret + "@%s/3", closed, "database 3"},
		{EnvRedis, "redis://me:" + secret + "@%s/3", silent, "database 3"},
		{EnvPostgres, "postgres://me:" + secret + "@%s/orders?sslmode=disable", closed, "database orders"},
		{EnvPostgres, "postgres://me:" + secret + "@%s/orders?sslmode=prefer", silent, "database orders"},
		{EnvPgBouncer, "postgres://me:" + secret + "@%s/orders?sslmode=disable", closed, "database orders"},
	} {
		t.Run(c.env+" at "+c.host, func(t *testing.T) {
			t.Parallel()
			answer := make(chan error, 1)
			go func() { answer <- take(t, c.env, strings.Replace(c.url, "%s", c.host, 1)) }()
			var err error
			select {
			case err = <-answer:
			case <-time.After(10 * ReachTimeout):
				t.Fatal("it hangs")
			}
			var unreachable *UnreachableError
			if !errors.As(err, &unreachable) {
				t.Fatalf("got %v, want an UnreachableError", err)
			}
			text := err.Error()
			for _, want := range []string{c.env, c.host, c.database, "unset"} {
				if !strings.Contains(text, want) {
					t.Errorf("the error lacks %q: %s", want, text)
				}
			}
			if strings.Contains(text, secret) || strings.Contains(text, "\n") {
				t.Errorf("more than a line, or the password: %s", text)
			}
		})
	}
}

// Servers of the environment are used, described and left alone.
func TestGivenServersAreUsedAndLeftAlone(t *testing.T) {
	own, err := StartSet(t.Context(), SetOptions{Options: Options{Private: true, Mode: modes(t)[0]}, PgBouncer: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := own.Stop(); err != nil {
			t.Error(err)
		}
	}()
	for _, v := range own.Env() {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	given, err := StartSet(t.Context(), SetOptions{PgBouncer: true})
	if err != nil {
		t.Fatal(err)
	}
	if given.Redis.URL != own.Redis.URL || given.Postgres.URL != own.Postgres.URL || given.PgBouncer.URL != own.PgBouncer.URL {
		t.Error("other servers were taken than those given")
	}
	if given.Redis.Version != own.Redis.Version || given.Postgres.Version != own.Postgres.Version {
		t.Errorf("versions %s and %s, want %s and %s", given.Redis.Version, given.Postgres.Version, own.Redis.Version, own.Postgres.Version)
	}
	chosen := strings.Join(append(given.Chosen(), own.Chosen()...), "\n")
	for _, want := range []string{EnvRedis, EnvPostgres, EnvPgBouncer, "PostgreSQL " + own.Postgres.Version, "Redis " + own.Redis.Version} {
		if !strings.Contains(chosen, want) {
			t.Errorf("Chosen lacks %q: %s", want, chosen)
		}
	}
	for _, raw := range []string{own.Redis.URL, own.Postgres.URL} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal("unreadable URL")
		}
		if password, _ := u.User.Password(); password == "" || strings.Contains(chosen, password) {
			t.Error("no password, or one that Chosen prints")
		}
	}
	if given.Redis.Kill() == nil || given.Postgres.Kill() == nil || given.Postgres.KillBackend(os.Getpid()) == nil || given.Redis.Start() == nil {
		t.Error("a server of the environment could be killed")
	}
	if err := given.Stop(); err != nil {
		t.Error(err)
	}
	if _, _, err := askRedis(t.Context(), own.Redis.URL); err != nil {
		t.Errorf("Stop of a given Redis stopped it: %v", err)
	}
	if _, _, err := askPostgres(t.Context(), own.Postgres.URL); err != nil {
		t.Errorf("Stop of a given Postgres stopped it: %v", err)
	}
	if _, err := askPgBouncer(t.Context(), own.PgBouncer.URL); err != nil {
		t.Errorf("Stop of a given PgBouncer stopped it: %v", err)
	}

	// A wrong password and a missing database are named, not worked around.
	u, err := url.Parse(own.Postgres.URL)
	if err != nil {
		t.Fatal("unreadable URL")
	}
	u.User = url.UserPassword(superuser, secret)
	if err := take(t, EnvPostgres, u.String()); err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "the password: correct DATABASE_URL") {
		t.Errorf("with a wrong password: got %v, want an error that names it", err)
	}
	missing, err := WithDatabase(own.Postgres.URL, "no_such_database")
	if err != nil {
		t.Fatal(err)
	}
	if err := take(t, EnvPostgres, missing); err == nil || !strings.Contains(err.Error(), "createdb no_such_database") {
		t.Errorf("with a missing database: %v", err)
	}
}

func TestPrivateIgnoresTheEnvironment(t *testing.T) {
	t.Setenv(EnvRedis, "redis://127.0.0.1:1/0")
	s, err := StartRedis(t.Context(), Options{Private: true, Mode: modes(t)[0]})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

func TestWithDatabase(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"postgres://u:p@h:5/a?sslmode=disable": "postgres://u:p@h:5/b?sslmode=disable",
		"host=h dbname=a":                      "host=h dbname=a dbname=b",
	} {
		if got, err := WithDatabase(in, "b"); err != nil || got != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
	if _, err := WithDatabase("postgres://u:"+secret+"@h:port/a", "b"); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("a bad URL: %v", err)
	}
}
