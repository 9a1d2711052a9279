package lookup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// read reads names from the client's cache or Redis, in as many round trips as the network asks
// for. Without a deadline the client repeats a read for ever, even one that is too large for its
// network.
func (r *Remote[K, V]) read(ctx context.Context, names []string) (map[string]rueidis.RedisMessage, error) {
	all := make(map[string]rueidis.RedisMessage, len(names))
	for len(names) > 0 {
		n := min(len(names), r.perTrip())
		begin := time.Now()
		var values map[string]rueidis.RedisMessage
		err := r.server.Retry(ctx, func() (err error) {
			values, err = rueidis.MGetCache(r.server.Client(), ctx, r.cfg.LocalTTL, names[:n])
			if isUntracked(err) {
				values, err = rueidis.MGet(r.server.Client(), ctx, names[:n])
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		r.learn(values, time.Since(begin))
		maps.Copy(all, values)
		names = names[n:]
	}
	return all, nil
}

// firstEntries is the number of entries that the first read of a Remote takes in one round trip.
const firstEntries = 64

// perTrip returns how many entries the next round trip reads.
func (r *Remote[K, V]) perTrip() int {
	if mean := int(r.mean.Load()); mean > 0 {
		return max(1, r.reads.Limit()/mean)
	}
	return firstEntries
}

// learn takes in the size of the entries that a round trip has read from Redis.
func (r *Remote[K, V]) learn(values map[string]rueidis.RedisMessage, took time.Duration) {
	n, bytes := 0, 0
	for _, m := range values {
		if !m.IsCacheHit() {
			text, _ := m.ToString() // "" for a key that is not there
			n, bytes = n+1, bytes+len(text)
		}
	}
	if n == 0 {
		return
	}
	mean := int64(bytes/n) + 1
	r.mean.Store(max(mean, (r.mean.Load()+mean)/2))
	r.reads.Learn(bytes, took, false)
}

// isUntracked reports whether a read for the client's cache failed where a plain one may succeed.
// It needs MULTI, EXEC and PTTL, which a full Redis refuses, and a user may lack the right to them.
// To the client a refused EXEC is an aborted one, and a refused MULTI a nil.
func isUntracked(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && strings.HasPrefix(e.Error(), "OOM ") || rueidis.IsRedisNil(err) || errors.Is(err, rueidis.ErrDoCacheAborted)
}

// send runs n commands, pipelined, in as many round trips as the network asks for. size is the size
// of a command in bytes. With patience it retries while the server refuses them for now; without,
// only to leave a connection that leads to a replica.
func (r *Remote[K, V]) send(ctx context.Context, n int, patient bool, size func(i int) int, cmd func(i int) rueidis.Completed) error {
	sent := 0
	once := func() error {
		for sent < n {
			cmds, bytes := rueidis.Commands{}, 0
			for i := sent; i < n && (i == sent || bytes+size(i) <= r.pace.Limit()); i++ {
				cmds, bytes = append(cmds, cmd(i)), bytes+size(i)
			}
			if err := r.trip(ctx, bytes, cmds); err != nil {
				return err
			}
			sent += len(cmds)
		}
		return nil
	}
	if !patient {
		err := once()
		if !redisx.IsReadOnly(err) {
			return writeErr(err)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Second)
		defer cancel()
	}
	return writeErr(r.server.Retry(ctx, once))
}

// trip sends commands together, and returns their first error.
func (r *Remote[K, V]) trip(ctx context.Context, bytes int, cmds rueidis.Commands) error {
	begin := time.Now()
	for _, resp := range r.server.Client().DoMulti(ctx, cmds...) {
		if err := resp.Error(); err != nil && !rueidis.IsRedisNil(err) {
			if _, isReply := rueidis.IsRedisErr(err); !isReply && !redisx.NotSent(err) && ctx.Err() == nil {
				r.pace.Learn(bytes, time.Since(begin), true)
			}
			return err
		}
	}
	r.pace.Learn(bytes, time.Since(begin), false)
	return nil
}

func writeErr(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write entries: %w", err)
}
