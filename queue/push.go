package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// Push adds payloads to the queue, oldest first. It only sends LPUSH commands, in chunks,
// pipelined. A push of less than a megabyte takes one round trip. The bytes of a round trip follow
// the speed of the network: a larger push takes one where it is fast, and several where it is slow.
// Records that any other client pushes to the list {name}:ready are treated the same.
//
// Push checks all payloads before it sends the first one. It copies them, so the caller may reuse
// them when Push returns, even if ctx ended it. If Redis fails partway, the error is a *PushError.
// While a cluster moves the queue's slot, or a server is loading or failing over, Push retries for
// up to half a minute.
//
// With MaxDepth the whole push is accepted or rejected (ErrFull) before any record is sent. A small
// push then takes one round trip. A large one takes one more, which reserves the room first. A
// producer that takes more than a minute after that, because it is frozen or its network is slow,
// may exceed the bound by that one push.
func (q *Queue) Push(ctx context.Context, payloads ...[]byte) error {
	if err := q.checkPayloads(ctx, payloads); err != nil {
		return err
	}
	if q.cfg.Push.MaxDepth > 0 {
		return q.pushBounded(ctx, payloads)
	}
	chunks, buffers := q.chunks(payloads)
	_, err := q.pushChunks(ctx, chunks, buffers, nil)
	return err
}

// checkPayloads returns an error if a push has no records, or one that is too large for the queue
// or for the server, or if ctx is done: the outcome of a push that is never sent is known.
func (q *Queue) checkPayloads(ctx context.Context, payloads [][]byte) error {
	if len(payloads) == 0 {
		return ErrEmptyPush
	}
	largest := 0
	for i, p := range payloads {
		if len(p) > q.cfg.Push.MaxPayload {
			return &TooLargeError{Index: i, Size: len(p), Max: q.cfg.Push.MaxPayload}
		}
		if len(p) > len(payloads[largest]) {
			largest = i
		}
	}
	if err := ctx.Err(); err != nil {
		return wrap("push", err)
	}
	err := q.server.CheckSize(ctx, len(payloads[largest]))
	var size *redisx.SizeError
	if errors.As(err, &size) {
		return &TooLargeError{Index: largest, Size: size.Size, Max: size.Limit, Setting: size.Setting}
	}
	return wrap("push", err)
}

// chunks copies payloads into the arguments of LPUSH commands, within Config.Push.Chunk and
// ChunkBytes, and within the pace. A command that is still queued in the client when its context
// ends is sent later, so it must not refer to memory of the caller. One buffer holds the bytes of a
// chunk.
func (q *Queue) chunks(payloads [][]byte) (chunks [][]string, buffers [][]byte) {
	most := min(q.cfg.Push.ChunkBytes, q.pace.Limit())
	for len(payloads) > 0 {
		n, bytes := 0, 0
		for n < len(payloads) && n < q.cfg.Push.Chunk && (n == 0 || bytes+len(payloads[n]) <= most) {
			bytes += len(payloads[n])
			n++
		}
		buf := takeBuffer(bytes)
		values := make([]string, n)
		for i, p := range payloads[:n] {
			buf = append(buf, p...)
			values[i] = rueidis.BinaryString(buf[len(buf)-len(p):])
		}
		chunks, buffers = append(chunks, values), append(buffers, buf)
		payloads = payloads[n:]
	}
	return chunks, buffers
}

// maxPooled is the size of the largest buffer that is used again: that of a chunk with the default
// Config.Push.ChunkBytes.
const maxPooled = DefaultChunkBytes

// pooled holds buffers of pushes that have ended. A new buffer for each chunk costs as much as the
// copying: the allocator zeroes it, and the collector runs more often.
var pooled sync.Pool // of *[]byte

// takeBuffer returns an empty buffer for n bytes.
func takeBuffer(n int) []byte {
	if b, ok := pooled.Get().(*[]byte); ok && cap(*b) >= n {
		return (*b)[:0]
	}
	return make([]byte, 0, n)
}

// giveBuffers returns the buffers of commands that have their replies. A command without one may
// still be queued in the client.
func giveBuffers(buffers [][]byte, results []rueidis.RedisResult) {
	for _, r := range results {
		if _, isReply := rueidis.IsRedisErr(r.Error()); r.Error() != nil && !isReply {
			return
		}
	}
	for _, b := range buffers {
		if cap(b) <= maxPooled {
			pooled.Put(&b)
		}
	}
}

