package backpressure_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
)

// A source that counts nothing is an error, in New and later; nothing is let through.
func TestInvalidSources(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, x := range []struct {
			do     []string
			source backpressure.Source
			lagKey string
			want   string
		}{
			{[]string{"HSET", "T:h", "inflight", "1"}, backpressure.Source{Hash: "T:h", Field: "Inflight"}, "", "T:h has no field Inflight"},
			{[]string{"HSET", "T:h", "inflight", "1e9 records"}, backpressure.Source{Hash: "T:h", Field: "inflight"}, "", "field inflight of T:h is not an integer: 1e9 records"},
			{[]string{"HSET", "T:h", "inflight", "1.5"}, backpressure.Source{Hash: "T:h", Field: "inflight"}, "", "field inflight of T:h is not an integer: 1.5"},
			{[]string{"HSET", "T:h", "inflight", strings.Repeat("x", 1000)}, backpressure.Source{Hash: "T:h", Field: "inflight"}, "", "is not an integer: " + strings.Repeat("x", 64)},
			{[]string{"SET", "T:h", "7"}, backpressure.Source{Hash: "T:h", Field: "inflight"}, "", "T:h is not a hash"},
			{[]string{"HSET", "T:l", "a", "1"}, backpressure.Source{List: "T:l"}, "", "T:l is not a list"},
			{[]string{"HSET", "T:h", "inflight", "1"}, backpressure.Source{Hash: "T:h", Field: "acked", Minus: true}, "", "T:h has no field acked"},
			{[]string{"SET", "T:z", "7"}, backpressure.Source{}, "T:z", "T:z is not a sorted set"},
		} {
			name := servertest.Prefix(t)
			in := func(s string) string { return strings.ReplaceAll(s, "T:", "{"+name+"}:") }
			source := x.source
			source.List, source.Hash = in(source.List), in(source.Hash)
			cfg := backpressure.Config{Records: []backpressure.Source{source}, High: 100}
			if x.lagKey != "" {
				cfg = backpressure.Config{LagKey: in(x.lagKey), HighLag: time.Minute}
			}
			g, err := backpressure.New(t.Context(), c, name, cfg) // nothing is there yet: the depth is 0
			if err != nil {
				t.Fatal(err)
			}
			var do []string
			for _, a := range x.do {
				do = append(do, in(a))
			}
			if err := c.Do(t.Context(), c.B().Arbitrary(do...).Build()).Error(); err != nil {
				t.Fatal(err)
			}
			_, tried := g.TryAcquire(t.Context(), 1)
			_, acquired := g.Acquire(t.Context(), 1)
			_, opened := backpressure.New(t.Context(), c, name, cfg)
			for call, err := range map[string]error{"try": tried, "acquire": acquired, "new": opened, "notify": g.Notify(t.Context())} {
				if !errors.Is(err, backpressure.ErrSource) || !strings.Contains(err.Error(), in(x.want)) || strings.Contains(err.Error(), strings.Repeat("x", 65)) {
					t.Errorf("%s: got %v, want %v with %q", call, err, backpressure.ErrSource, in(x.want))
				}
			}
		}
	})
}

// A field may be missing if its source is Optional, and a depth below zero counts as zero.
func TestClampedDepth(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{High: 100, Low: 50, Records: []backpressure.Source{
			{Hash: ":h", Field: "taken"}, {Hash: ":h", Field: "acked", Minus: true, Optional: true},
		}})
		hash := "{" + s.name + "}:h"
		s.do("HSET", hash, "taken", "60")
		if st, err := s.gate.Stats(t.Context()); err != nil || st.Records != 60 {
			t.Errorf("got %+v, %v, want 60 records", st, err)
		}
		s.do("HSET", hash, "taken", "-1000000", "acked", "5")
		if st, err := s.gate.Stats(t.Context()); err != nil || st.Records != 0 {
			t.Errorf("got %+v, %v, want 0 records", st, err)
		}
		granted := 0
		for range 5 {
			if err := s.ask(50, true); err == nil {
				granted += 50
			}
		}
		if granted != 100 {
			t.Errorf("granted %d records, want 100", granted)
		}
	})
}

