package backpressure_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
)

func TestMain(m *testing.M) {
	servertest.RapidChecks(100)
	servertest.Main(m)
}

// stream is a list with a gate before it.
type stream struct {
	t    testing.TB
	c    rueidis.Client
	name string
	gate *backpressure.Gate
}

func newStream(t testing.TB, c rueidis.Client, cfg backpressure.Config) *stream {
	t.Helper()
	s := &stream{t: t, c: c, name: servertest.Prefix(t)}
	if cfg.Records == nil && cfg.Bytes == nil && cfg.LagKey == "" && cfg.Lag == nil {
		cfg.Records = []backpressure.Source{{List: s.list()}}
	}
	if cfg.LagKey != "" {
		cfg.LagKey = "{" + s.name + "}" + cfg.LagKey
	}
	for _, list := range [][]backpressure.Source{cfg.Records, cfg.Bytes} {
		for i := range list {
			if list[i].Hash != "" {
				list[i].Hash = "{" + s.name + "}" + list[i].Hash
			}
		}
	}
	s.gate = s.other(cfg)
	return s
}

// other is the gate as another process sees it.
func (s *stream) other(cfg backpressure.Config) *backpressure.Gate {
	s.t.Helper()
	g, err := backpressure.New(s.t.Context(), s.c, s.name, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

func (s *stream) list() string { return "{" + s.name + "}:ready" }

func (s *stream) do(args ...string) rueidis.RedisResult {
	s.t.Helper()
	r := s.c.Do(context.WithoutCancel(s.t.Context()), s.c.B().Arbitrary(args...).Build())
	if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
		s.t.Errorf("%v: %v", args, err)
	}
	return r
}

// push pushes n records and returns how many there are then.
func (s *stream) push(n int) int64 {
	s.t.Helper()
	args := []string{"LPUSH", s.list()}
	for range n {
		args = append(args, "x")
	}
	depth, err := s.do(args...).AsInt64()
	if err != nil {
		s.t.Error(err)
	}
	return depth
}

func (s *stream) pop(n int) int {
	s.t.Helper()
	got, err := s.do("RPOP", s.list(), fmt.Sprint(n)).AsStrSlice()
	if err != nil && !rueidis.IsRedisNil(err) {
		s.t.Error(err)
	}
	return len(got)
}

// ask asks without waiting, and is done without having pushed if keep is false.
func (s *stream) ask(n int, keep bool) error {
	s.t.Helper()
	r, err := s.gate.TryAcquire(s.t.Context(), n)
	if err == nil && !keep {
		err = r.Release(s.t.Context())
	}
	return err
}

func (s *stream) wantFull(err error, want string) {
	s.t.Helper()
	var full *backpressure.FullError
	if !errors.Is(err, backpressure.ErrFull) || !errors.As(err, &full) || !strings.Contains(err.Error(), want) {
		s.t.Errorf("got %v, want a FullError with %q", err, want)
	}
}

// The claim of the package: 64 producers, each with pushes of different size, cannot exceed High by
// a single record. The length that LPUSH itself returns is the witness, so no moment goes unseen.
func TestHardBound(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		const high, producers, rounds = 100, 64, 12
		cfg := backpressure.Config{High: high, Low: 60}
		s := newStream(t, c, cfg)
		var highest, pushed, popped atomic.Int64
		var wg, consumers sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for p := range producers {
			gate := s.gate
			if p%2 == 0 { // half of them in processes of their own
				cfg.Records = []backpressure.Source{{List: s.list()}}
				gate = s.other(cfg)
			}
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(1, uint64(p)))
				for range rounds {
					n := 1 + rnd.IntN(40)
					r, err := gate.Acquire(ctx, n)
					if err != nil {
						t.Error(err)
						return
					}
					depth := s.push(n)
					for old := highest.Load(); depth > old && !highest.CompareAndSwap(old, depth); old = highest.Load() {
					}
					pushed.Add(int64(n))
					if err := r.Release(ctx); err != nil {
						t.Error(err)
					}
				}
			})
		}
		finished := make(chan bool)
		for range 2 {
			consumers.Go(func() {
				for {
					n := s.pop(25)
					popped.Add(int64(n))
					if n > 0 {
						if err := s.gate.Notify(ctx); err != nil {
							t.Error(err)
						}
						continue
					}
					select {
					case <-finished:
						return
					default:
					}
				}
			})
		}
		wg.Wait()
		close(finished)
		consumers.Wait()
		if highest.Load() > high {
			t.Errorf("there were %d records at once, the bound is %d", highest.Load(), high)
		}
		if pushed.Load() != popped.Load() || pushed.Load() == 0 {
			t.Errorf("pushed %d, popped %d", pushed.Load(), popped.Load())
		}
		state, err := s.gate.Stats(ctx)
		if err != nil || state.Records != 0 || state.ReservedRecords != 0 || state.Producers != 0 {
			t.Errorf("afterwards: %+v, %v", state, err)
		}
		t.Logf("%d records from %d producers, at most %d at once", pushed.Load(), producers, highest.Load())
	})
}

