package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Batches is Queue.Batches. It asks only the shards of the ids.
func (s *Shards) Batches(ctx context.Context, ids ...string) ([]BatchInfo, error) {
	var mu sync.Mutex
	var all []BatchInfo
	_, err := sum(s.idsByShard(ids), func(q *Queue, part []string) (int, error) {
		b, err := q.Batches(ctx, part...)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, b...)
		return len(b), err
	})
	return all, err
}

// InFlight is Queue.InFlight over all shards: the youngest n of their batches, and how many are in
// flight in all. It is one command on each shard.
func (s *Shards) InFlight(ctx context.Context, until time.Time, n int) (batches []BatchInfo, total int64, err error) {
	var mu sync.Mutex
	err = s.each(func(_ int, q *Queue) error {
		b, k, err := q.InFlight(ctx, until, n)
		mu.Lock()
		defer mu.Unlock()
		batches, total = append(batches, b...), total+k
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	slices.SortStableFunc(batches, func(a, b BatchInfo) int { return b.FirstSeen.Compare(a.FirstSeen) })
	return batches[:min(n, len(batches))], total, nil
}

// Annotation is Queue.Annotation.
func (s *Shards) Annotation(ctx context.Context, batch, name string) (string, error) {
	if q := s.OfID(batch); q != nil {
		return q.Annotation(ctx, batch, name)
	}
	return "", nil
}

// Scan is Queue.Scan for one shard after the other, each within the bounds of o. A Position is that
// in the shard. The counts are sums.
func (s *Shards) Scan(ctx context.Context, o ScanOptions, visit func([]ScannedRecord) error) ([]ScanCount, error) {
	var total []ScanCount
	for _, q := range s.queues {
		counts, err := q.Scan(ctx, o, visit)
		for i, c := range counts {
			if i == len(total) {
				total = append(total, ScanCount{Place: c.Place})
			}
			t := &total[i]
			t.Scanned, t.Total, t.Moved = t.Scanned+c.Scanned, t.Total+c.Total, t.Moved || c.Moved
		}
		if err != nil {
			return total, shardError(q, err)
		}
	}
	return total, nil
}

// DeadLetters is Queue.DeadLetters for one shard after the other: oldest first within each.
func (s *Shards) DeadLetters(ctx context.Context, cursor string, n int) (dead []DeadLetter, next string, err error) {
	at, inner := 0, ""
	if cursor != "" {
		shard, rest, _ := strings.Cut(cursor, ":")
		if at, err = strconv.Atoi(shard); err != nil || at < 0 || at >= len(s.queues) {
			return nil, "", fmt.Errorf("%w: DeadLetters: invalid cursor %q", ErrConfig, cut(cursor, maxText))
		}
		inner = rest
	}
	for {
		letters, rest, err := s.queues[at].DeadLetters(ctx, inner, n-len(dead))
		if errors.Is(err, ErrReplyLimit) {
			if len(dead) > 0 {
				return dead, itoa(at) + ":" + inner, nil // the next page begins with it
			}
			if rest != "" {
				rest = itoa(at) + ":" + rest
			} else if at+1 < len(s.queues) {
				rest = itoa(at+1) + ":"
			}
			return nil, rest, shardError(s.queues[at], err)
		}
		if err != nil {
			return nil, "", shardError(s.queues[at], err)
		}
		dead, inner = append(dead, letters...), rest
		if inner == "" {
			at++
		}
		switch {
		case at == len(s.queues):
			return dead, "", nil
		case len(dead) == n, inner != "":
			return dead, itoa(at) + ":" + inner, nil
		}
	}
}

// DeadLetter is Queue.DeadLetter.
func (s *Shards) DeadLetter(ctx context.Context, id string) (DeadLetter, error) {
	q := s.OfID(id)
	if q == nil {
		return DeadLetter{}, fmt.Errorf("%w: %s", ErrGone, shown(id))
	}
	return q.DeadLetter(ctx, id)
}

// Requeue is Queue.Requeue. Each letter goes back to its shard.
func (s *Shards) Requeue(ctx context.Context, ids ...string) (int, error) {
	return sum(s.idsByShard(ids), func(q *Queue, part []string) (int, error) { return q.Requeue(ctx, part...) })
}

// RequeueAll is Queue.RequeueAll for every shard.
func (s *Shards) RequeueAll(ctx context.Context) (int, error) {
	parts := map[*Queue][]string{}
	for _, q := range s.queues {
		parts[q] = nil
	}
	return sum(parts, func(q *Queue, _ []string) (int, error) { return q.RequeueAll(ctx) })
}

// Discard is Queue.Discard.
func (s *Shards) Discard(ctx context.Context, ids ...string) (int, error) {
	return sum(s.idsByShard(ids), func(q *Queue, part []string) (int, error) { return q.Discard(ctx, part...) })
}
