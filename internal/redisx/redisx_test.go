package redisx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
)

func TestMain(m *testing.M) { servertest.Main(m) }

func open(t *testing.T, c rueidis.Client) *Server {
	t.Helper()
	s, err := Open(t.Context(), c, "{"+servertest.Prefix(t)+"}:never")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refusal returns the error that the client makes of an error reply.
func refusal(t *testing.T, c rueidis.Client, text string) error {
	t.Helper()
	err := c.Do(t.Context(), c.B().Eval().Script("return redis.error_reply(ARGV[1])").Numkeys(0).Arg(text).Build()).Error()
	if err == nil || !strings.HasPrefix(err.Error(), text) {
		t.Fatalf("got error %v, want %q", err, text)
	}
	return err
}

func TestRefused(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	for _, text := range []string{
		"TRYAGAIN Multiple keys request during rehashing of slot", "CLUSTERDOWN The cluster is down", "LOADING Redis is loading the dataset in memory",
		"MASTERDOWN Link with MASTER is down", "READONLY You can't write against a read only replica.", "UNBLOCKED force unblock from blocking operation",
		"BUSY Redis is busy running a script.", "MISCONF Redis is configured to save RDB snapshots", "NOREPLICAS Not enough good replicas to write.",
		"MOVED 1 127.0.0.1:1", "ASK 1 127.0.0.1:1",
		"Script attempted to execute a write command while the cluster is down and readonly script: f00, on @user_script:1.",
		"Can not execute a write command 'hset' while the cluster is down and readonly script: on @user_script:1.",
	} {
		if err := refusal(t, c, text); !Refused(err) {
			t.Errorf("Refused(%v) = false, want true", err)
		}
	}
	for _, text := range []string{"OOM command not allowed", "WRONGTYPE Operation against a key", "NOPERM this user has no permissions", "BUSYGROUP exists"} {
		if err := refusal(t, c, text); Refused(err) {
			t.Errorf("Refused(%v) = true, want false", err)
		}
	}
	for err, want := range map[error]bool{nil: false, rueidis.ErrNoSlot: true, errors.New("LOADING of our own"): false, context.Canceled: false} {
		if got := Refused(err); got != want {
			t.Errorf("Refused(%v) = %v, want %v", err, got, want)
		}
	}
}

// A missing right is recognized, whether a command lacks it or a script, in the words of each
// server.
func TestNoPermission(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	admin := own.Client(t)
	must(t, admin.Do(t.Context(), admin.B().Arbitrary("ACL", "SETUSER", "reader", "reset", "on", ">secret", "~mine:*", "+@all", "-set").Build()).Error())
	o := redisxtest.Options(t, own.URL)
	o.Username, o.Password, o.DisableCache = "reader", "secret", true
	c, err := rueidis.NewClient(o)
	must(t, err)
	t.Cleanup(c.Close)
	for what, args := range map[string][]string{
		"a command":             {"SET", "mine:x", "1"},
		"a key":                 {"GET", "other:x"},
		"a command in a script": {"EVAL", "return redis.call('SET', KEYS[1], 1)", "1", "mine:x"},
		"a key in a script":     {"EVAL", "return redis.call('GET', 'other:x')", "1", "mine:x"},
	} {
		if err := c.Do(t.Context(), c.B().Arbitrary(args...).Build()).Error(); !NoPermission(err) {
			t.Errorf("%s: NoPermission(%v) = false, want true", what, err)
		}
	}
	for _, args := range [][]string{{"GET", "mine:x"}, {"EVAL", "return redis.call('LLEN', KEYS[1]) + redis.call('HSET', KEYS[1])", "1", "mine:x"}} {
		if err := c.Do(t.Context(), c.B().Arbitrary(args...).Build()).Error(); NoPermission(err) {
			t.Errorf("%v: NoPermission(%v) = true, want false", args, err)
		}
	}
}

// The error of a script names the command that the server does not have, or that the user may not
// run, also where a function of the script runs it.
func TestMissingCommandIsNamed(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t, "--rename-command", "HMGET", "")
	admin := own.Client(t)
	must(t, admin.Do(t.Context(), admin.B().Arbitrary("ACL", "SETUSER", "reader", "reset", "on", ">secret", "~*", "+@all", "-zcard", "-llen").Build()).Error())
	o := redisxtest.Options(t, own.URL)
	o.Username, o.Password, o.DisableCache = "reader", "secret", true
	reader, err := rueidis.NewClient(o)
	must(t, err)
	t.Cleanup(reader.Close)
	for body, want := range map[string]string{
		"redis.call('GET', KEYS[1])\nreturn redis.call('HMGET', KEYS[1], 'a')":                    "'HMGET'",
		"local function call(...) return redis.call(...) end\nreturn call('HMGET', KEYS[1], 'a')": "'HMGET'",
		"redis.call('GET', KEYS[1])\nreturn redis.call('ZCARD', KEYS[1])":                         "'zcard'",
		"return redis.call('NOSUCH', KEYS[1])":                                                    "'NOSUCH'",
	} {
		s := open(t, reader)
		call := Call{Script: NewScript(body), Keys: []string{s.guard}}
		for what, r := range map[string]rueidis.RedisResult{"Run": s.Run(t.Context(), call), "Once": s.Once(t.Context(), call, nil)[0]} {
			if err := r.Error(); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) || strings.Contains(strings.ToLower(err.Error()), "'llen'") {
				t.Errorf("%s of %q: got %v, want an error that names %s", what, body, err, want)
			}
		}
	}
}

