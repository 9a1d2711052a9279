package queue_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// lossy is a client that loses the replies of scripts, after the server has run them or before.
type lossy struct {
	rueidis.Client
	lose bool
	held []func() // commands that the server gets later
	hold bool
	once bool // lose the next reply to a single script
}

// errNoReply is the error of a lost reply.
var errNoReply = context.Canceled

func (c *lossy) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	script := cmd.Commands()[0]
	r := c.Client.Do(ctx, cmd)
	if !c.once || script != "EVALSHA" && script != "EVAL" {
		return r
	}
	c.once = false
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	return c.Client.Do(canceled, c.B().Ping().Build())
}

func (c *lossy) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	script := cmds[0].Commands()[0]
	if !c.lose || script != "EVALSHA" && script != "EVAL" {
		return c.Client.DoMulti(ctx, cmds...)
	}
	if c.hold {
		for i := range cmds {
			cmds[i] = cmds[i].Pin()
		}
		c.held = append(c.held, func() { c.Client.DoMulti(context.WithoutCancel(ctx), cmds...) })
	} else {
		c.Client.DoMulti(ctx, cmds...)
	}
	out := make([]rueidis.RedisResult, len(cmds))
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	for i := range out {
		out[i] = c.Do(canceled, c.B().Ping().Build())
	}
	return out
}

// A batch whose lease was not answered comes back with the next lease of the same queue, fresh or
// redelivered, and counts no crash. Its lease would last an hour.
func TestUnansweredLeaseComesBack(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		client := &lossy{Client: c}
		q := open(t, client, quick)
		_, err := q.TryLease(t.Context(), queue.LeaseOptions{}) // the server knows the script then
		wantErr(t, err, queue.ErrEmpty)
		must(t, q.Push(t.Context(), records(0, 3)...))
		o := queue.LeaseOptions{Duration: time.Hour}
		for attempt := int64(1); attempt < 8; attempt += 2 {
			client.lose = true
			if _, err := q.TryLease(t.Context(), o); !errors.Is(err, errNoReply) {
				t.Fatalf("got %v, want a lost reply", err)
			}
			client.lose = false
			b := lease(t, q, o)
			if b.Attempt != attempt+1 || b.Crashes != 0 || b.Failures != 0 {
				t.Errorf("got attempt %d with %d crashes and %d failures, want attempt %d without", b.Attempt, b.Crashes, b.Failures, attempt+1)
			}
			if d := cmp.Diff(texts(records(0, 3)), texts(b.Payloads)); d != "" {
				t.Error(d)
			}
			must(t, q.Release(t.Context(), b, queue.ReleaseOptions{}))
		}
		audit, err := q.Audit(t.Context())
		if err == nil {
			err = audit.Balanced()
		}
		must(t, err)
	})
}

// The server runs the call only after the next lease has looked for it, as one that was frozen.
func TestLateUnansweredLease(t *testing.T) {
	t.Parallel()
	client := &lossy{Client: servertest.Redis(t)}
	q := open(t, client, quick)
	must(t, q.Push(t.Context(), records(0, 3)...))
	o := queue.LeaseOptions{Duration: time.Hour, Records: 3}
	client.lose, client.hold = true, true
	if _, err := q.TryLease(t.Context(), o); !errors.Is(err, errNoReply) {
		t.Fatalf("got %v, want a lost reply", err)
	}
	client.lose = false
	first := lease(t, q, o) // looks for a batch that is not there yet
	must(t, q.Push(t.Context(), records(3, 6)...))
	for _, run := range client.held {
		run()
	}
	b := lease(t, q, o) // waits until it looks again
	if b.ID == first.ID || b.Attempt != 2 || b.Crashes != 0 {
		t.Errorf("got batch %s, attempt %d with %d crashes, want the late one at attempt 2 without", b.ID, b.Attempt, b.Crashes)
	}
}

// A lease that another process holds by now is left alone.
func TestUnansweredLeaseOfAnotherHolder(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	client := &lossy{Client: c}
	q := open(t, client, quick)
	other := openAs(t, c, q.Name(), quick)
	must(t, q.Push(t.Context(), records(0, 3)...))
	client.lose = true
	if _, err := q.TryLease(t.Context(), queue.LeaseOptions{Duration: time.Millisecond}); !errors.Is(err, errNoReply) {
		t.Fatalf("got %v, want a lost reply", err)
	}
	client.lose = false
	b := lease(t, other, queue.LeaseOptions{Duration: time.Hour}) // when it has expired
	if _, err := q.TryLease(t.Context(), queue.LeaseOptions{}); !errors.Is(err, queue.ErrEmpty) {
		t.Errorf("got %v, want ErrEmpty", err)
	}
	must(t, other.Extend(t.Context(), b, time.Hour))
}

// A lease that its caller's deadline ends returns the error of the deadline, though it waits a
// little longer for its reply.
func TestLeaseEndsAtTheDeadline(t *testing.T) {
	t.Parallel()
	p := redisxtest.NewProxy(t, servertest.RedisURL(t))
	q := open(t, p.Client(t, nil), quick)
	for what, lease := range map[string]func(context.Context, queue.LeaseOptions) (*queue.Batch, error){"Lease": q.Lease, "TryLease": q.TryLease} {
		p.Freeze()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, err := lease(ctx, queue.LeaseOptions{})
		cancel()
		p.Thaw()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want %v", what, err, context.DeadlineExceeded)
		}
	}
}

// Room whose reservation was not answered is given back at once.
func TestUnansweredReservation(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		client := &lossy{Client: c}
		q := open(t, client, queue.Config{Push: queue.PushConfig{MaxDepth: 250}})
		many := records(0, 100)
		must(t, q.Push(t.Context(), many...)) // the server knows the scripts then
		for what, push := range map[string]func() error{
			"Push":   func() error { return q.Push(t.Context(), many...) },
			"PushAt": func() error { return q.PushAt(t.Context(), time.Now().Add(time.Hour), many...) },
		} {
			client.once = true
			if err := push(); !errors.Is(err, errNoReply) || client.once {
				t.Errorf("%s: got %v, want a lost reply", what, err)
			}
			if st, err := q.Stats(t.Context()); err != nil || st.Reserved != 0 || st.Ready != 100 {
				t.Errorf("%s: %d records reserved, %d ready, %v, want 0 and 100", what, st.Reserved, st.Ready, err)
			}
		}
		must(t, q.Push(t.Context(), many...))
	})
}
