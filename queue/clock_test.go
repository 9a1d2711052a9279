package queue_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// clocked is a queue on a server whose clock the test sets.
type clocked struct {
	*queue.Queue
	m *redisxtest.Clock
}

func newClocked(t *testing.T, cfg queue.Config) *clocked {
	t.Helper()
	m, c := redisxtest.NewClock(t, time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC))
	x := &clocked{m: m}
	x.Queue = openAs(t, c, "clock", cfg)
	return x
}

func (x *clocked) pass(d time.Duration) { x.m.Set(d) }

// after lets time pass, and a backoff, and returns what is delivered then.
func (x *clocked) after(t *testing.T, d time.Duration) map[string]bool {
	t.Helper()
	x.pass(d)
	got := x.delivered(t)
	x.pass(2 * time.Second)
	for k := range x.delivered(t) {
		got[k] = true
	}
	return got
}

// delivered leases what is due, and returns the first payload of each batch.
func (x *clocked) delivered(t *testing.T) map[string]bool {
	t.Helper()
	got := map[string]bool{}
	for {
		b, err := x.TryLease(t.Context(), queue.LeaseOptions{Records: 1})
		if errors.Is(err, queue.ErrEmpty) {
			return got
		}
		must(t, err)
		got[string(b.Payloads[0])] = true
		_, err = x.Ack(t.Context(), b.ID)
		must(t, err)
	}
}

// The server's clock is set back or forward. A lease, a delay and a backoff are over at the latest
// after their own length by the new clock.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	const leaseFor, delay = time.Minute, 5 * time.Minute
	for _, step := range []time.Duration{-time.Hour, time.Hour, -30 * 24 * time.Hour, -time.Minute} {
		x := newClocked(t, queue.Config{Lease: queue.LeaseConfig{Duration: leaseFor, Backoff: time.Second, MaxBackoff: time.Second, MaxCrashes: 9}})
		ctx := t.Context()
		must(t, x.Push(ctx, []byte("leased"), []byte("delayed"), []byte("extended"), []byte("handed")))
		lease1 := func() *queue.Batch { return lease(t, x.Queue, queue.LeaseOptions{Records: 1}) }
		lease1()
		must(t, x.Release(ctx, lease1(), queue.ReleaseOptions{Delay: delay}))
		extended := lease1()
		handed := lease1()
		must(t, x.Handoff(ctx, handed))
		x.pass(20 * time.Second)
		x.pass(step)
		if s := books(t, x.Queue); step < 0 && s.ClockBehind < -step-21*time.Second {
			t.Errorf("step %v: Stats.ClockBehind is %v, want about %v", step, s.ClockBehind, -step)
		} else if s.OldestAge < 0 {
			t.Errorf("step %v: Stats.OldestAge is %v, want the age before the step", step, s.OldestAge)
		}
		must(t, x.Extend(ctx, extended, 2*leaseFor)) // by the new clock, before any other script
		atOnce := x.delivered(t)
		if step < 0 && len(atOnce) > 0 {
			t.Errorf("step %v: delivered %v at once, want nothing", step, atOnce)
		}
		got := x.after(t, leaseFor)
		if step < 0 && (!got["leased"] || got["extended"] || got["handed"] || got["delayed"]) {
			t.Errorf("step %v: after the lease: delivered %v, want leased", step, got)
		}
		for k := range x.after(t, delay) {
			got[k] = true
		}
		for k := range atOnce {
			got[k] = true
		}
		if !got["leased"] || !got["delayed"] || !got["extended"] || got["handed"] {
			t.Errorf("step %v: after the delay: delivered %v, want leased, delayed and extended", step, got)
		}
		s := books(t, x.Queue)
		if step > 0 {
			continue
		}
		if s.ClockSteps != 1 {
			t.Errorf("step %v: got %d clock steps, want 1", step, s.ClockSteps)
		}
		// The seconds before the step after the last call are forgotten.
		if least, most := delay+leaseFor, delay+leaseFor+25*time.Second; s.OldestAge < least || s.OldestAge > most {
			t.Errorf("step %v: the oldest record is in flight for %v, want %v to %v", step, s.OldestAge, least, most)
		}
	}
}

