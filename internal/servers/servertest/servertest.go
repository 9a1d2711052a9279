package servertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers"
	"github.com/headrace/headrace/internal/servers/container/dockertestengine"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"
	"go.uber.org/goleak"
)

// Main is for TestMain. It runs the tests, stops the servers that were started for them, fails the
// run if a goroutine was left behind, and exits.
func Main(m *testing.M) { MainAfter(m, func() {}) }

// leaked returns an error about goroutines that stay. Some end a while after what they were for: a
// blocking read of a shard within the poll interval of its queue.
func leaked() (err error) {
	for range 10 { // a round takes half a second
		if err = goleak.Find(); err == nil {
			return nil
		}
	}
	return err
}

// MainAfter is Main with a clean-up after the last test.
func MainAfter(m *testing.M, cleanup func()) {
	code := m.Run()
	cleanup()
	if err := stopAll(); err != nil {
		fmt.Fprintln(os.Stderr, "servertest:", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := leaked(); err != nil {
			fmt.Fprintln(os.Stderr, "servertest: a test left something running:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// toStop holds what the process has started and Main stops, last first.
var toStop struct {
	sync.Mutex
	all []func() error
}

func atExit(stop func() error) {
	toStop.Lock()
	defer toStop.Unlock()
	toStop.all = append(toStop.all, stop)
}

func stopAll() error {
	toStop.Lock()
	all := toStop.all
	toStop.all = nil
	toStop.Unlock()
	var errs []error
	for _, stop := range slices.Backward(all) {
		errs = append(errs, stop())
	}
	return errors.Join(errs...)
}

// The shared servers, each found or started once in the process.
var (
	sharedRedis = sync.OnceValues(func() (*servers.RedisServer, error) {
		s, err := servers.StartRedis(context.Background(), servers.Options{})
		if err == nil {
			atExit(s.Stop)
		}
		return s, err
	})
	sharedPostgres = sync.OnceValues(func() (*servers.PostgresServer, error) {
		s, err := servers.StartPostgres(context.Background(), servers.Options{Settings: servers.SharedPostgres, InMemory: true})
		if err == nil {
			atExit(s.Stop)
		}
		return s, err
	})
)

// template is shared by all the private Postgres servers of the process.
var template = sync.OnceValue(func() *servers.PostgresTemplate {
	t := new(servers.PostgresTemplate)
	atExit(t.Close)
	return t
})

// Redis returns a new client on the shared Redis, closed at the end of the test.
func Redis(t testing.TB) rueidis.Client {
	t.Helper()
	return redisServer(t).Client(t)
}

// RedisURL returns the URL of the shared Redis.
func RedisURL(t testing.TB) string {
	t.Helper()
	return redisServer(t).URL
}

func redisServer(t testing.TB) *servers.RedisServer {
	t.Helper()
	s, err := sharedRedis()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Miniredis returns a client on a miniredis of its own, whose clock runs.
func Miniredis(t testing.TB) rueidis.Client {
	t.Helper()
	s, err := servers.StartMiniredis()
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, s.Stop)
	return s.Client(t)
}

// OwnRedis starts a Redis for this test alone, which may kill it. Its arguments are those of
// redis-server, each word one argument: "--maxmemory", "20mb". Without any it keeps an append-only
// file, synced every second, and never evicts.
func OwnRedis(t testing.TB, args ...string) *servers.RedisServer {
	t.Helper()
	s, err := servers.StartRedis(t.Context(), servers.Options{Private: true, Settings: args})
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, s.Stop)
	return s
}

// OwnPostgres starts a Postgres for this test alone, which may kill it. Its settings are
// "name=value".
func OwnPostgres(t testing.TB, settings ...string) *servers.PostgresServer {
	t.Helper()
	s, err := servers.StartPostgres(t.Context(), servers.Options{Private: true, Settings: settings, Template: template()})
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, s.Stop)
	return s
}

// PgBouncer returns the URL of a database through a PgBouncer in transaction mode. It is the one of
// PGBOUNCER_URL, if that pools DATABASE_URL's server and the database is there too;
// otherwise, or when the test has settings ("name=value" of the section [pgbouncer]), one is
// started for this test.
func PgBouncer(t testing.TB, databaseURL string, settings ...string) string {
	t.Helper()
	if shared := os.Getenv(servers.EnvPgBouncer); shared != "" && len(settings) == 0 && onSharedServer(databaseURL) {
		db, err := pgx.ParseConfig(databaseURL)
		if err != nil {
			t.Fatal("the database URL cannot be read") // the error repeats it, password and all
		}
		url, err := servers.WithDatabase(shared, db.Database)
		if err != nil {
			t.Fatal(err)
		}
		return url
	}
	s, err := servers.StartPgBouncer(t.Context(), databaseURL, servers.Options{Private: true, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	stopAfter(t, s.Stop)
	return s.URL
}

// onSharedServer reports whether a database is one of DATABASE_URL's server.
func onSharedServer(databaseURL string) bool {
	shared, err1 := pgx.ParseConfig(os.Getenv(servers.EnvPostgres))
	db, err2 := pgx.ParseConfig(databaseURL)
	return os.Getenv(servers.EnvPostgres) != "" && err1 == nil && err2 == nil &&
		shared.Host == db.Host && shared.Port == db.Port && shared.User == db.User
}

// Postgres returns a pool on a new, empty database of the shared Postgres. Both go at the end of
// the test.
func Postgres(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return poolOn(t, PostgresURL(t))
}

func poolOn(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePool(t, pool) })
	return pool
}

// closePool closes a pool whose connections should all be back. Close waits for them, and a test
// that keeps one would hang forever.
func closePool(t testing.TB, pool *pgxpool.Pool) {
	closed := make(chan struct{})
	go func() {
		pool.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Errorf("the test ended with %d connections of its pool in use", pool.Stat().AcquiredConns())
	}
}

// PostgresURL makes a new, empty database on the shared Postgres and returns its URL. The database
// is dropped at the end of the test, even while connections are open. With [EnvHostile] it has
// hostile defaults.
func PostgresURL(t testing.TB) string {
	t.Helper()
	return postgresURL(t, false)
}

// UTF8Postgres is like [Postgres] for a test whose texts or names need UTF-8: with [EnvHostile] too
// the database has that encoding.
func UTF8Postgres(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return poolOn(t, postgresURL(t, true))
}

func postgresURL(t testing.TB, utf8 bool) string {
	t.Helper()
	s, err := sharedPostgres()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ReplaceAll(unique(t), "-", "_")
	ident := pgx.Identifier{name}.Sanitize()
	create, isolation := "ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C'", ""
	if Hostile() {
		create, isolation = hostileKind(t, utf8)
	}
	if err := admin(s, "CREATE DATABASE "+ident+" TEMPLATE template0 "+create); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin(s, "DROP DATABASE IF EXISTS "+ident+" WITH (FORCE)"); err != nil {
			t.Errorf("%s: %v", s.Chosen, err)
		}
	})
	if isolation != "" {
		if err := setHostile(s, ident, isolation); err != nil {
			t.Fatal(err)
		}
	}
	url, err := servers.WithDatabase(s.URL, name)
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// admin runs one statement on a connection of its own. It does not use the test's context, which
// has ended by the time of the clean-up.
func admin(s *servers.PostgresServer, sql string) error {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		return err
	}
	defer c.Close(ctx) //nolint:errcheck // the statement is done
	_, err = c.Exec(ctx, sql)
	return err
}

// Prefix returns a name that no other test has, of [a-z0-9-], for queues, windows and whatever else
// makes keys. At the end of the test the keys of the shared Redis that hold it are deleted.
func Prefix(t testing.TB) string {
	t.Helper()
	name := unique(t)
	t.Cleanup(func() {
		s, err := sharedRedis()
		if err != nil {
			return
		}
		if err := deleteKeys(s, name); err != nil {
			t.Errorf("%s: %v", s.Chosen, err)
		}
	})
	return name
}

func deleteKeys(s *servers.RedisServer, name string) error {
	opt, err := rueidis.ParseURL(s.URL)
	if err != nil {
		return errors.New("its URL cannot be read")
	}
	opt.DisableCache = true
	c, err := rueidis.NewClient(opt)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx := context.Background()
	var cursor uint64
	for {
		page, err := c.Do(ctx, c.B().Scan().Cursor(cursor).Match("*"+name+"*").Count(1000).Build()).AsScanEntry()
		if err != nil {
			return err
		}
		for _, key := range page.Elements {
			if err := c.Do(ctx, c.B().Unlink().Key(key).Build()).Error(); err != nil {
				return err
			}
		}
		if cursor = page.Cursor; cursor == 0 {
			return nil
		}
	}
}

// unique makes a name from the test's, short enough for a Postgres identifier.
func unique(t testing.TB) string {
	var b strings.Builder
	for _, c := range strings.ToLower(t.Name()) {
		if b.Len() == 30 {
			break
		}
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteRune(c)
		}
	}
	return b.String() + "-" + strings.ToLower(rand.Text()[:12])
}

func stopAfter(t testing.TB, stop func() error) {
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stopping a server: %v", err)
		}
	})
}

// Tests drive Docker through dockertest; the programs use the docker command.
func init() { servers.UseEngine(dockertestengine.Find) }