// The gate closes and opens by the memory that the server uses.
func TestHighMemory(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t, "--maxmemory-policy", "noeviction")
	s := newStream(t, own.Client(t), backpressure.Config{})
	cfg := backpressure.Config{HighMemory: 0.8, LowMemory: 0.5}
	if _, err := backpressure.New(t.Context(), s.c, s.name, cfg); !errors.Is(err, backpressure.ErrSource) || !strings.Contains(err.Error(), "maxmemory is 0") {
		t.Errorf("got %v, want %v: a gate that never closes", err, backpressure.ErrSource)
	}
	if _, err := backpressure.New(t.Context(), servertest.Miniredis(t), s.name, cfg); !errors.Is(err, backpressure.ErrSource) {
		t.Errorf("got %v, want %v: an emulation without INFO memory", err, backpressure.ErrSource)
	}
	used := func() (n int64) {
		info, err := s.do("INFO", "memory").ToString()
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(info, "used_memory:")
		if _, err := fmt.Sscan(rest, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	set := func(part float64) { s.do("CONFIG", "SET", "maxmemory", fmt.Sprint(int64(float64(used())/part))) }
	set(0.3)
	s.gate = s.other(cfg)
	if err := s.ask(1, false); err != nil {
		t.Error(err)
	}
	set(0.9)
	s.wantFull(s.ask(1, false), " % of maxmemory used: it closes at 80.0 % and opens at 50.0 %")
	set(0.65)
	s.wantFull(s.ask(1, false), "% of maxmemory used")
	if st, err := s.gate.Stats(t.Context()); err != nil || !st.Closed || st.Memory < 0.55 || st.Memory > 0.75 {
		t.Errorf("got %+v, %v, want a closed gate and 0.65 of the memory", st, err)
	}
	set(0.3)
	if err := s.ask(1, false); err != nil {
		t.Error(err)
	}
}

// refused matches the errors of a user without a right; the last text is that of Redis 7.0.
var refused = regexp.MustCompile(`NOPERM|[Pp]ermission|The user executing the script can't run`)

// documentedCommands are the rights in the package comment.
var documentedCommands = strings.Fields(`+eval +evalsha +time +hmget +hset +hget
	+llen +exists +zadd +zcard +zrange +zrangebyscore +zrem +zscore +pexpire +unlink +publish +subscribe +unsubscribe`)

// users makes clients with rights of their own.
func users(t *testing.T) func(rights ...string) rueidis.Client {
	own := servertest.OwnRedis(t)
	admin := own.Client(t)
	n := 0
	return func(rights ...string) rueidis.Client {
		n++
		user := fmt.Sprint("u", n)
		args := append([]string{"SETUSER", user, "reset", "on", ">secret"}, rights...)
		if err := admin.Do(t.Context(), admin.B().Arbitrary("ACL").Args(args...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		o := redisxtest.Options(t, own.URL)
		o.Username, o.Password, o.DisableCache = user, "secret", true
		c, err := rueidis.NewClient(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
}

// work fills a gate, waits at it and opens it, as two programs do that have only their own rights.
func work(t *testing.T, producer, admin rueidis.Client, name string) error {
	list := "{" + name + "}:ready"
	cfg := backpressure.Config{
		Records: []backpressure.Source{{List: list}, {Hash: "{" + name + "}:sum", Field: "inflight"}}, High: 10, Low: 5,
		PollInterval: 10 * time.Second, Logger: slog.New(slog.DiscardHandler),
	}
	g, err := backpressure.New(t.Context(), producer, name, cfg)
	if err != nil {
		return err
	}
	push := admin.B().Lpush().Key(list).Element("1", "2", "3", "4", "5", "6").Build()
	if err := admin.Do(t.Context(), push).Error(); err != nil {
		t.Fatal(err)
	}
	if err := admin.Do(t.Context(), admin.B().Hset().Key("{"+name+"}:sum").FieldValue().FieldValue("inflight", "0").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	r, err := g.TryAcquire(t.Context(), 4)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		r, err := g.Acquire(ctx, 5)
		if err == nil {
			err = r.Release(ctx)
		}
		done <- err
	}()
	for {
		st, err := g.Stats(t.Context())
		if err != nil {
			return errors.Join(err, <-done)
		}
		if st.Waiting == 1 {
			break
		}
		select {
		case err := <-done:
			return err
		default:
		}
	}
	pop := admin.B().Rpop().Key(list).Count(1).Build()
	if err := admin.Do(t.Context(), pop).Error(); err != nil {
		t.Fatal(err)
	}
	if err := r.Release(t.Context()); err != nil { // it opens the gate
		return errors.Join(err, <-done)
	}
	if err := g.Notify(t.Context()); err != nil {
		return errors.Join(err, <-done)
	}
	return <-done
}

// A user with the documented rights can do all; without the channel too.
func TestAccessRights(t *testing.T) {
	t.Parallel()
	as := users(t)
	admin := as("~*", "&*", "+@all")
	for what, rights := range map[string][]string{
		"documented": append(slices.Clone(documentedCommands), "~{NAME}:gate:*", "%R~{NAME}:*", "&{NAME}:gate:granted"),
		"no channel": append(slices.Clone(documentedCommands), "~{NAME}:gate:*", "%R~{NAME}:*"),
		"no pub/sub": append(slices.Clone(documentedCommands), "~{NAME}:gate:*", "%R~{NAME}:*", "&{NAME}:gate:granted", "-publish", "-subscribe"),
	} {
		name := strings.ReplaceAll(strings.ReplaceAll(what, " ", "-"), "/", "")
		for i := range rights {
			rights[i] = strings.ReplaceAll(rights[i], "NAME", name)
		}
		if err := work(t, as(rights...), admin, name); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, right := range documentedCommands {
		switch right {
		case "+evalsha", "+eval", "+publish", "+subscribe", "+unsubscribe":
			continue // a script is known or not; the channel is a hint
		}
		name := "without-" + right[1:]
		rights := slices.DeleteFunc(slices.Clone(documentedCommands), func(r string) bool { return r == right })
		err := work(t, as(append(rights, "~{"+name+"}:gate:*", "%R~{"+name+"}:*")...), admin, name)
		if right != "+unlink" && (err == nil || !refused.MatchString(err.Error())) {
			t.Errorf("without %s: got %v, want a refusal", right, err)
		}
	}
}

// Programs of another layout version get an error that names both.
func TestLayout(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{High: 10})
		r, err := s.gate.TryAcquire(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		s.do("HSET", "{"+s.name+"}:gate:state", "layout", "77")
		_, opened := backpressure.New(t.Context(), c, s.name, backpressure.Config{Records: []backpressure.Source{{List: s.list()}}})
		_, stats := s.gate.Stats(t.Context())
		for call, err := range map[string]error{"new": opened, "try": s.ask(1, false), "release": r.Release(t.Context()), "notify": s.gate.Notify(t.Context()), "stats": stats} {
			if !errors.Is(err, backpressure.ErrLayout) || !strings.Contains(err.Error(), "layout 77, this program needs layout "+backpressure.Layout) {
				t.Errorf("%s: got %v, want %v with both versions", call, err, backpressure.ErrLayout)
			}
		}
	})
}

// A program with other marks goes on with its own, and the log names both values. The record is no
// condition: a user without rights and a full server open the gate all the same.
func TestAnotherConfiguration(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		s := newStream(t, c, backpressure.Config{High: 100, Low: 40, Logger: logger})
		s.other(backpressure.Config{Records: []backpressure.Source{{List: s.list()}}, High: 100, Low: 40, Logger: logger})
		if log.Len() > 0 {
			t.Errorf("the same configuration: the log is %s, want none", &log)
		}
		smaller := s.other(backpressure.Config{Records: []backpressure.Source{{List: s.list()}}, High: 10, Low: 4, Logger: logger})
		for _, want := range []string{"field=Config.High this=10 other=100", "field=Config.Low this=4 other=40"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log is %s, want %q in it", &log, want)
			}
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 2 {
			t.Errorf("%d warnings, want 2", n)
		}
		log.Reset()
		s.other(backpressure.Config{Records: []backpressure.Source{{List: s.list(), Minus: true}}, High: 10, Low: 4, Logger: logger})
		if !strings.Contains(log.String(), "field=Config.Records") {
			t.Errorf("other sources: the log is %s, want Config.Records in it", &log)
		}
		s.push(20)
		if _, err := smaller.TryAcquire(t.Context(), 1); !errors.Is(err, backpressure.ErrFull) {
			t.Errorf("the smaller gate: got %v, want %v", err, backpressure.ErrFull)
		}
	})
}

// The server's clock is set back and forward. Reservations take their own time.
func TestClock(t *testing.T) {
	t.Parallel()
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{m.Addr()}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	now := time.UnixMilli(1_700_000_000_000)
	move := func(d time.Duration) { now = now.Add(d); m.SetTime(now) }
	move(0)
	s := newStream(t, c, backpressure.Config{High: 10, Low: 5, ReservationTTL: time.Minute})
	move(time.Hour) // ahead for a while
	if err := s.ask(5, true); err != nil {
		t.Fatal(err)
	}
	if err := s.ask(5, true); err != nil {
		t.Fatal(err)
	}
	move(-time.Hour)
	s.wantFull(s.ask(1, false), "0 records and 10 reserved")
	move(time.Minute - time.Millisecond)
	s.wantFull(s.ask(1, false), "0 records and 10 reserved")
	if st, err := s.gate.Stats(t.Context()); err != nil || st.ClockBehind != time.Hour {
		t.Errorf("got clock behind by %v, %v, want 1h", st.ClockBehind, err)
	}
	move(time.Millisecond)
	if err := s.ask(5, true); err != nil {
		t.Errorf("after their own time: %v", err)
	}
	move(time.Hour) // forward: it expires early
	if err := s.ask(5, true); err != nil {
		t.Error(err)
	}
	if err := s.ask(5, true); err != nil {
		t.Error(err)
	}
	s.wantFull(s.ask(1, false), "0 records and 10 reserved")
}

// Someone deletes keys by hand, or writes others.
func TestRepair(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, x := range []struct {
			do    []string
			found string
			after int64 // records reserved in the end
		}{
			{[]string{"ZPOPMIN", "Pheld"}, "the reservations have 3 records, but their sum is kept as 6: off by 3", 3},
			{[]string{"HSET", "Pstate", "records", "100"}, "the reservations have 6 records, but their sum is kept as 100: off by 94", 6},
			{[]string{"HDEL", "Pstate", "records"}, "", 6},
			{[]string{"DEL", "Pheld"}, "", 0},
			{[]string{"DEL", "Pqueue"}, "1 producers wait, but 0 have a place in the queue", 6},
			{[]string{"DEL", "Pwaiters"}, "0 producers wait, but 1 have a place in the queue", 6},
			{[]string{"HSET", "Pstate", "bytes", "-5"}, "the reservations have 0 bytes, but their sum is kept as -5", 6},
			{[]string{"ZADD", "Pheld", "4e12", "foreign 2 0 10 0"}, "1 reservations are none that this package writes, or never expire", 6},
			{[]string{"SET", "Pheld", "x"}, "type is string, must be zset", 0},
		} {
			s := newStream(t, c, backpressure.Config{High: 10, Low: 5, PollInterval: time.Hour})
			for range 2 {
				if err := s.ask(3, true); err != nil {
					t.Fatal(err)
				}
			}
			s.push(8)
			for key, score := range map[string]string{"queue": "1", "waiters": "9999999999999"} { // one that waits
				s.do("ZADD", "{"+s.name+"}:gate:"+key, score, "someone 5 0 10 0")
			}
			var do []string
			for _, a := range x.do {
				if strings.HasPrefix(a, "P") {
					a = "{" + s.name + "}:gate:" + a[1:]
				}
				do = append(do, a)
			}
			s.do(do...)
			a, err := s.gate.Audit(t.Context())
			if got := strings.Join(a.Differences, "; "); err != nil || !strings.Contains(got, x.found) || (x.found == "") != (a.Balanced() == nil) {
				t.Errorf("%q: got %q, %v, want %q", x.do, got, err, x.found)
			}
			if _, err = s.gate.Repair(t.Context()); err != nil {
				t.Errorf("%q: %v", x.do, err)
			}
			a, err = s.gate.Audit(t.Context())
			if err != nil || a.Balanced() != nil {
				t.Errorf("%q: after repair: got %v, %v, want none", x.do, a.Balanced(), err)
			}
			if st, err := s.gate.Stats(t.Context()); err != nil || st.ReservedRecords != x.after {
				t.Errorf("%q: got %+v, %v, want %d records reserved", x.do, st, err, x.after)
			}
		}
	})
}