// A clock that is a little behind, as after a correction by NTP, moves nothing.
func TestSmallClockStep(t *testing.T) {
	t.Parallel()
	x := newClocked(t, queue.Config{Lease: queue.LeaseConfig{Duration: time.Minute}})
	must(t, x.Push(t.Context(), []byte("a")))
	lease(t, x.Queue, queue.LeaseOptions{})
	x.pass(-500 * time.Millisecond)
	if got := x.delivered(t); len(got) > 0 {
		t.Errorf("delivered %v, want nothing", got)
	}
	if s := books(t, x.Queue); s.ClockSteps != 0 {
		t.Errorf("got %d clock steps, want 0", s.ClockSteps)
	}
}

// A reservation whose end a clock that ran ahead has put far off does not hold its room for that
// long.
func TestReservationAndClock(t *testing.T) {
	t.Parallel()
	x := newClocked(t, queue.Config{Push: queue.PushConfig{MaxDepth: 10}})
	ctx := t.Context()
	for _, end := range []time.Time{x.m.Now.Add(-time.Second), x.m.Now.Add(time.Hour)} {
		_, err := x.m.ZAdd("{clock}:queue:pushing", float64(end.UnixMilli()), "dead:8")
		must(t, err)
		x.m.HSet("{clock}:queue:stat", "reserved", "8")
		if err := x.Push(ctx, records(0, 5)...); err != nil {
			t.Errorf("a reservation until %v: %v", end, err)
		}
		if s := books(t, x.Queue); s.Reserved != 0 {
			t.Errorf("got %d reserved, want 0", s.Reserved)
		}
		x.m.Del("{clock}:ready")
	}
	_, err := x.m.ZAdd("{clock}:queue:pushing", float64(x.m.Now.Add(time.Second).UnixMilli()), "alive:8")
	must(t, err)
	x.m.HSet("{clock}:queue:stat", "reserved", "8")
	wantErr(t, x.Push(ctx, records(0, 5)...), queue.ErrFull)
}

// The children of a split are as old as the batch that they come from.
func TestChildrenAreAsOldAsTheirBatch(t *testing.T) {
	t.Parallel()
	x := newClocked(t, quick)
	must(t, x.Push(t.Context(), records(0, 4)...))
	b := lease(t, x.Queue, queue.LeaseOptions{Duration: 24 * time.Hour})
	x.pass(time.Hour)
	must(t, x.Settle(t.Context(), b, queue.Resolution{}))
	if s := books(t, x.Queue); s.OldestAge < time.Hour {
		t.Errorf("the oldest batch is %v old, want an hour", s.OldestAge)
	}
}

// setBack is a client whose server's clock is set back during every wait: Redis ends a wait by its
// clock, so it goes on for an hour.
type setBack struct{ rueidis.Client }

func (c setBack) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	if args := cmd.Commands(); args[0] == "BLMOVE" {
		cmd = c.B().Blmove().Source(args[1]).Destination(args[2]).Right().Right().Timeout(3600).Build().UnblockOnCancel()
	}
	return c.Client.Do(ctx, cmd)
}

// A consumer waits while the clock is set back. What comes due is delivered soon, and what is
// pushed at once.
func TestClockIsSetBackDuringAWait(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, setBack{c}, queue.Config{Lease: queue.LeaseConfig{PollInterval: 100 * time.Millisecond}})
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second) // a wait that nothing ends
		defer cancel()
		must(t, q.Push(ctx, []byte("a")))
		held := lease(t, q, queue.LeaseOptions{})
		must(t, q.Release(ctx, held, queue.ReleaseOptions{Delay: 200 * time.Millisecond}))
		l := <-waiting(ctx, q, queue.LeaseOptions{})
		must(t, l.err)
		if l.b.ID != held.ID {
			t.Errorf("got batch %s, want %s", l.b.ID, held.ID)
		}
	})
}