func TestHysteresis(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{High: 10, Low: 4})
		s.push(4)
		if err := s.ask(6, false); err != nil { // fills it to the brim
			t.Fatal(err)
		}
		s.push(1)
		s.wantFull(s.ask(6, false), "5 records and 0 reserved, 6 more asked for: it closes at 10 and opens at 4")
		s.wantFull(s.ask(1, false), "5 records") // closed is closed, for small ones too
		state, err := s.gate.Stats(t.Context())
		if err != nil || !state.Closed || state.Records != 5 {
			t.Errorf("%+v, %v", state, err)
		}
		s.pop(1)
		if err := s.ask(1, true); err != nil {
			t.Error(err)
		}
		if err := s.ask(5, true); err != nil { // 4 and 6 reserved
			t.Error(err)
		}
		s.wantFull(s.ask(1, false), "4 records and 6 reserved, 1 more")
		for _, key := range []string{"state", "held"} {
			if ttl, err := s.do("PTTL", "{"+s.name+"}:gate:"+key).AsInt64(); err != nil || ttl <= 0 {
				t.Errorf("%s never expires: %d, %v", key, ttl, err)
			}
		}
	})
}

// wait asks in the background.
func (s *stream) wait(ctx context.Context, g *backpressure.Gate, n int) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := g.Acquire(ctx, n)
		done <- err
	}()
	return done
}

// subscribed waits until so many connections listen.
func (s *stream) subscribed(n int64) {
	s.t.Helper()
	for s.t.Context().Err() == nil {
		r, err := s.do("PUBSUB", "NUMSUB", s.gate.Channel()).ToArray()
		if err != nil || len(r) != 2 {
			s.t.Fatalf("PUBSUB: %v, %v", r, err)
		}
		if got, _ := r[1].AsInt64(); got >= n {
			return
		}
	}
}

// PollInterval is an hour here: only the signal can wake them.
func TestWaitWakesBySignal(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		cfg := backpressure.Config{High: 10, Low: 5, PollInterval: time.Hour}
		s := newStream(t, c, cfg)
		cfg.Records = []backpressure.Source{{List: s.list()}}
		consumer := s.other(cfg)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()

		s.push(10)
		a, b := s.wait(ctx, s.gate, 1), s.wait(ctx, s.other(cfg), 2)
		s.subscribed(2)
		s.pop(4)
		if err := consumer.Notify(ctx); err != nil { // 6 left: above Low
			t.Fatal(err)
		}
		select {
		case err := <-a:
			t.Fatal("woken above Low: ", err)
		case err := <-b:
			t.Fatal("woken above Low: ", err)
		default:
		}
		s.pop(1)
		if err := consumer.Notify(ctx); err != nil {
			t.Fatal(err)
		}
		for _, w := range []<-chan error{a, b} {
			if err := <-w; err != nil {
				t.Error(err)
			}
		}
	})
}

// A reservation that is given back without a push makes room like a record that leaves.
func TestDoneOpens(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{High: 10, Low: 1, PollInterval: time.Hour})
		r, err := s.gate.TryAcquire(t.Context(), 9)
		if err != nil {
			t.Fatal(err)
		}
		w := s.wait(t.Context(), s.gate, 2)
		s.subscribed(1)
		for range 2 {
			if err := r.Release(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if err := <-w; err != nil {
			t.Error(err)
		}
	})
}

