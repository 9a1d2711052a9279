package queue

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// Some replies never arrive. A server closes the connection of a client for which more than
// client-output-buffer-limit normal is waiting to be sent, without an answer. It does the same
// where all buffers exceed maxmemory-clients. On a slow network the client gives up before the end
// of a large reply. A Queue that lost a reply asks for the first bound, and from then on leases
// smaller batches and reads larger ones in small steps. Where the server reports no such bound, it
// tries a quarter of the size, and a larger one again after some time.

// replyShare is the part of the bound that a reply may take: the server counts in blocks.
const replyShare = 4

// replyOverhead is what a record takes in a reply in addition to its bytes, at most.
const replyOverhead = 16

// narrowChunk is how many records the first step of a narrow read takes.
const narrowChunk = 64

// learnReplyLimit asks the server for its bound of replies. A server that does not report it has
// none.
func (q *Queue) learnReplyLimit(ctx context.Context) {
	if n, err := q.server.ReplyLimit(ctx); err == nil {
		q.replyLimit.Store(n)
	}
}

const (
	leastReply = 64 << 10 // no narrower bound is tried
	wider      = 4        // what a bound is divided by, and multiplied with later
	widenAfter = 64       // leases that must be answered before
)

// lostReply notes that no reply came to a lease or a read of up to so many bytes. narrowed was the
// bound at its beginning: of all that break with one connection, the first counts.
func (q *Queue) lostReply(ctx context.Context, err error, narrowed int64, bytes int) {
	if ctx.Err() != nil || redisx.NotSent(err) {
		return
	}
	q.learnReplyLimit(ctx)
	if limit := q.replyLimit.Load(); limit > 0 && int(limit/replyShare) < bytes {
		return // this explains it
	}
	if q.narrowed.CompareAndSwap(narrowed, int64(max(bytes/wider, leastReply))) {
		q.whole.Store(0)
	}
}

// gotReply notes that a lease was answered.
func (q *Queue) gotReply(kind string) {
	narrowed := q.narrowed.Load()
	if narrowed == 0 || kind != "fresh" || q.whole.Add(1) < widenAfter {
		return
	}
	q.whole.Store(0)
	wide := narrowed * wider
	if wide > DefaultBytes {
		wide = 0
	}
	q.narrowed.CompareAndSwap(narrowed, wide)
}

// replyBound returns how many bytes a reply may have. 0: any number.
func (q *Queue) replyBound() int {
	narrowed := int(q.narrowed.Load())
	limit := int(q.replyLimit.Load())
	if limit == 0 {
		return narrowed
	}
	limit = max(limit/replyShare, 1)
	if narrowed > 0 {
		limit = min(limit, narrowed)
	}
	return limit
}

// withinReply bounds a lease so that its records fit in a reply.
func (q *Queue) withinReply(o LeaseOptions) LeaseOptions {
	if bound := q.replyBound(); bound > 0 {
		o.Bytes = min(o.Bytes, bound)
		o.Records = max(1, min(o.Records, bound/replyOverhead))
	}
	return o
}

// readNarrow reads n records of a batch in steps that the server can send. One record that it
// cannot send is ErrReplyLimit. A lost connection is the error of the client.
func (q *Queue) readNarrow(ctx context.Context, id string, n int, have []rueidis.RedisMessage) ([]rueidis.RedisMessage, error) {
	failed := 0 // reads of the next record alone
	for step := q.narrowStep(n); len(have) < n; {
		part, err := q.readStep(ctx, id, len(have), min(step, n-len(have)))
		switch {
		case err == nil && len(part) == 0:
			return have, nil // it was settled in between
		case err == nil:
			have, failed = append(have, part...), 0
			continue
		case answered(err) || ctx.Err() != nil:
			return nil, err
		}
		// The server answers before and after a record that it cannot send.
		if err := q.checkConnection(ctx); err != nil {
			return nil, err
		}
		if step == 1 {
			failed++
		}
		if failed > 1 || step == 1 && q.replyLimit.Load() == 0 {
			return nil, q.replyLimitError(fmt.Sprintf("batch %s, position %d: ", id, n-len(have)-1), err)
		}
		step = max(1, step/2)
	}
	return have, nil
}