// pushChunks sends the chunks to the ready list and then runs last, if it is not nil, in the same
// round trip as the last of them. With Config.Push.Durable it waits for the disk. It reports
// whether last was sent.
func (q *Queue) pushChunks(ctx context.Context, chunks [][]string, buffers [][]byte, last *redisx.Call) (sent bool, err error) {
	var results []rueidis.RedisResult
	var notDurable error
	for len(results) < len(chunks) {
		n, bytes := q.trip(chunks[len(results):])
		trip := chunks[len(results) : len(results)+n]
		var end *redisx.Call
		if len(results)+n == len(chunks) {
			end, sent = last, last != nil
		}
		some, aof := q.pushTrip(ctx, trip, bytes, end)
		results = append(results, some...)
		if firstError(some) != nil {
			break
		}
		if notDurable = cmp.Or(notDurable, aof); len(results) < len(chunks) && ctx.Err() != nil {
			break
		}
	}
	giveBuffers(buffers, results)
	if err := q.pushOutcome(ctx, results, chunks); err != nil {
		var pe *PushError
		if errors.As(err, &pe) && notDurable != nil {
			pe.Err = fmt.Errorf("%w; the disk has not confirmed those before: %w", pe.Err, notDurable)
		}
		return sent, err
	}
	return sent, q.durable(notDurable, records(chunks))
}

// trip returns how many of chunks the next round trip takes, at least one, and their bytes.
func (q *Queue) trip(chunks [][]string) (n, bytes int) {
	for limit := q.pace.Limit(); n < len(chunks); n++ {
		size := 0
		for _, v := range chunks[n] {
			size += len(v)
		}
		if n > 0 && bytes+size > limit {
			break
		}
		bytes += size
	}
	return n, bytes
}

// pushTrip sends the chunks of one round trip, and returns a result for each.
func (q *Queue) pushTrip(ctx context.Context, chunks [][]string, bytes int, last *redisx.Call) (results []rueidis.RedisResult, notDurable error) {
	build := func() []rueidis.Completed {
		cmds := make([]rueidis.Completed, 0, len(chunks)+1)
		for _, values := range chunks {
			cmds = append(cmds, q.client.B().Lpush().Key(q.keys[keyReady]).Element(values...).Build())
		}
		if last != nil {
			cmds = append(cmds, q.server.Evalsha(*last))
		}
		return cmds
	}
	_ = q.server.Retry(ctx, func() error { // the outcome is in results
		results, notDurable = q.sendTrip(ctx, bytes, build)
		if last != nil && q.server.NeedsText(results[len(chunks)].Error()) {
			_ = q.server.Once(ctx, *last, nil)
		}
		results = results[:len(chunks)]
		if slices.ContainsFunc(results, func(r rueidis.RedisResult) bool { return !refused(r.Error()) }) {
			return nil // a part has gone through: sending all of it again would double that part
		}
		return results[0].Error()
	})
	return results, notDurable
}

// sendTrip does what send does, and adjusts the pace.
func (q *Queue) sendTrip(ctx context.Context, bytes int, build func() []rueidis.Completed) ([]rueidis.RedisResult, error) {
	begin := time.Now()
	results, notDurable := q.send(ctx, build)
	lost := slices.ContainsFunc(results, func(r rueidis.RedisResult) bool { return !answered(r.Error()) })
	if !lost || ctx.Err() == nil {
		q.pace.Learn(bytes, time.Since(begin), lost)
	}
	return results, notDurable
}

// send sends commands together; with Config.Push.Durable followed by WAITAOF on the same
// connection.
func (q *Queue) send(ctx context.Context, build func() []rueidis.Completed) ([]rueidis.RedisResult, error) {
	if q.cfg.Push.Durable {
		return q.server.Durably(ctx, q.cfg.Push.DurableTimeout, build)
	}
	return q.client.DoMulti(ctx, build()...), nil
}

// pushOutcome returns the error of a push from the results of its chunks. The chunks without a
// result were not sent.
func (q *Queue) pushOutcome(ctx context.Context, results []rueidis.RedisResult, chunks [][]string) error {
	pushed := 0
	for i, r := range results {
		err := r.Error()
		if err == nil {
			pushed += len(chunks[i])
			continue
		}
		unknown, sum := 0, 0
		for j := i; j < len(results); j++ {
			sum += len(chunks[j])
			// An error reply is an answer, and a broken connection is not. A later chunk may have gone
			// through, and then those before it count with it: the caller knows the records by their order.
			if later := results[j].Error(); later == nil || !answered(later) {
				unknown = sum
			}
		}
		if pushed == 0 && unknown == 0 {
			return wrapKeys(ctx, q.server, "push", err, q.typeOf(keyReady))
		}
		return &PushError{Pushed: pushed, Unknown: unknown, Err: wrapKeys(ctx, q.server, "push", err, q.typeOf(keyReady))}
	}
	if len(results) < len(chunks) {
		return &PushError{Pushed: pushed, Err: wrap("push", ctx.Err())}
	}
	return nil
}

// records counts the records of chunks.
func records(chunks [][]string) (n int) {
	for _, c := range chunks {
		n += len(c)
	}
	return n
}