// A producer that dies between Acquire and Release holds its room only for a while. No call is
// needed.
func TestReservationExpires(t *testing.T) {
	t.Parallel()
	const reserve = 2 * time.Second // long enough that a slow machine asks before it is over
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{High: 10, Low: 1, ReservationTTL: reserve, PollInterval: 10 * time.Millisecond})
		before := time.Now()
		r, err := s.gate.TryAcquire(t.Context(), 9)
		if err != nil {
			t.Fatal(err)
		}
		if d := r.Deadline.Sub(before); d < reserve-time.Millisecond || r.Deadline.After(time.Now().Add(reserve)) {
			t.Errorf("deadline in %v", d)
		}
		s.wantFull(s.ask(2, false), "0 records and 9 reserved")
		if err := <-s.wait(t.Context(), s.gate, 2); err != nil {
			t.Error(err)
		}
		if time.Now().Before(r.Deadline) {
			t.Error("the room was given away before the deadline")
		}
		if err := r.Release(t.Context()); !errors.Is(err, backpressure.ErrExpired) || !strings.Contains(err.Error(), "of 9 records, after 2s") {
			t.Errorf("done too late: %v", err)
		}
	})
}

func TestWaitEnds(t *testing.T) {
	t.Parallel()
	s := newStream(t, servertest.Redis(t), backpressure.Config{High: 10, Low: 1})
	s.push(10)
	ctx, cancel := context.WithCancel(t.Context())
	w := s.wait(ctx, s.gate, 1)
	s.subscribed(1)
	cancel()
	err := <-w
	s.wantFull(err, "10 records")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v is not context.Canceled", err)
	}
}

// A listener that loses its connection has not lost its waiters.
func TestListenerComesBack(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	s := newStream(t, own.Client(t), backpressure.Config{High: 10, Low: 5, PollInterval: time.Hour})
	s.push(10)
	w := s.wait(t.Context(), s.gate, 1)
	s.subscribed(1)
	s.pop(5) // without a Notify
	s.do("CLIENT", "KILL", "TYPE", "pubsub")
	// Its next subscription is confirmed, which is reason enough to look.
	if err := <-w; err != nil {
		t.Error(err)
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{
			High: 10, Low: 5,
			Records:   []backpressure.Source{{Hash: ":stat", Field: "taken"}, {Hash: ":stat", Field: "acked", Minus: true}},
			Bytes:     []backpressure.Source{{Hash: ":stat", Field: "bytes"}},
			HighBytes: 1000, LowBytes: 400,
		})
		hash := "{" + s.name + "}:stat"
		try := func(n int, bytes int64) error {
			r, err := s.gate.TryAcquireBytes(t.Context(), n, bytes)
			if err == nil {
				err = r.Release(t.Context())
			}
			return err
		}
		if err := try(5, 600); err != nil { // a hash that is not there yet is empty
			t.Error(err)
		}
		s.do("HSET", hash, "taken", "1000000", "acked", "999992", "bytes", "5")
		s.wantFull(try(3, 1), "8 records")
		s.do("HSET", hash, "acked", "999995")
		if err := try(3, 1); err != nil {
			t.Error(err)
		}
		s.do("HSET", hash, "bytes", "500")
		s.wantFull(try(1, 501), "500 bytes and 0 reserved, 501 more asked for: it closes at 1000 and opens at 400")
		s.wantFull(try(1, 1), "500 bytes")
		state, err := s.gate.Stats(t.Context())
		if err != nil || state.Records != 5 || state.Bytes != 500 || !state.Closed {
			t.Errorf("%+v, %v", state, err)
		}
		s.do("HSET", hash, "bytes", "400")
		if err := try(1, 600); err != nil {
			t.Error(err)
		}
		for want, err := range map[string]error{
			"n is 0, must be 1 to 5 (High 10 - Low 5)":                     try(0, 1),
			"n is 6, must be 1 to 5":                                       try(6, 1),
			"bytes is 0, must be 1 to 600 (HighBytes 1000 - LowBytes 400)": try(1, 0),
			"bytes is 601, must be 1 to 600":                               try(1, 601),
			"bytes is -601, must be 1 to 600":                              try(1, -601),
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
	})
}

