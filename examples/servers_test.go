package examples_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/internal/servers"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// stores are a Redis and a Postgres that only one test uses.
type stores struct {
	redis *servers.RedisServer
	pg    *servers.PostgresServer
}

func own(t *testing.T) stores {
	t.Helper()
	return stores{servertest.OwnRedis(t), servertest.OwnPostgres(t)}
}

// env is how a program finds them.
func (s stores) env() []string { return env(s.redis.URL, s.pg.URL) }

func env(redis, postgres string) []string {
	return []string{"REDIS_URL=" + redis, "DATABASE_URL=" + postgres}
}

func execute(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func one[V any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (v V) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func text(t *testing.T, c rueidis.Client, args ...string) []string {
	t.Helper()
	list, err := c.Do(t.Context(), c.B().Arbitrary(args...).Build()).AsStrSlice()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return list
}

// leftovers lists the databases and keys of demos.
func (s stores) leftovers(t *testing.T) []string {
	t.Helper()
	left := text(t, s.redis.Client(t), "KEYS", "*")
	pool := s.pg.Pool(t)
	rows, err := pool.Query(t.Context(), "SELECT datname FROM pg_database WHERE datname LIKE 'headrace%'")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return append(left, names...)
}

// However a demo on given servers ends, it leaves no database and no key behind.
func TestDemoLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := own(t)
	redis := s.redis.Client(t)
	t.Run("output closed", func(t *testing.T) {
		cmd := command(t, "demo", s.env(), "-orders", "1000000")
		stderr := newLines()
		cmd.Stderr = stderr
		if line := firstLine(t, cmd); !strings.HasPrefix(line, "servers") {
			t.Errorf("the first line is %q, want the servers", line)
		}
		_ = cmd.Wait() // the exit code is checked
		if code := cmd.ProcessState.ExitCode(); code != 128+int(syscall.SIGPIPE) || stderr.text() != "" {
			t.Errorf("exit code %d, standard error %q; want %d and nothing", code, stderr.text(), 128+int(syscall.SIGPIPE))
		}
		if left := s.leftovers(t); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	for sig, want := range map[syscall.Signal]string{syscall.SIGHUP: "", syscall.SIGTERM: "demo: terminated\n", syscall.SIGINT: "interrupted\n"} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := command(t, "demo", s.env(), "-orders", "1000000")
			stderr := newLines()
			cmd.Stderr = stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the demo is in the middle of its work", func() bool { return len(text(t, redis, "KEYS", "*:ready")) > 0 })
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // the exit code is checked
			if code := cmd.ProcessState.ExitCode(); code != 128+int(sig) || !strings.HasSuffix(stderr.text(), want) {
				t.Errorf("exit code %d, standard error %q; want %d and %q", code, stderr.text(), 128+int(sig), want)
			}
			if left := s.leftovers(t); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A server that cannot be used: one line with host and database, what to do, no password, exit code
// 1.
func TestServersThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	redis, pg := servertest.RedisURL(t), servertest.PostgresURL(t)
	const secret = "s3cr3t"
	wrong := func(raw string, change func(*url.URL)) string {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal("unreadable URL")
		}
		change(u)
		return u.String()
	}
	password := func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), secret) }
	const closed = "127.0.0.1:1"
	for name, c := range map[string]struct {
		env  []string
		want []string
		only string // a program that needs no Postgres is left out
	}{
		"Redis is down":             {env: env("redis://:"+secret+"@"+closed+"/0", pg), want: []string{"Redis at " + closed, "does not answer: start it or correct REDIS_URL"}},
		"Postgres is down":          {env: env(redis, "postgres://me:"+secret+"@"+closed+"/shop"), want: []string{"Postgres at " + closed, "shop", "start it or correct DATABASE_URL"}, only: "postgres"},
		"no Redis URL":              {env: env("", pg), want: []string{"set REDIS_URL"}, only: "not demo"},
		"no Postgres URL":           {env: env(redis, ""), want: []string{"set DATABASE_URL"}, only: "postgres, not demo"},
		"nonsense for Redis":        {env: env("redis://:"+secret+"@host:port/0", pg), want: []string{"REDIS_URL is not a valid URL"}},
		"nonsense for Postgres":     {env: env(redis, "postgres://me:"+secret+"@host:port/shop"), want: []string{"cannot use DATABASE_URL: invalid port"}, only: "postgres"},
		"no such Redis database":    {env: env(wrong(redis, func(u *url.URL) { u.Path = "/4096" }), pg), want: []string{"does not have that database: correct REDIS_URL"}},
		"wrong password, Redis":     {env: env(wrong(redis, password), pg), want: []string{"the password: correct REDIS_URL"}},
		"wrong password, Postgres":  {env: env(redis, wrong(pg, password)), want: []string{"the password: correct DATABASE_URL"}, only: "postgres"},
		"no such database":          {env: env(redis, wrong(pg, func(u *url.URL) { u.Path = "/nowhere" })), want: []string{"createdb nowhere"}, only: "postgres"},
		"no such host for Postgres": {env: env(redis, "postgres://me:"+secret+"@host.invalid/shop"), want: []string{"host name is unknown: correct DATABASE_URL"}, only: "postgres"},
	} {
		for _, program := range programs[:5] {
			if program == "producer" && strings.Contains(c.only, "postgres") || program == "demo" && strings.Contains(c.only, "not demo") {
				continue
			}
			t.Run(name+"/"+program, func(t *testing.T) {
				t.Parallel()
				r := run(t, program, c.env)
				if r.code != 1 || strings.Count(r.err, "\n") != 1 || strings.Contains(r.err, secret) {
					t.Errorf("exit code %d, standard error %q; want 1 and one line without the password", r.code, r.err)
				}
				for _, want := range c.want {
					if !strings.Contains(r.err, want) {
						t.Errorf("standard error %q lacks %q", r.err, want)
					}
				}
			})
		}
	}
}

