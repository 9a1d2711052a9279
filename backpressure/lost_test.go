package backpressure_test

import (
	"context"
	"errors"
	"testing"

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