// A server at maxmemory is recognized, whether it refuses a command or one of a script.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t).Client(t)
	must(t, c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error())
	for _, args := range [][]string{{"SET", "k", "v"}, {"EVAL", "return redis.call('SET', KEYS[1], 1)", "1", "k"}} {
		if err := c.Do(t.Context(), c.B().Arbitrary(args...).Build()).Error(); !OutOfMemory(err) {
			t.Errorf("%v: OutOfMemory(%v) = false, want true", args, err)
		}
	}
	for _, err := range []error{nil, errors.New("OOM of our own"), refusal(t, c, "MISCONF x")} {
		if OutOfMemory(err) {
			t.Errorf("OutOfMemory(%v) = true, want false", err)
		}
	}
}

// The clock of these is virtual: pauses only add up.
func TestRetryEnds(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	for text, limit := range map[string]time.Duration{"TRYAGAIN x": patience, "MISCONF x": shortPatience, "OOM x": 0} {
		s := open(t, c)
		var now time.Time
		tries := 0
		s.now = func() time.Time { return now }
		s.sleep = func(_ context.Context, d time.Duration) bool { now = now.Add(d); return true }
		want := refusal(t, c, text)
		got := s.Retry(t.Context(), func() error { tries++; return want })
		waited := now.Sub(time.Time{})
		if !errors.Is(got, want) || waited < limit || waited > limit+2*maxPause || (tries == 1) != (limit == 0) {
			t.Errorf("%s: got error %v after %v and %d tries, want %v after %v", text, got, waited, tries, want, limit)
		}
	}
}

func TestRetryStopsWithItsContext(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	s := open(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	want := refusal(t, c, "LOADING x")
	tries := 0
	if got := s.Retry(ctx, func() error {
		if tries++; tries == 3 {
			cancel()
		}
		return want
	}); !errors.Is(got, want) || tries != 3 {
		t.Errorf("got error %v after %d tries, want %v after 3", got, tries, want)
	}
}

func TestScriptRunsKnownOrNot(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := open(t, c)
		for _, oom := range []bool{false, true} {
			call := Call{Script: NewScript("local x = ARGV[1]\n", "return {x, '"+servertest.Prefix(t)+"'}"), Keys: []string{s.guard}, Args: []string{"a"}, AllowOOM: oom}
			for range 2 { // the second one by its hash
				got, err := s.Run(t.Context(), call).AsStrSlice()
				if err != nil || len(got) != 2 || got[0] != "a" {
					t.Errorf("allow-oom %v: got %q, %v, want [a …]", oom, got, err)
				}
			}
		}
		r := s.Once(t.Context(), Call{Script: NewScript("return 7 -- " + s.guard), Keys: []string{s.guard}}, func() []rueidis.Completed {
			return []rueidis.Completed{s.Command("EXISTS", s.guard)}
		})
		if n, err := r[0].AsInt64(); n != 7 || err != nil {
			t.Errorf("script: got %d, %v, want 7", n, err)
		}
		if n, err := r[1].AsInt64(); n != 0 || err != nil {
			t.Errorf("the command after it: got %d, %v, want 0", n, err)
		}
	})
}

