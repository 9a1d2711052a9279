package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ShardsPushError reports a push to several shards of which some have failed. The records of the
// other shards are in the queue.
type ShardsPushError struct {
	// Rest are the indexes of the payloads that are not in the queue, in ascending order.
	Rest []int
	// Unknown are those whose outcome is unknown: pushing them again may duplicate them.
	Unknown []int
	// Err joins the errors of the shards.
	Err error
}

func (e *ShardsPushError) Error() string {
	return fmt.Sprintf("queue: push: %d records not pushed, %d unknown: %v", len(e.Rest), len(e.Unknown), e.Err)
}

func (e *ShardsPushError) Unwrap() error { return e.Err }

// Push pushes each payload to its shard, to all shards at once. Each shard accepts or rejects its
// part independently: the error of a push that has failed in part is a *ShardsPushError, which
// names the payloads to push again. It costs what Queue.Push costs on each shard that has a part.
//
// A program that has opened the queue without keyOf gets ErrConfig if another one places its
// records by a key.
func (s *Shards) Push(ctx context.Context, payloads ...[]byte) error {
	return s.PushGated(ctx, nil, payloads...)
}

// PushGated is Push with a gate in front of each shard. acquire is called with each shard that has
// a part and the size of the part. It returns when the part may be pushed, and the function that it
// returns is called when the push has succeeded: after another outcome, the records may be in the
// queue or on their way. A shard that waits for its gate does not hold up the others. If
// acquire is nil, there is no gate.
func (s *Shards) PushGated(
	ctx context.Context, acquire func(ctx context.Context, q *Queue, records int, bytes int64) (release func(), err error), payloads ...[]byte,
) error {
	parts, err := s.partsOf(ctx, payloads)
	if err != nil {
		return err
	}
	return s.pushParts(payloads, parts, func(q *Queue, part [][]byte) error {
		if acquire == nil {
			return q.Push(ctx, part...)
		}
		release, err := acquire(ctx, q, len(part), int64(size(part)))
		if err != nil {
			return err
		}
		if err := q.Push(ctx, part...); err != nil {
			return err
		}
		release()
		return nil
	})
}

// PushAt is Queue.PushAt for all shards at once. The part of each shard is all or nothing, and the
// error of a push that has failed in part is a *ShardsPushError, as with Push.
func (s *Shards) PushAt(ctx context.Context, at time.Time, payloads ...[]byte) error {
	parts, err := s.partsOf(ctx, payloads)
	if err != nil {
		return err
	}
	return s.pushParts(payloads, parts, func(q *Queue, part [][]byte) error { return q.PushAt(ctx, at, part...) })
}

// partsOf checks payloads and divides them among the shards, by their indexes.
func (s *Shards) partsOf(ctx context.Context, payloads [][]byte) ([][]int, error) {
	if err := s.queues[0].checkPayloads(ctx, payloads); err != nil { // before any shard has its part
		return nil, err
	}
	if err := s.changed(); err != nil {
		return nil, err
	}
	if s.keyOf == nil {
		if found := s.watch.found.Load(); s.keyed || found != nil && found.keyed {
			return nil, fmt.Errorf("%w: NewShards: keyOf is nil, must return the key of a payload: another program places the records of %s by it", ErrConfig, s.name)
		}
		return s.inTurn(len(payloads)), nil
	}
	parts := make([][]int, len(s.queues))
	for i, p := range payloads {
		at := s.ShardOf(s.keyOf(p))
		parts[at] = append(parts[at], i)
	}
	return parts, nil
}

// PushKeyed is Push for a producer that knows the keys and so need not parse the payloads:
// payloads[i] goes to the shard of keys[i]. It returns ErrConfig if no program has opened the queue
// with a key.
func (s *Shards) PushKeyed(ctx context.Context, keys []string, payloads [][]byte) error {
	if err := s.queues[0].checkPayloads(ctx, payloads); err != nil {
		return err
	}
	if len(keys) != len(payloads) {
		return fmt.Errorf("%w: PushKeyed: the number of keys is %d, must be %d, one for each payload", ErrConfig, len(keys), len(payloads))
	}
	if err := s.changed(); err != nil {
		return err
	}
	if found := s.watch.found.Load(); !s.keyed && (found == nil || !found.keyed) {
		return fmt.Errorf("%w: NewShards: keyOf is nil, must return the key of a payload where PushKeyed is used", ErrConfig)
	}
	parts := make([][]int, len(s.queues))
	for i, k := range keys {
		at := s.ShardOf(k)
		parts[at] = append(parts[at], i)
	}
	return s.pushParts(payloads, parts, func(q *Queue, part [][]byte) error { return q.Push(ctx, part...) })
}

// inTurn divides n payloads evenly, beginning with another shard each time.
func (s *Shards) inTurn(n int) [][]int {
	parts := make([][]int, len(s.queues))
	first := int(s.next.Add(1) % uint64(len(s.queues)))
	size := (n + len(s.queues) - 1) / len(s.queues)
	for i := range n {
		at := (first + i/size) % len(s.queues)
		parts[at] = append(parts[at], i)
	}
	return parts
}

// pushParts pushes the payloads of each shard, given by their indexes, to all shards at once.
func (s *Shards) pushParts(payloads [][]byte, parts [][]int, push func(q *Queue, part [][]byte) error) error {
	var mu sync.Mutex
	failed := &ShardsPushError{}
	var errs []error
	var wg sync.WaitGroup
	for i, part := range parts {
		if len(part) == 0 {
			continue
		}
		wg.Go(func() {
			mine := make([][]byte, len(part))
			for k, at := range part {
				mine[k] = payloads[at]
			}
			err := push(s.queues[i], mine)
			if err == nil {
				return
			}
			pushed, unknown := 0, 0
			var pe *PushError
			if errors.As(err, &pe) {
				pushed, unknown, err = pe.Pushed, pe.Unknown, pe.Err // the counts are of this shard alone
			}
			mu.Lock()
			defer mu.Unlock()
			failed.Unknown = append(failed.Unknown, part[pushed:pushed+unknown]...)
			failed.Rest = append(failed.Rest, part[pushed+unknown:]...)
			errs = append(errs, shardError(s.queues[i], err))
		})
	}
	wg.Wait()
	if len(errs) == 0 {
		return nil
	}
	slices.Sort(failed.Rest)
	slices.Sort(failed.Unknown)
	failed.Err = errors.Join(errs...)
	return failed
}
