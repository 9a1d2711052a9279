package queue

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/internal/redisx"
)

// watchInterval is how often a program that uses its shards reads their layout again.
const watchInterval = time.Second

// layoutWatch knows the layout of the shards in Redis while a program runs. It never holds a call
// up: a read of the layout goes on in the background, and one that fails changes nothing. So the
// node that has the layout may be away.
type layoutWatch struct {
	server *redisx.Server
	key    string
	begun  atomic.Int64 // of the last read, in Unix nanoseconds
	found  atomic.Pointer[shardsLayout]
}

// layout returns the layout of the shards in Redis as it was read last, and reads it again if that
// was some time ago. nil: it is that of s.
func (s *Shards) layout() *shardsLayout {
	w := &s.watch
	now, begun := time.Now().UnixNano(), w.begun.Load()
	if now-begun >= int64(watchInterval) && w.begun.CompareAndSwap(begun, now) {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), backgroundTimeout)
			defer cancel()
			s.readLayout(ctx)
		}()
	}
	return w.found.Load()
}

// readLayout reads the layout of the shards once. A deleted layout changes nothing: the next
// NewShards records it again.
func (s *Shards) readLayout(ctx context.Context) {
	w := &s.watch
	text, err := w.server.Client().Do(ctx, w.server.Command("GET", w.key)).ToString()
	if err != nil {
		return
	}
	switch found, err := parseShardsLayout(s.name, text); {
	case err != nil:
	case found == shardsLayout{len(s.queues), s.keyed}:
		w.found.Store(nil)
	default:
		w.found.Store(&found)
	}
}

// changed returns a *ShardsError if the number of shards was changed while this program runs.
func (s *Shards) changed() error {
	if found := s.layout(); found != nil && found.n != len(s.queues) {
		return &ShardsError{Name: s.name, Have: found.n, Want: len(s.queues), Running: true}
	}
	return nil
}

// abandoned reports, by shard, which shards have no place in a layout. nil: its number is theirs.
func (s *Shards) abandoned(l *shardsLayout) []bool {
	if l == nil || l.n == len(s.queues) {
		return nil
	}
	var names []string
	for i := range l.n {
		names = append(names, ShardName(s.name, i, l.n))
	}
	all := make([]bool, len(s.queues))
	for i, q := range s.queues {
		all[i] = !slices.Contains(names, q.name)
	}
	return all
}