// Scripts run by their text where EVALSHA was renamed or is not permitted, and after the first one
// with no refused command before them.
func TestScriptsWithoutEvalsha(t *testing.T) {
	t.Parallel()
	renamed, denied := servertest.OwnRedis(t, "--rename-command", "EVALSHA", "secret-evalsha"), servertest.OwnRedis(t)
	admin := denied.Client(t)
	must(t, admin.Do(t.Context(), admin.B().Arbitrary("ACL", "SETUSER", "default", "-evalsha").Build()).Error())
	for what, url := range map[string]string{"renamed": renamed.URL, "not permitted": denied.URL} {
		o := redisxtest.Options(t, url)
		o.ClientSetInfo = rueidis.DisableClientSetInfo // Redis 7.0 refuses it, on each connection
		c, err := rueidis.NewClient(o)
		must(t, err)
		t.Cleanup(c.Close)
		s := open(t, c)
		must(t, c.Do(t.Context(), c.B().Arbitrary("CONFIG", "RESETSTAT").Build()).Error())
		for i := range int64(3) {
			call := Call{Script: NewScript("return redis.call('INCR', KEYS[2])"), Keys: []string{s.guard, s.guard + "2"}}
			if n, err := s.Run(t.Context(), call).AsInt64(); n != i+1 || err != nil {
				t.Errorf("%s: got %d, %v, want %d", what, n, err, i+1)
			}
		}
		stats, err := c.Do(t.Context(), c.B().Info().Section("stats").Build()).ToString()
		must(t, err)
		if got := infoField(stats, "total_error_replies"); got != "1" {
			t.Errorf("%s: got %s refused commands, want 1", what, got)
		}
	}
}

// A user who has lost its rights for a moment gets scripts by their hash again.
func TestScriptsAfterRightsWereAway(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t).Client(t)
	s := open(t, c)
	do := func(args ...string) rueidis.RedisResult { return c.Do(t.Context(), c.B().Arbitrary(args...).Build()) }
	call := Call{Script: NewScript("return 1"), Keys: []string{s.guard}}
	must(t, s.Run(t.Context(), call).Error())
	must(t, do("ACL", "SETUSER", "default", "-evalsha", "-eval").Error())
	if err := s.Run(t.Context(), call).Error(); !NoPermission(err) {
		t.Errorf("got %v, want an error about the right", err)
	}
	must(t, do("ACL", "SETUSER", "default", "+evalsha", "+eval").Error())
	must(t, do("CONFIG", "RESETSTAT").Error())
	must(t, s.Run(t.Context(), call).Error())
	stats, err := do("INFO", "commandstats").ToString()
	must(t, err)
	if !strings.Contains(stats, "cmdstat_evalsha:calls=1,") || strings.Contains(stats, "cmdstat_eval:") {
		t.Errorf("got the commands %s, want one EVALSHA and no EVAL", stats)
	}
}