func TestLagKey(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{LagKey: ":sealed", HighLag: time.Minute, LowLag: 10 * time.Second})
		if _, err := s.gate.TryAcquireBytes(t.Context(), 1, -1); !errors.Is(err, backpressure.ErrArgument) {
			t.Errorf("a negative size, at a gate without Config.Bytes: %v, want ErrArgument", err)
		}
		age := func(d time.Duration) {
			s.do("DEL", "{"+s.name+"}:sealed")
			s.do("ZADD", "{"+s.name+"}:sealed", fmt.Sprint(time.Now().Add(-d).UnixMilli()), "oldest", fmt.Sprint(time.Now().UnixMilli()), "newest")
		}
		for _, step := range []struct {
			age  time.Duration
			full bool
		}{{30 * time.Second, false}, {2 * time.Minute, true}, {30 * time.Second, true}, {5 * time.Second, false}, {30 * time.Second, false}} {
			age(step.age)
			err := s.ask(1_000_000, false)
			if step.full {
				s.wantFull(err, "the oldest record has waited for ")
			} else if err != nil {
				t.Error(err)
			}
		}
		s.do("DEL", "{"+s.name+"}:sealed")
		if state, err := s.gate.Stats(t.Context()); err != nil || state.Lag != 0 {
			t.Errorf("nothing waits: %+v, %v", state, err)
		}
	})
}

func TestLagFunc(t *testing.T) {
	t.Parallel()
	var asked, fail atomic.Int32
	lag := func(context.Context) (time.Duration, error) {
		asked.Add(1)
		if fail.Load() > 0 {
			return 0, errors.New("no answer")
		}
		return time.Hour, nil
	}
	cfg := backpressure.Config{Lag: lag, HighLag: time.Minute, LagInterval: time.Hour}
	s := newStream(t, servertest.Redis(t), cfg)
	for range 3 {
		s.wantFull(s.ask(1, false), "has waited for 1h0m0s: it closes at 1m0s and opens at 30s")
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times in LagInterval, want 1", asked.Load())
	}
	fail.Store(1)
	s.gate = s.other(cfg)
	if err := s.ask(1, false); err == nil || !strings.Contains(err.Error(), "Config.Lag: no answer") {
		t.Errorf("an unknown lag must not open the gate: %v", err)
	}
}