// A server that is starting up is waited for, and the program reports it.
func TestProgramsWaitForServersThatStart(t *testing.T) {
	t.Parallel()
	s := own(t)
	fatal := func(code, message string) []byte {
		fields := fmt.Sprintf("SFATAL\x00VFATAL\x00C%s\x00M%s\x00\x00", code, message)
		return append(binary.BigEndian.AppendUint32([]byte{'E'}, uint32(len(fields)+4)), fields...)
	}
	t.Run("Postgres", func(t *testing.T) {
		p := startingUp(t, s.pg.URL, 3, fatal("57P03", "the database system is starting up"))
		r := run(t, "stats", env(s.redis.URL, p))
		want := "is starting up; waiting (the database system is starting up, SQLSTATE 57P03)\n"
		if r.code != 0 || strings.Count(r.err, want) != 1 || !strings.Contains(r.err, "is ready\n") {
			t.Errorf("exit code %d, standard error:\n%s\nwant 0, one line %q and one when it is ready", r.code, r.err, want)
		}
	})
	t.Run("Redis", func(t *testing.T) {
		slow := servertest.OwnRedis(t, "--key-load-delay", "100", "--appendfsync", "always") // microseconds a key
		c := slow.Client(t)
		cmds := make(rueidis.Commands, 40_000)
		for i := range cmds {
			cmds[i] = c.B().Set().Key(fmt.Sprint(i)).Value("x").Build()
		}
		for _, r := range c.DoMulti(t.Context(), cmds...) {
			if err := r.Error(); err != nil {
				t.Fatal(err)
			}
		}
		if err := slow.Kill(); err != nil {
			t.Fatal(err)
		}
		started := make(chan error, 1)
		go func() { started <- slow.Start() }() // returns when the data is loaded
		eventually(t, "Redis loads its data", func() bool {
			err := c.Do(t.Context(), c.B().Arbitrary("PING").Build()).Error()
			return err != nil && strings.HasPrefix(err.Error(), "LOADING")
		})
		r := run(t, "producer", env(slow.URL, ""), "-orders", "10")
		if r.code != 0 || strings.Count(r.err, "is starting up; waiting (") != 1 || !strings.Contains(r.err, "is ready\n") {
			t.Errorf("exit code %d, standard error:\n%s\nwant 0, one line that it waits and one when it is ready", r.code, r.err)
		}
		if err := <-started; err != nil {
			t.Error(err)
		}
	})
}

// startingUp is a proxy before the server of a URL. It answers the first connections with an error,
// as a server does that is starting up. It returns the URL that leads through it.
func startingUp(t *testing.T, raw string, refusals int32, answer []byte) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal("unreadable URL")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close() })
	server := u.Host
	var n atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close() //nolint:errcheck // the client sees it
				if n.Add(1) <= refusals {
					_, _ = c.Read(make([]byte, 4096)) // the client's first message
					_, _ = c.Write(answer)
					return
				}
				s, err := net.Dial("tcp", server)
				if err != nil {
					return
				}
				defer s.Close() //nolint:errcheck // the client sees it
				defer context.AfterFunc(ctx, func() { _, _ = c.Close(), s.Close() })()
				go func() { _, _ = io.Copy(s, c); _ = s.Close() }()
				_, _ = io.Copy(c, s)
			}()
		}
	}()
	u.Host = l.Addr().String()
	return u.String()
}