// A server that refuses writes for the moment lacks nothing.
func TestProbesWaitForARefusalToEnd(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t).Client(t)
	must(t, c.Do(t.Context(), c.B().Arbitrary("CONFIG", "SET", "min-replicas-to-write", "1").Build()).Error())
	s := &Server{client: c, guard: "{p}:never", now: time.Now}
	pauses := 0
	s.sleep = func(context.Context, time.Duration) bool {
		if pauses++; pauses == 3 {
			must(t, c.Do(t.Context(), c.B().Arbitrary("CONFIG", "SET", "min-replicas-to-write", "0").Build()).Error())
		}
		return true
	}
	ok, err := s.Probe(t.Context(), "redis.call('UNLINK', KEYS[1]) return 1")
	if !ok || err != nil || pauses < 3 {
		t.Errorf("got %v, %v after %d pauses, want true after at least 3", ok, err, pauses)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := open(t, c)
		for body, want := range map[string]bool{"return 1": true, "return 2": false, "return redis.call('NOSUCH')": false, "this is no Lua": false} {
			if got, err := s.Probe(t.Context(), body); got != want || err != nil {
				t.Errorf("%s: got %v, %v, want %v", body, got, err, want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Probe(ctx, "return 1"); !errors.Is(err, context.Canceled) {
			t.Errorf("with a cancelled context: got error %v, want %v", err, context.Canceled)
		}
	})
}

func TestAOF(t *testing.T) {
	t.Parallel()
	with := servertest.OwnRedis(t).Client(t)
	s := open(t, with)
	has, err := s.Probe(t.Context(), "return redis.call('COMMAND', 'INFO', 'WAITAOF')[1] and 1 or 0")
	must(t, err)
	err = s.ProbeAOF(t.Context())
	if has != (err == nil) {
		t.Fatalf("WAITAOF there: %v, ProbeAOF: %v", has, err)
	}
	if has {
		r, aof := s.RunDurably(t.Context(), time.Minute, Call{Script: NewScript("return redis.call('INCR', KEYS[2])"), Keys: []string{s.guard, strings.Replace(s.guard, "never", "n", 1)}})
		if n, err := r.AsInt64(); n != 1 || err != nil || aof != nil {
			t.Errorf("got %d, %v, on disk: %v, want 1 on disk", n, err, aof)
		}
	}
	never := open(t, servertest.OwnRedis(t, "--appendonly", "yes", "--appendfsync", "no").Client(t))
	if err := never.ProbeAOF(t.Context()); !errors.Is(err, ErrNoAOF) || has && !strings.Contains(err.Error(), "appendfsync") {
		t.Errorf("with appendfsync no: got %v, want %v and the setting", err, ErrNoAOF)
	}
	without := open(t, servertest.OwnRedis(t, "--appendonly", "no").Client(t))
	if err := without.ProbeAOF(t.Context()); !errors.Is(err, ErrNoAOF) {
		t.Errorf("without an append-only file: got %v, want %v", err, ErrNoAOF)
	}
}

func TestEvictionPolicy(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t, "--maxmemory-policy", "volatile-lru").Client(t)
	s := open(t, c)
	want := "volatile-lru"
	for _, denied := range []string{"-info", "-config"} { // each way, and none
		if got, err := s.EvictionPolicy(t.Context()); got != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
		must(t, c.Do(t.Context(), c.B().Arbitrary("ACL", "SETUSER", "default", denied).Build()).Error())
	}
	if got, err := s.EvictionPolicy(t.Context()); got != "" || err != nil {
		t.Errorf("without permission: got %q, %v, want none", got, err)
	}
	if got, err := open(t, servertest.OwnRedis(t).Client(t)).EvictionPolicy(t.Context()); got != "" || err != nil {
		t.Errorf("noeviction: got %q, %v, want none", got, err)
	}
}

// A client that reads from replicas gets the truth all the same.
func TestReadsComeFromThePrimary(t *testing.T) {
	t.Parallel()
	primary, replica := servertest.OwnRedis(t), servertest.OwnRedis(t)
	o := redisxtest.Options(t, primary.URL)
	o.Standalone.ReplicaAddress = []string{redisxtest.SamePassword(t, replica.URL, primary.URL)}
	o.SendToReplicas = func(cmd rueidis.Completed) bool { return cmd.IsReadOnly() }
	c, err := rueidis.NewClient(o)
	must(t, err)
	t.Cleanup(c.Close)
	s, err := Open(t.Context(), c, "{r}:never")
	must(t, err)
	must(t, c.Do(t.Context(), c.B().Set().Key("{r}:x").Value("primary").Build()).Error())
	if err := c.Do(t.Context(), c.B().Get().Key("{r}:x").Build()).Error(); !rueidis.IsRedisNil(err) {
		t.Fatalf("the client itself read %v, want nothing from the replica", err)
	}
	got, err := s.Read(t.Context(), "GET", "{r}:x").ToString()
	if got != "primary" || err != nil {
		t.Errorf("Read: got %q, %v, want %q", got, err, "primary")
	}
	r := s.ReadAll(t.Context(), func() []rueidis.Completed {
		return []rueidis.Completed{s.Command("GET", "{r}:x"), s.Command("STRLEN", "{r}:x")}
	})
	if n, err := r[1].AsInt64(); n != 7 || err != nil {
		t.Errorf("ReadAll: got %d, %v, want 7", n, err)
	}
}

// Reads are sent again when their connection breaks, each time as new commands; scripts are not.
func TestReadsOutliveBrokenConnections(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	p := redisxtest.NewProxy(t, own.URL)
	s := open(t, p.Client(t, nil))
	must(t, own.Client(t).Do(t.Context(), s.client.B().Set().Key("{r}:x").Value("value").Build()).Error())
	built, reads := 0, 0
	for built < reads+10 { // until ten of them broke
		reads++
		again := false
		r := s.ReadAll(t.Context(), func() []rueidis.Completed {
			if built++; !again {
				p.Cut() // under the first try
			}
			again = true
			return []rueidis.Completed{s.Command("GET", "{r}:x"), s.Command("STRLEN", "{r}:x")}
		})
		if got, err := r[0].ToString(); got != "value" || err != nil {
			t.Fatalf("ReadAll: got %q, %v, want %q", got, err, "value")
		}
		if n, err := r[1].AsInt64(); n != 5 || err != nil {
			t.Fatalf("ReadAll: got %d, %v, want 5", n, err)
		}
		p.Cut()
		if got, err := s.Read(t.Context(), "GET", "{r}:x").ToString(); got != "value" || err != nil {
			t.Fatalf("Read: got %q, %v, want %q", got, err, "value")
		}
	}
}

