package queue

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/uid"
)

// Push adds payloads to the queue, oldest first. It is LPUSH and nothing else, in chunks, pipelined: one
// round trip, however many records. What any other client pushes to the list {name}:ready is an equal citizen.
//
// All payloads are checked before the first is sent. When Redis fails on the way the error is a *PushError. While a
// cluster moves the queue's slot, or a server is loading, Push waits up to half a minute. With
// MaxDepth the whole push is accepted or refused in one step (ErrFull), at the price of passing
// through a script.
func (q *Queue) Push(ctx context.Context, payloads ...[]byte) error {
	if err := q.check(payloads); err != nil {
		return err
	}
	if q.cfg.Push.MaxDepth > 0 {
		return q.pushScript(ctx, "", payloads)
	}
	var sizes []int // records of each chunk
	for from := 0; from < len(payloads); {
		to, bytes := from, 0
		for to < len(payloads) && to-from < q.cfg.Push.Chunk && (to == from || bytes+len(payloads[to]) <= q.cfg.Push.ChunkBytes) {
			bytes += len(payloads[to])
			to++
		}
		sizes = append(sizes, to-from)
		from = to
	}
	var results []rueidis.RedisResult
	for try := 0; ; try++ {
		results = q.together(ctx, q.lpush(payloads, sizes))
		if slices.ContainsFunc(results[:len(sizes)], func(r rueidis.RedisResult) bool { return !refused(r.Error()) }) || !pause(ctx, try) {
			break
		}
	}
	pushed := 0
	for i, n := range sizes {
		if err := results[i].Error(); err != nil {
			unknown, sum := 0, 0
			for j := i; j < len(sizes); j++ {
				sum += sizes[j]
				// A refusal is an answer; a broken connection is none. A later chunk may have gone through, and then the
				// ones before it count with it: the caller knows the records by their places.
				if _, ok := rueidis.IsRedisErr(results[j].Error()); !ok && !refused(results[j].Error()) {
					unknown = sum
				}
			}
			if pushed == 0 && unknown == 0 {
				return wrap("push", err)
			}
			return &PushError{Pushed: pushed, Unknown: unknown, Err: wrap("push", err)}
		}
		pushed += n
	}
	if q.cfg.Push.Durable {
		return q.durable(results[len(sizes)], pushed)
	}
	return nil
}

// together runs commands on one connection. WAITAOF speaks of its own, so a cluster's client must not follow a redirect of
// those before it: the redirect comes back as a refusal.
func (q *Queue) together(ctx context.Context, cmds []rueidis.Completed) (r []rueidis.RedisResult) {
	if !q.cfg.Push.Durable || q.c.Mode() != rueidis.ClientModeCluster {
		return q.c.DoMulti(ctx, cmds...)
	}
	_ = q.c.Dedicated(func(c rueidis.DedicatedClient) error { // its error is f's
		r = c.DoMulti(ctx, cmds...)
		return nil
	})
	return r
}

// lpush builds the commands of a push, in chunks of the given sizes.
func (q *Queue) lpush(payloads [][]byte, sizes []int) []rueidis.Completed {
	cmds := make([]rueidis.Completed, 0, len(sizes)+1)
	for _, n := range sizes {
		values := make([]string, n)
		for i, p := range payloads[:n] {
			values[i] = rueidis.BinaryString(p)
		}
		cmds, payloads = append(cmds, q.c.B().Lpush().Key(q.keys[kReady]).Element(values...).Build()), payloads[n:]
	}
	if q.cfg.Push.Durable {
		// In one DoMulti: WAITAOF waits for what its own connection wrote.
		cmds = append(cmds, q.waitAOF(q.cfg.Push.DurableTimeout))
	}
	return cmds
}

// PushAt adds payloads that are leased at the given time at the earliest, by the server's clock. The whole push is
// accepted or refused in one step.
func (q *Queue) PushAt(ctx context.Context, at time.Time, payloads ...[]byte) error {
	if err := q.check(payloads); err != nil {
		return err
	}
	return q.pushScript(ctx, strconv.FormatInt(max(at.UnixMilli(), 0), 10), payloads)
}

func (q *Queue) pushScript(ctx context.Context, due string, payloads [][]byte) error {
	args := make([]string, 4, 4+len(payloads))
	args[0], args[1], args[2], args[3] = q.prefix, strconv.FormatInt(q.cfg.Push.MaxDepth, 10), due, uid.New()
	for _, p := range payloads {
		args = append(args, rueidis.BinaryString(p))
	}
	var r, aof rueidis.RedisResult
	if q.cfg.Push.Durable {
		for try := 0; ; try++ {
			m := q.together(ctx, []rueidis.Completed{q.evalsha(pushScript, false, args), q.waitAOF(q.cfg.Push.DurableTimeout)})
			if noScript(m[0].Error()) {
				m = q.together(ctx, []rueidis.Completed{q.eval(pushScript, false, args), q.waitAOF(q.cfg.Push.DurableTimeout)})
			}
			if r, aof = m[0], m[1]; !refused(r.Error()) || !pause(ctx, try) {
				break
			}
		}
	} else {
		r = q.run(ctx, pushScript, false, args...)
	}
	v, err := r.AsIntSlice()
	switch {
	case err != nil:
		if _, ok := rueidis.IsRedisErr(err); ok || refused(err) {
			return wrap("push", err)
		}
		return &PushError{Unknown: len(payloads), Err: wrap("push", err)}
	case len(v) != 2:
		return fmt.Errorf("queue: push: strange reply of %d values", len(v))
	case v[0] == 0:
		return &FullError{Depth: v[1], Max: q.cfg.Push.MaxDepth, Records: int64(len(payloads))}
	}
	if q.cfg.Push.Durable {
		return q.durable(aof, len(payloads))
	}
	return nil
}

// durable reads what WAITAOF said after n records were pushed.
func (q *Queue) durable(r rueidis.RedisResult, n int) error {
	v, err := r.AsIntSlice()
	if err == nil && len(v) > 0 && v[0] >= 1 {
		return nil
	}
	if err != nil {
		return &PushError{Pushed: n, Err: fmt.Errorf("%w: %w", ErrNotDurable, err)}
	}
	return &PushError{Pushed: n, Err: fmt.Errorf("%w within %v", ErrNotDurable, q.cfg.Push.DurableTimeout)}
}

func (q *Queue) check(payloads [][]byte) error {
	if len(payloads) == 0 {
		return ErrEmptyPush
	}
	for i, p := range payloads {
		if len(p) > q.cfg.Push.MaxPayload {
			return &TooLargeError{Index: i, Size: len(p), Max: q.cfg.Push.MaxPayload}
		}
	}
	return nil
}