// stats runs no DDL and needs no privilege but reading, on an empty database and on one with a
// pipeline. It exits with 1 and names the line if the books do not balance.
func TestStatsOnlyReads(t *testing.T) {
	t.Parallel()
	s := own(t)
	pool := s.pg.Pool(t)
	execute(t, pool, "CREATE ROLE reader LOGIN PASSWORD 'reader'; ALTER ROLE reader SET default_transaction_read_only = on; GRANT pg_read_all_data TO reader; REVOKE CREATE, TEMPORARY ON DATABASE postgres FROM PUBLIC")
	u, err := url.Parse(s.pg.URL)
	if err != nil {
		t.Fatal("unreadable URL")
	}
	u.User = url.UserPassword("reader", "reader")
	reader := env(s.redis.URL, u.String())
	relations := func() int {
		return one[int](t, pool, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
	}

	r := run(t, "stats", reader)
	if r.code != 0 || !strings.Contains(r.out, "not created yet") || !strings.Contains(r.out, "balanced") {
		t.Errorf("on an empty database: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	if n := relations(); n != 0 {
		t.Errorf("stats created %d relations", n)
	}

	if r := run(t, "producer", s.env(), "-orders", "1000"); r.code != 0 {
		t.Fatalf("producer: exit code %d\n%s", r.code, r.err)
	}
	worker, promoter := start(t, "worker", s.env(), "-batch", "100"), start(t, "promoter", s.env())
	c := s.redis.Client(t)
	eventually(t, "all records are acknowledged", func() bool {
		return strings.Join(text(t, c, "HMGET", "{orders}:queue:stat", "acked"), "") == "1000"
	})
	for _, p := range []*process{worker, promoter} {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if r := p.wait(); r.code != 0 {
			t.Errorf("%v after SIGTERM: exit code %d\n%s", p.cmd.Args, r.code, r.err)
		}
	}

	before := relations()
	r = run(t, "stats", reader)
	for _, want := range []string{"balanced", "taken 1000 = acked 1000", "records 1000 =", "sales_hourly"} {
		if r.code != 0 || !strings.Contains(strings.Join(strings.Fields(r.out), " "), want) {
			t.Errorf("exit code %d, the output lacks %q:\n%s%s", r.code, want, r.out, r.err)
		}
	}
	for _, line := range strings.Split(r.out, "\n") {
		if len(line) > 80 {
			t.Errorf("a line of %d columns: %s", len(line), line)
		}
	}
	if n := relations(); n != before {
		t.Errorf("stats changed the number of relations from %d to %d", before, n)
	}
	execute(t, pool, "UPDATE orders_ledger SET kept = kept - 7 WHERE id = (SELECT id FROM orders_ledger ORDER BY id LIMIT 1)")
	r = run(t, "stats", reader)
	if r.code != 1 || !strings.Contains(r.out, "NOT BALANCED") || !strings.Contains(r.err, "Postgres is off by 7") {
		t.Errorf("with books that are off: exit code %d\n%s%s\nwant 1 and the line that is off", r.code, r.out, r.err)
	}
}

// A producer needs no Postgres. It reports that it waits at the closed gate, and survives a crash
// of Redis while it waits.
func TestProducerWaitsForRoomAndForRedis(t *testing.T) {
	t.Parallel()
	redis := servertest.OwnRedis(t, "--appendfsync", "always")
	c := redis.Client(t)
	const depth = 3000
	if err := c.Do(t.Context(), c.B().Lpush().Key("{orders}:ready").Element(slices.Repeat([]string{"x"}, depth)...).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	p := start(t, "producer", env(redis.URL, ""), "-orders", "2000", "-bad", "0", "-duplicates", "0", "-depth", "3000")
	p.reports("the queue is full (records: 3000, the limit is 3000); waiting for the workers")
	if err := redis.Kill(); err != nil {
		t.Fatal(err)
	}
	p.reports("Redis does not accept the push; trying again")
	if err := redis.Start(); err != nil {
		t.Fatal(err)
	}
	c = redis.Client(t) // the connections of the old one are dead
	if err := c.Do(t.Context(), c.B().Ltrim().Key("{orders}:ready").Start(1).Stop(0).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	r := p.wait()
	if r.code != 0 || !strings.Contains(r.out, "pushed 2000 orders") || !strings.Contains(r.err, "Redis accepts pushes again") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
	seen := make(map[string]bool)
	for _, payload := range text(t, redis.Client(t), "LRANGE", "{orders}:ready", "0", "-1") {
		o, err := orders.Decode([]byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		seen[o.ID] = true
	}
	if len(seen) != 2000 {
		t.Errorf("%d distinct orders are in the queue, want 2000", len(seen))
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	servertest.Eventually(t, what, ok)
}
