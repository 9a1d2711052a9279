package backpressure_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
)

// lateReply is a client whose context ends after the server has run a command, if stop is set.
type lateReply struct {
	rueidis.Client
	stop context.CancelFunc
}

func (l *lateReply) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	if l.stop == nil {
		return l.Client.Do(ctx, cmd)
	}
	l.Client.Do(context.WithoutCancel(ctx), cmd)
	l.stop()
	l.stop = nil
	<-ctx.Done()
	return l.Client.Do(ctx, l.B().Ping().Build())
}

// A producer that does not learn that it was granted room gives it back.
func TestLostGrant(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		l := &lateReply{Client: c}
		s := newStream(t, l, backpressure.Config{High: 10, Low: 5})
		for what, acquire := range map[string]func(context.Context, int) (*backpressure.Reservation, error){
			"Acquire": s.gate.Acquire, "TryAcquire": s.gate.TryAcquire,
		} {
			r, err := acquire(t.Context(), 5) // the server knows the scripts then
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			l.stop = cancel
			if _, err := acquire(ctx, 5); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v, want %v", what, err, context.Canceled)
			}
			if st, err := s.gate.Stats(t.Context()); err != nil || st.ReservedRecords != 0 {
				t.Errorf("%s: got %d records reserved, %v, want none", what, st.ReservedRecords, err)
			}
		}
	})
}

// lateRequest is a client that ends the context of its next command, and sends the command late:
// after another command if the caller gives up, and otherwise in the end.
type lateRequest struct {
	rueidis.Client

	mu     sync.Mutex
	stop   context.CancelFunc // nil: commands are sent at once
	passed chan struct{}      // closed when another command has been run
	sent   chan struct{}      // closed when the late command has been run
}

func (l *lateRequest) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	l.mu.Lock()
	stop, passed := l.stop, l.passed
	l.stop = nil
	if stop == nil {
		l.passed = nil
	}
	l.mu.Unlock()
	if stop == nil {
		if passed != nil {
			defer close(passed)
		}
		return l.Client.Do(ctx, cmd)
	}
	stop()
	result := make(chan rueidis.RedisResult, 1)
	go func() {
		defer close(l.sent)
		select {
		case <-passed:
		case <-time.After(20 * time.Millisecond): // the caller has not given up
		}
		result <- l.Client.Do(context.WithoutCancel(ctx), cmd)
	}()
	select {
	case r := <-result:
		return r
	case <-ctx.Done():
		return l.Client.Do(ctx, l.B().Ping().Build())
	}
}

// A request that the server runs after its context has ended leaves no room reserved, and no place
// in the queue.
func TestLateRequest(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, depth := range []int{0, 10} { // it is granted at once, or not
			l := &lateRequest{Client: c}
			s := newStream(t, l, backpressure.Config{High: 10, Low: 5})
			if depth > 0 {
				s.push(depth)
			}
			for what, acquire := range map[string]func(context.Context, int) (*backpressure.Reservation, error){
				"Acquire": s.gate.Acquire, "TryAcquire": s.gate.TryAcquire,
			} {
				if r, err := s.gate.TryAcquire(t.Context(), 5); err == nil { // the server knows the scripts then
					if err := r.Release(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				l.mu.Lock()
				l.stop, l.passed, l.sent = cancel, make(chan struct{}), make(chan struct{})
				l.mu.Unlock()
				r, err := acquire(ctx, 5)
				<-l.sent
				if err == nil {
					err = r.Release(t.Context())
				} else if !errors.Is(err, context.Canceled) && !errors.Is(err, backpressure.ErrFull) {
					t.Errorf("%s: got %v, want %v", what, err, context.Canceled)
				}
				if st, err2 := s.gate.Stats(t.Context()); err2 != nil || st.ReservedRecords != 0 || st.Waiting != 0 {
					t.Errorf("%s at depth %d: got %d records reserved, %d waiting, %v, %v, want none", what, depth, st.ReservedRecords, st.Waiting, err, err2)
				}
			}
		}
	})
}