// A reservation ends, and a place in the queue is given up, while Config.Lag waits for its context.
func TestReleaseWhileLagHangs(t *testing.T) {
	t.Parallel()
	var hangs atomic.Bool
	s := newStream(t, servertest.Miniredis(t), backpressure.Config{
		HighLag: time.Minute, LagInterval: time.Millisecond,
		Lag: func(ctx context.Context) (time.Duration, error) {
			if hangs.Load() {
				<-ctx.Done()
			}
			return 0, ctx.Err()
		},
	})
	r, err := s.gate.TryAcquire(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	hangs.Store(true)
	if err := r.Release(t.Context()); err != nil {
		t.Errorf("release: %v", err)
	}
}

// The gate keeps no slice of its Config.
func TestConfigIsTheCallers(t *testing.T) {
	t.Parallel()
	sources := []backpressure.Source{{List: "{g}:ready"}}
	g, err := backpressure.New(t.Context(), servertest.Miniredis(t), "g", backpressure.Config{Records: sources})
	if err != nil {
		t.Fatal(err)
	}
	sources[0].List = "another"
	if keys := g.SourceKeys(); !slices.Equal(keys, []string{"{g}:ready"}) {
		t.Errorf("got %q, want the key that New got", keys)
	}
}

// A Config.Lag that does not return holds up its own caller, and no other one beyond its context.
func TestLagFuncThatHangs(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	cfg := backpressure.Config{HighLag: time.Minute, LagInterval: time.Millisecond, Lag: func(context.Context) (time.Duration, error) {
		if calls.Add(1) == 2 {
			close(asked)
			<-answer
		}
		return 0, nil
	}}
	s := newStream(t, servertest.Redis(t), cfg)
	r, err := s.gate.TryAcquire(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan error, 1)
	go func() {
		var err error
		for calls.Load() < 2 && err == nil { // within LagInterval it is not asked
			_, err = s.gate.Stats(context.WithoutCancel(t.Context()))
		}
		first <- err
	}()
	<-asked
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	others := make(chan error, 3)
	go func() {
		_, err := s.gate.Acquire(ended, 1)
		others <- err
		others <- s.gate.Notify(ended)
		others <- r.Release(ended)
	}()
	for _, call := range []string{"Acquire", "Notify", "Release"} {
		select {
		case err := <-others:
			released := call == "Release" && err == nil // it needs no lag, and may be sent before its context is seen to end
			if !released && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v, want %v", call, err, context.Canceled)
			}
		case <-time.After(30 * time.Second):
			close(answer)
			t.Fatalf("%s does not end with its context", call)
		}
	}
	close(answer)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := r.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

// A Redis that is full is a closed gate, and a consumer that empties it is not disturbed.
func TestMaxmemory(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t, "--maxmemory-policy", "noeviction")
	s := newStream(t, own.Client(t), backpressure.Config{High: 1000, Low: 5, PollInterval: 10 * time.Millisecond})
	r, err := s.gate.TryAcquire(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	s.push(100)
	s.do("CONFIG", "SET", "maxmemory", "1")
	s.wantFull(s.ask(1, false), "the server is at maxmemory")
	w := s.wait(t.Context(), s.gate, 1)
	if err := r.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.gate.Notify(t.Context()); err != nil {
		t.Error(err)
	}
	s.do("CONFIG", "SET", "maxmemory", "0")
	if err := <-w; err != nil {
		t.Error(err)
	}
}

func TestRedisAway(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	s := newStream(t, own.Client(t), backpressure.Config{})
	if err := own.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.gate.Acquire(ctx, 1); err == nil || errors.Is(err, backpressure.ErrFull) {
		t.Errorf("nothing is let through unseen: %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	ready := []backpressure.Source{{List: "{s}:ready"}}
	for want, cfg := range map[string]backpressure.Config{
		"Config.Records, Bytes, LagKey, Lag and HighMemory are empty: must set at least one": {},
		"Config.High is 1, must be 2 to":                                          {Records: ready, High: 1},
		"Config.Low is 10, must be 1 to 9, below High":                            {Records: ready, High: 10, Low: 10},
		"Config.HighBytes is 0, must be 2 to":                                     {Bytes: ready},
		"Config.HighBytes is 5 and LowBytes is 2, must be 0 without Config.Bytes": {Records: ready, HighBytes: 5},
		"must be 0 without Config.Records":                                        {Bytes: ready, HighBytes: 100, High: 5},
		`Config.Records[0] has the key "ready", must begin with "{s}"`:            {Records: []backpressure.Source{{List: "ready"}}},
		"must be a List, or a Hash and a Field":                                   {Records: []backpressure.Source{{Hash: "{s}:h"}}},
		"Config.HighLag is 0s, must be set together with LagKey or Lag":           {LagKey: "{s}:z"},
		"Config.HighLag is 1s and LowLag is 2s":                                   {LagKey: "{s}:z", HighLag: time.Second, LowLag: 2 * time.Second},
		`Config.LagKey is "z", must begin with "{s}"`:                             {LagKey: "z", HighLag: time.Second},
		"Config.LagKey and Config.Lag are both set":                               {LagKey: "{s}:z", Lag: func(context.Context) (time.Duration, error) { return 0, nil }, HighLag: time.Second},
		"Config.ReservationTTL is -1s, must be 1ms to 1h":                         {Records: ready, ReservationTTL: -time.Second},
		"Config.PollInterval is 2h0m0s, must be 1ms to 1h":                        {Records: ready, PollInterval: 2 * time.Hour},
	} {
		if _, err := backpressure.New(t.Context(), nil, "s", cfg); !errors.Is(err, backpressure.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := backpressure.New(t.Context(), nil, "a{b}", backpressure.Config{Records: ready}); err == nil || !strings.Contains(err.Error(), `name is "a{b}", must have no brace`) {
		t.Error(err)
	}
}

// Durations, numbers and fractions that are far out of range are errors. None becomes no bound.
func TestExtremes(t *testing.T) {
	t.Parallel()
	s := &stream{t: t, c: servertest.Redis(t), name: servertest.Prefix(t)}
	ctx, ready := t.Context(), []backpressure.Source{{List: s.list()}}
	refused := func(text string, cfg backpressure.Config) {
		t.Helper()
		if _, err := backpressure.New(ctx, s.c, s.name, cfg); !errors.Is(err, backpressure.ErrConfig) || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want ErrConfig with %q", err, text)
		}
	}
	for _, d := range []time.Duration{math.MinInt64, -1, 1, time.Microsecond, math.MaxInt64} {
		refused(fmt.Sprintf("Config.ReservationTTL is %v, must be", d), backpressure.Config{Records: ready, ReservationTTL: d})
		refused(fmt.Sprintf("Config.PollInterval is %v, must be", d), backpressure.Config{Records: ready, PollInterval: d})
		refused(fmt.Sprintf("Config.LagInterval is %v, must be", d), backpressure.Config{Records: ready, LagInterval: d})
		if d < time.Second {
			refused(fmt.Sprintf("Config.HighLag is %v", d), backpressure.Config{LagKey: s.list(), HighLag: d})
		}
	}
	for _, n := range []int64{math.MinInt64, -1, 1, 1<<52 + 1, math.MaxInt64} {
		refused(fmt.Sprintf("Config.High is %d, must be", n), backpressure.Config{Records: ready, High: n})
		refused(fmt.Sprintf("Config.HighBytes is %d, must be", n), backpressure.Config{Bytes: ready, HighBytes: n})
	}
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -0.5, math.SmallestNonzeroFloat64, 1e-7, 1.01, math.MaxFloat64} {
		refused(fmt.Sprintf("Config.HighMemory is %v, must be", f), backpressure.Config{HighMemory: f})
		refused(fmt.Sprintf("Config.LowMemory is %v, must be", f), backpressure.Config{HighMemory: 0.5, LowMemory: f})
	}
	gate := s.other(backpressure.Config{Records: ready, Bytes: ready, HighBytes: 1 << 52, LagKey: "{" + s.name + "}:lag", HighLag: math.MaxInt64})
	for _, n := range []int{math.MinInt, -1, 0, math.MaxInt} {
		if _, err := gate.TryAcquire(ctx, n); !errors.Is(err, backpressure.ErrArgument) {
			t.Errorf("%d records: got %v, want ErrArgument", n, err)
		}
		if _, err := gate.TryAcquireBytes(ctx, 1, int64(n)); !errors.Is(err, backpressure.ErrArgument) {
			t.Errorf("%d bytes: got %v, want ErrArgument", n, err)
		}
	}
	r, err := gate.TryAcquireBytes(ctx, 1, 1<<51)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Release(ctx); err != nil {
		t.Error(err)
	}
}

// The sources are the caller's again when New returns: another gate may be made of the same slice.
func TestSourcesAreTheCallersAgain(t *testing.T) {
	t.Parallel()
	s := &stream{t: t, c: servertest.Redis(t), name: servertest.Prefix(t)}
	records, bytes := []backpressure.Source{{List: s.list()}}, []backpressure.Source{{Hash: "{" + s.name + "}:books", Field: "bytes"}}
	gate := s.other(backpressure.Config{Records: records, High: 10, Bytes: bytes, HighBytes: 1000})
	records[0], bytes[0] = backpressure.Source{List: "{" + s.name + "}:other"}, backpressure.Source{Hash: "{" + s.name + "}:other", Field: "x"}
	s.push(7)
	s.do("HSET", "{"+s.name+"}:books", "bytes", "70")
	stats, err := gate.Stats(t.Context())
	if err != nil || stats.Records != 7 || stats.Bytes != 70 {
		t.Errorf("got %d records, %d bytes, %v, want those of the sources at New: 7 and 70", stats.Records, stats.Bytes, err)
	}
}
