package lookup_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

// leaving is a client whose server goes away with the reply to the next acquisition of a lock.
type leaving struct {
	rueidis.Client

	leave, away atomic.Bool
	acquired    atomic.Int64 // acquisitions that were tried
}

func (c *leaving) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	acquires := slices.Contains(cmd.Commands(), "acquire")
	if acquires && !c.away.Load() {
		c.acquired.Add(1)
		if c.leave.Load() {
			c.Client.Do(ctx, cmd) // its reply is lost
			c.away.Store(true)
		}
	}
	if c.away.Load() {
		canceled, cancel := context.WithCancel(ctx)
		cancel()
		return c.Client.Do(canceled, c.B().Ping().Build())
	}
	return c.Client.Do(ctx, cmd)
}

// A refresh that was cut off cannot give its lock back. The next one of the same table does so, and
// does not wait until the lock expires.
func TestLockOfARefreshThatWasCutOff(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		client := &leaving{Client: c}
		table := newTable(t, client, servertest.Prefix(t), lookup.Config[string, int]{Load: numbers(3)})
		refresh(t, table) // the server knows the scripts then
		client.leave.Store(true)
		if r, err := table.Refresh(t.Context()); err == nil {
			t.Fatalf("got %+v, want an error", r)
		}
		client.leave.Store(false)
		client.away.Store(false)
		client.acquired.Store(0)
		if r := refresh(t, table); !r.Done {
			t.Errorf("got %+v, want a new version", r)
		}
		if n := client.acquired.Load(); n != 1 {
			t.Errorf("the lock was tried %d times, want once", n)
		}
	})
}