// A sum that was overwritten with a negative number does not let producers over the bound.
func TestNegativeSum(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{High: 10, Low: 5})
		for range 2 {
			if err := s.ask(3, true); err != nil {
				t.Fatal(err)
			}
		}
		s.do("HSET", "{"+s.name+"}:gate:state", "records", "-100")
		if err := s.ask(5, true); !errors.Is(err, backpressure.ErrFull) {
			t.Errorf("5 records over 6 reserved ones of 10: got %v, want %v", err, backpressure.ErrFull)
		}
	})
}

// After a failover behind one address the connections lead to a replica. Calls recover without a
// restart.
func TestSwitchOver(t *testing.T) {
	t.Parallel()
	a, b := servertest.OwnRedis(t), servertest.OwnRedis(t)
	p := redisxtest.NewProxy(t, a.URL)
	s := newStream(t, p.Client(t, nil), backpressure.Config{High: 10, Low: 5})
	if err := s.ask(1, false); err != nil {
		t.Fatal(err)
	}
	p.Point(t, b.URL)
	ac := a.Client(t)
	if err := ac.Do(t.Context(), ac.B().Replicaof().Host("127.0.0.1").Port(1).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := s.gate.Acquire(ctx, 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Release(ctx); err != nil {
		t.Error(err)
	}
}

// While a slot moves, a gate of which a part has moved is refused as a whole, and goes on
// afterwards. In the last round, only the sources and the key that never exists are missing.
func TestCluster(t *testing.T) {
	servertest.EachCluster(t, func(t *testing.T, cl *servertest.Cluster) {
		name := ""
		slot := 0
		for i := 0; name == "" || slot*servertest.Masters/16384 != 0; i++ {
			name = fmt.Sprint("g", i)
			slot = cl.Slot(t, "{"+name+"}")
		}
		s := &stream{t: t, c: cl.Client, name: name}
		s.gate = s.other(backpressure.Config{Records: []backpressure.Source{{List: s.list()}, {Hash: "{" + name + "}:sum", Field: "n"}}, High: 10, Low: 5, PollInterval: 50 * time.Millisecond})
		s.push(5)
		s.do("HSET", "{"+name+"}:sum", "n", "1")
		r, err := s.gate.TryAcquire(t.Context(), 4)
		if err != nil {
			t.Fatal(err)
		}
		waits := s.wait(t.Context(), s.gate, 5)
		s.waiting(1)
		at, to := 0, 1
		for _, half := range [][]string{{"gate:state", "ready"}, {"gate:held", "gate:queue", "sum"}, {"ready", "sum"}} {
			cl.Begin(t, slot, at, to)
			for _, k := range half {
				cl.Move(t, "{"+name+"}:"+k, at, to)
			}
			for what, f := range map[string]func(context.Context) error{
				"try":     func(ctx context.Context) error { _, err := s.gate.TryAcquire(ctx, 1); return err },
				"release": func(ctx context.Context) error { return r.Release(ctx) },
				"notify":  func(ctx context.Context) error { return s.gate.Notify(ctx) },
				"stats":   func(ctx context.Context) error { _, err := s.gate.Stats(ctx); return err },
			} {
				ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
				if err := f(ctx); err == nil || !strings.Contains(err.Error(), "TRYAGAIN") && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s met half of the slot: got %v, want a refusal", what, err)
				}
				cancel()
			}
			cl.Finish(t, slot, at, to)
			at, to = to, at
		}
		st, err := s.gate.Stats(t.Context())
		if err != nil || st.ReservedRecords != 4 || st.Records != 6 || st.Waiting != 1 {
			t.Errorf("got %+v, %v, want what was there before", st, err)
		}
		s.pop(5)
		if err := r.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-waits; err != nil {
			t.Error(err)
		}
	})
}