// readStep reads n records of a batch's list. Where no bound is known, one record that does not
// arrive may be due to an outage, and is read for as long as any read.
func (q *Queue) readStep(ctx context.Context, id string, from, n int) (part []rueidis.RedisMessage, err error) {
	if n == 1 && q.replyLimit.Load() == 0 {
		return q.server.Read(ctx, "LRANGE", q.listKey(id), itoa(from), itoa(from)).ToArray()
	}
	err = q.server.Retry(ctx, func() (err error) {
		part, err = q.client.Do(ctx, q.readList(id, from, n)).ToArray()
		return err
	})
	return part, err
}

// narrowStep returns how many records the first step of a narrow read of n records takes. Where the
// Queue has set the bound itself, a lost reply may have cost seconds, and the size of the batch is
// taken for that of the largest.
func (q *Queue) narrowStep(n int) int {
	if narrowed := int(q.narrowed.Load()); narrowed > 0 && q.replyLimit.Load() == 0 {
		return max(1, min(narrowChunk, n*narrowed/DefaultBytes))
	}
	return narrowChunk
}

// checkConnection sends a command with a small reply. It fails when the connection does. Where no
// bound is known the lost reply is more likely an outage, so it waits for the end of that.
func (q *Queue) checkConnection(ctx context.Context) error {
	if q.replyLimit.Load() == 0 {
		return q.server.Read(ctx, "LLEN", q.keys[keyReady]).Error()
	}
	return q.server.Retry(ctx, func() error {
		return q.client.Do(ctx, q.server.Command("LLEN", q.keys[keyReady])).Error()
	})
}

// replyLimitError is ErrReplyLimit about what the server cannot send. err is that of the client.
func (q *Queue) replyLimitError(what string, err error) error {
	if limit := q.replyLimit.Load(); limit > 0 {
		return fmt.Errorf("%w: %sclient-output-buffer-limit normal is %d bytes: raise it: %w", ErrReplyLimit, what, limit, err)
	}
	return fmt.Errorf("%w: %sits reply is lost again and again, while others arrive: maxmemory-clients, a proxy or a slow network may be the reason: %w", ErrReplyLimit, what, err)
}

// readSome reads what build asks for with n, or with less if the server cannot send so much at
// once, and returns the n that it has read. With 1 that is ErrReplyLimit.
func (q *Queue) readSome(ctx context.Context, n int, build func(n int) []rueidis.Completed) (r []rueidis.RedisResult, read int, err error) {
	if q.replyBound() > 0 {
		n = min(n, narrowChunk)
	}
	for failures := 0; ; {
		patient := n == 1 && q.replyLimit.Load() == 0
		all := func() []rueidis.Completed { return build(n) }
		if patient { // it may be an outage
			r = q.server.ReadAll(ctx, all)
		} else {
			r = q.client.DoMulti(ctx, all()...)
		}
		failed := slices.IndexFunc(r, func(x rueidis.RedisResult) bool { return !answered(x.Error()) || redisx.Refused(x.Error()) })
		if failed < 0 {
			return r, n, nil
		}
		err = r[failed].Error()
		if answered(err) {
			return q.server.ReadAll(ctx, all), n, nil
		}
		if ctx.Err() != nil {
			return nil, 0, err
		}
		if q.replyLimit.Load() == 0 {
			q.learnReplyLimit(ctx)
		}
		if err := q.server.Read(ctx, "LLEN", q.keys[keyReady]).Error(); err != nil {
			return nil, 0, err
		}
		if n == 1 {
			failures++
		}
		if failures > 1 || patient { // the server answers before and after a record that it cannot send
			return nil, 0, q.replyLimitError("", err)
		}
		n = max(1, n/2)
	}
}

// readEach sends n read commands, and returns their replies. With an error it returns those before
// the command that failed.
func (q *Queue) readEach(ctx context.Context, n int, command func(i int) rueidis.Completed) (all []rueidis.RedisResult, err error) {
	for step := n; len(all) < n; {
		some, read, err := q.readSome(ctx, min(step, n-len(all)), func(n int) []rueidis.Completed {
			cmds := make([]rueidis.Completed, n)
			for i := range cmds {
				cmds[i] = command(len(all) + i)
			}
			return cmds
		})
		if err != nil {
			return all, err
		}
		all, step = append(all, some...), read
	}
	return all, nil
}
