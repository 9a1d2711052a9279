package backpressure_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
)

// waiting waits until so many producers wait in the queue.
func (s *stream) waiting(n int64) {
	s.t.Helper()
	if !servertest.Eventually(s.t, fmt.Sprintf("%d producers wait", n), func() bool {
		st, err := s.gate.Stats(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		return st.Waiting == n
	}) {
		s.t.FailNow()
	}
}

// Producers that wait are served in the order in which they asked, whatever they asked for.
func TestInOrder(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		cfg := backpressure.Config{High: 100, Low: 50, PollInterval: time.Hour}
		s := newStream(t, c, cfg)
		cfg.Records = []backpressure.Source{{List: s.list()}}
		s.push(100)
		sizes := []int{50, 1, 30, 7, 50, 2, 1, 49}
		granted := make(chan int, len(sizes))
		var producers sync.WaitGroup
		for i, n := range sizes {
			gate := s.gate
			if i%2 == 1 {
				gate = s.other(cfg) // of another process
			}
			producers.Go(func() {
				r, err := gate.Acquire(t.Context(), n)
				if err != nil {
					t.Error(err)
				} else {
					s.push(n)
					granted <- i
					if err := r.Release(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
			s.waiting(int64(i + 1))
		}
		if err := s.ask(1, false); !errors.Is(err, backpressure.ErrFull) {
			t.Errorf("got %v, want %v: others wait", err, backpressure.ErrFull)
		}
		var got []int
		for len(got) < len(sizes) {
			s.pop(5)
			if err := s.gate.Notify(t.Context()); err != nil {
				t.Fatal(err)
			}
			for more := true; more; {
				select {
				case i := <-granted:
					got = append(got, i)
				default:
					st, err := s.gate.Stats(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					more = st.Producers > 0 // granted, and on its way
				}
			}
		}
		producers.Wait()
		// Those that were let through together may push in any order; each one came after all that
		// had to go before.
		if !slices.IsSortedFunc(got, func(a, b int) int { return (a - b) / 4 }) || got[0] != 0 {
			t.Errorf("got order %v, want the order in which they asked", got)
		}
	})
}

// slowLink is a connection to addr that takes 15 ms each way.
func slowLink(t *testing.T, addr string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", addr)
			if err != nil {
				_ = a.Close()
				return
			}
			slow := func(to, from net.Conn) {
				defer func() { _, _ = to.Close(), from.Close() }()
				buf := make([]byte, 1<<16)
				for {
					n, err := from.Read(buf)
					<-time.After(15 * time.Millisecond)
					if n > 0 {
						if _, werr := to.Write(buf[:n]); werr != nil {
							return
						}
					}
					if err != nil {
						return
					}
				}
			}
			go slow(a, b)
			go slow(b, a)
		}
	}()
	return l.Addr().String()
}

// A producer behind a slow network gets its turn among 32 near ones.
func TestFarProducerGetsItsShare(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	c := own.Client(t)
	o := redisxtest.Options(t, own.URL)
	o.InitAddress, o.DisableCache = []string{slowLink(t, o.InitAddress[0])}, true
	far, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(far.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := newStream(t, c, backpressure.Config{High: 400, Low: 200})
	var near, distant atomic.Int64
	const wanted, most = 10, 20_000 // grants of the far one, and of all near ones until then
	produce := func(c rueidis.Client, count *atomic.Int64, left chan<- error) {
		g, err := backpressure.New(ctx, c, s.name, backpressure.Config{High: 400, Low: 200, Records: []backpressure.Source{{List: s.list()}}})
		for err == nil && ctx.Err() == nil {
			var r *backpressure.Reservation
			if r, err = g.Acquire(ctx, 10); err != nil {
				break
			}
			push := c.Do(ctx, c.B().Lpush().Key(s.list()).Element("a", "b", "c", "d", "e", "f", "g", "h", "i", "j").Build())
			if err = push.Error(); err == nil {
				err = r.Release(ctx)
			}
			count.Add(1)
		}
		if ctx.Err() != nil {
			err = nil
		}
		left <- err
	}
	left := make(chan error, 33)
	for range 32 {
		go produce(c, &near, left)
	}
	go produce(far, &distant, left)
	for distant.Load() < wanted && near.Load() < most && ctx.Err() == nil {
		s.pop(20)
		if err := s.gate.Notify(ctx); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}
	if ctx.Err() != nil || distant.Load() < wanted {
		t.Errorf("got %d grants of the far producer and %d of 32 near ones, want at least %d and at most %d", distant.Load(), near.Load(), wanted, most)
	}
	t.Logf("%d grants of the far producer, %d of each near one", distant.Load(), near.Load()/32)
	cancel()
	for range 33 {
		if err := <-left; err != nil {
			t.Error(err)
		}
	}
}

// The room of a producer that died wakes the next one when it expires, though no signal comes and
// no poll is due for an hour.
func TestRoomOfADeadProducerWakesTheNext(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{High: 100, Low: 50, ReservationTTL: time.Second, PollInterval: time.Hour})
		for range 2 { // both die
			if err := s.ask(50, true); err != nil {
				t.Fatal(err)
			}
		}
		before := s.serverTime()
		r, err := s.gate.Acquire(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("woken %v after the reservations of 1s were made", s.serverTime().Sub(before))
		if err := r.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// serverTime is the server's clock.
func (s *stream) serverTime() time.Time {
	s.t.Helper()
	v, err := s.do("TIME").AsStrSlice()
	if err != nil || len(v) != 2 {
		s.t.Fatalf("TIME: %v, %v", v, err)
	}
	var sec, micro int64
	if _, err := fmt.Sscan(v[0]+" "+v[1], &sec, &micro); err != nil {
		s.t.Fatal(err)
	}
	return time.UnixMicro(sec*1e6 + micro)
}

// A producer that died while it waited is let through once, does not come, and the next one gets
// its room.
func TestDeadWaiter(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	c := own.Client(t)
	cfg := backpressure.Config{High: 10, Low: 5, PollInterval: 200 * time.Millisecond}
	s := newStream(t, c, cfg)
	cfg.Records = []backpressure.Source{{List: s.list()}}
	s.push(10)
	p := redisxtest.NewProxy(t, own.URL)
	dead, err := backpressure.New(t.Context(), p.Client(t, nil), s.name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := s.wait(ctx, dead, 5)
	s.waiting(1)
	p.Freeze() // the process hangs, with its place
	second := s.wait(t.Context(), s.gate, 5)
	s.waiting(2)
	s.pop(5)
	if err := s.gate.Notify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-first; err == nil {
		t.Error("the producer that hung was let through")
	}
	p.Thaw()
}

// A producer whose context ends gives up its place, or the room that it was granted.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{High: 10, Low: 5, PollInterval: time.Hour})
		// The server knows the script that gives up a place: it need not be sent within the second that
		// giving up may take. A place that is kept would last for hours here.
		r, err := s.gate.Acquire(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.push(10)
		ctx, cancel := context.WithCancel(t.Context())
		first := s.wait(ctx, s.gate, 5)
		s.waiting(1)
		second := s.wait(t.Context(), s.gate, 1)
		s.waiting(2)
		cancel()
		s.wantFull(<-first, "10 records")
		s.waiting(1)
		s.pop(5)
		if err := s.gate.Notify(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
		st, err := s.gate.Stats(t.Context())
		if err != nil || st.ReservedRecords != 1 || st.Waiting != 0 {
			t.Errorf("got %+v, %v, want 1 record reserved", st, err)
		}
	})
}

// Many short waits cost no connection each.
func TestShortWaits(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	p := redisxtest.NewProxy(t, own.URL)
	s := newStream(t, p.Client(t, nil), backpressure.Config{High: 10, Low: 5})
	s.push(10)
	for range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err := s.gate.Acquire(ctx, 1)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want %v", err, context.DeadlineExceeded)
		}
	}
	if n := p.Accepted(); n > 20 {
		t.Errorf("100 waits of 5 ms took %d connections, want at most 20", n)
	}
}

// One call costs the server the same with 10,000 reservations and as many that wait.
func TestManyReservations(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	s := newStream(t, own.Client(t), backpressure.Config{High: 1 << 40})
	calls := func() (n int64) {
		info, err := s.do("INFO", "commandstats").ToString()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(info) {
			var calls int64
			_, rest, _ := strings.Cut(line, ":")
			if _, err := fmt.Sscanf(rest, "calls=%d,", &calls); err == nil {
				n += calls
			}
		}
		return n
	}
	cost := func() int64 {
		before := calls()
		if err := s.ask(1, true); err != nil {
			t.Fatal(err)
		}
		return calls() - before
	}
	cost() // loads the script
	few := cost()
	for i := range 10 { // as the script does it
		args := []string{"ZADD", "{" + s.name + "}:gate:held"}
		for j := range 1000 {
			args = append(args, fmt.Sprint(s.serverTime().Add(time.Hour).UnixMilli()), fmt.Sprintf("id%d.%d 1 0 1099511627776 0", i, j))
		}
		s.do(args...)
	}
	if _, err := s.gate.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if many := cost(); many != few {
		t.Errorf("a call took %d commands with 2 reservations and %d with 10,000, want as many", few, many)
	}
	st, err := s.gate.Stats(t.Context())
	if err != nil || st.Producers != 10_003 || st.ReservedRecords != 10_003 {
		t.Errorf("got %+v, %v, want 10,003 reservations", st, err)
	}
	// They expire in steps.
	for i := range 10 {
		args := []string{"ZADD", "{" + s.name + "}:gate:held", "XX"}
		for j := range 1000 {
			args = append(args, "1", fmt.Sprintf("id%d.%d 1 0 1099511627776 0", i, j))
		}
		s.do(args...)
	}
	for left := int64(10_000); left > 0; left -= 1000 {
		if err := s.gate.Notify(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := s.do("ZCARD", "{"+s.name+"}:gate:held").AsInt64(); err != nil || got != left-1000+3 {
			t.Errorf("got %d reservations, %v, want %d: 1,000 expire in a step", got, err, left-1000+3)
		}
	}
}

// The last waiter is let through by the call of the next one, so the keys of the queue are made
// anew in one script. They expire, too.
func TestKeysOfTheNextWaiterExpire(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{High: 10, Low: 4, PollInterval: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		waits := func(n int64) {
			servertest.Eventually(t, "producers wait", func() bool {
				st, err := s.gate.Stats(t.Context())
				return err == nil && st.Waiting == n
			})
		}
		s.push(10)
		first := s.wait(ctx, s.gate, 6)
		waits(1)
		s.pop(10)
		second := s.wait(ctx, s.gate, 6) // it lets the first one through, and waits itself
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		waits(1)
		for _, key := range []string{"queue", "waiters"} {
			if ttl, err := s.do("PTTL", "{"+s.name+"}:gate:"+key).AsInt64(); err != nil || ttl <= 0 {
				t.Errorf("%s: got a time to live of %d, %v, want one", key, ttl, err)
			}
		}
		cancel()
		if err := <-second; err == nil {
			t.Error("the second producer was let through, want it to wait")
		}
	})
}