func TestReadsEndWithTheirContextOrClient(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	p := redisxtest.NewProxy(t, own.URL)
	c := p.Client(t, nil)
	s := open(t, c)
	p.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Read(ctx, "GET", "{r}:x").Error(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Read of a frozen server: got %v, want %v", err, context.DeadlineExceeded)
	}
	c.Close()
	if err := s.Read(t.Context(), "GET", "{r}:x").Error(); !errors.Is(err, rueidis.ErrClosing) && !errors.Is(err, context.DeadlineExceeded) { // or that of the read before
		t.Errorf("Read of a closed client: got %v, want %v", err, rueidis.ErrClosing)
	}
}

// The address leads to a new primary; the old one is a replica now, and keeps its connections.
func TestReadOnlyConnectionsAreLeft(t *testing.T) {
	t.Parallel()
	was, is := servertest.OwnRedis(t), servertest.OwnRedis(t)
	p := redisxtest.NewProxy(t, was.URL)
	c := p.Client(t, func(o *rueidis.ClientOption) { o.PipelineMultiplex = 2 })
	s := open(t, c)
	durable := s.ProbeAOF(t.Context()) == nil
	work := func() error {
		var all []error
		var wg sync.WaitGroup
		var mu sync.Mutex
		for i := range 32 { // on all connections
			wg.Go(func() {
				call := Call{Script: NewScript("return redis.call('INCR', KEYS[2])"), Keys: []string{s.guard, s.guard + fmt.Sprint(i)}}
				r := s.Run(t.Context(), call)
				if durable {
					r, _ = s.RunDurably(t.Context(), time.Second, call)
				}
				mu.Lock()
				all = append(all, r.Error())
				mu.Unlock()
			})
		}
		wg.Wait()
		return errors.Join(all...)
	}
	must(t, work())
	old := was.Client(t)
	must(t, old.Do(t.Context(), old.B().Arbitrary("REPLICAOF", "127.0.0.1", "1").Build()).Error())
	p.Point(t, is.URL)
	servertest.Eventually(t, "every connection leads to the new primary", func() bool { return work() == nil })
	if err := s.Retry(t.Context(), func() error { return work() }); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"a", "orders.v2", strings.Repeat("x", MaxName), "grüße", "a:b*[c]"} {
		if err := CheckName(good); err != nil {
			t.Errorf("CheckName(%q) = %v, want nil", good, err)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", MaxName+1), "a b", "a\nb", "{a", "a}", "\xff", "a\x7f"} {
		if err := CheckName(bad); err == nil {
			t.Errorf("CheckName(%q) = nil, want an error", bad)
		}
	}
}

func TestEscapeGlob(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		tag := servertest.Prefix(t)
		odd := tag + `a*b?c[d]e\f^-`
		must(t, c.Do(t.Context(), c.B().Set().Key(odd).Value("").Build()).Error())
		must(t, c.Do(t.Context(), c.B().Set().Key(tag+`aXbYcde\f^-`).Value("").Build()).Error())
		got, err := c.Do(t.Context(), c.B().Keys().Pattern(EscapeGlob(odd)).Build()).AsStrSlice()
		if err != nil || len(got) != 1 || got[0] != odd {
			t.Errorf("got %q, %v, want %q", got, err, odd)
		}
	})
}

func TestOutlive(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c, end := Outlive(ctx, time.Hour)
	defer end()
	cancel()
	if err := c.Err(); err != nil {
		t.Errorf("within the grace: got %v, want nil", err)
	}
	end()
	if err := c.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: got %v, want %v", err, context.Canceled)
	}
	ctx, cancel = context.WithCancel(t.Context())
	c, end = Outlive(ctx, 0)
	defer end()
	cancel()
	<-c.Done() // hangs when it does not follow

	ctx, cancel = context.WithTimeout(t.Context(), 0)
	defer cancel()
	c, end = Outlive(ctx, 0)
	defer end()
	<-c.Done()
	if err := c.Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the caller's deadline: got %v, want %v", err, context.DeadlineExceeded)
	}
}
