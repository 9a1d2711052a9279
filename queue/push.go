package queue

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// Push adds payloads to the queue, oldest first. It only sends LPUSH commands, in chunks,
// pipelined: one round trip for any number of records. Records that any other client pushes to the
// list {name}:ready are treated the same.
//
// Push checks all payloads before it sends the first one. It copies them, so the caller may reuse
// them when Push returns, even if ctx ended it. If Redis fails partway, the error is a *PushError.
// While a cluster moves the queue's slot, or a server is loading or failing over, Push retries for
// up to half a minute.
//
// With MaxDepth the whole push is accepted or rejected (ErrFull) before any record is sent. A small
// push then takes one round trip and a large one two, of which the first reserves the room. A
// producer that is frozen for a minute between the two may exceed the bound by that one push.
func (q *Queue) Push(ctx context.Context, payloads ...[]byte) error {
	if err := q.checkPayloads(ctx, payloads); err != nil {
		return err
	}
	if q.cfg.Push.MaxDepth > 0 {
		return q.pushBounded(ctx, payloads)
	}
	chunks, buffers := q.chunks(payloads)
	return q.pushChunks(ctx, chunks, buffers, nil)
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
// ChunkBytes. A command that is still queued in the client when its context ends is sent later, so
// it must not refer to memory of the caller. One buffer holds the bytes of a chunk.
func (q *Queue) chunks(payloads [][]byte) (chunks [][]string, buffers [][]byte) {
	for len(payloads) > 0 {
		n, bytes := 0, 0
		for n < len(payloads) && n < q.cfg.Push.Chunk && (n == 0 || bytes+len(payloads[n]) <= q.cfg.Push.ChunkBytes) {
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
// round trip. With Config.Push.Durable it waits for the disk.
func (q *Queue) pushChunks(ctx context.Context, chunks [][]string, buffers [][]byte, last *redisx.Call) error {
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
	var results []rueidis.RedisResult
	var notDurable error
	_ = q.server.Retry(ctx, func() error { // the outcome is in results
		results, notDurable = q.send(ctx, build)
		if last != nil && q.server.NeedsText(results[len(chunks)].Error()) {
			_ = q.server.Once(ctx, *last, nil)
		}
		results = results[:len(chunks)]
		if slices.ContainsFunc(results, func(r rueidis.RedisResult) bool { return !refused(r.Error()) }) {
			return nil // a part has gone through: sending all of it again would double that part
		}
		return results[0].Error()
	})
	giveBuffers(buffers, results)
	if err := q.pushOutcome(ctx, results, chunks); err != nil {
		return err
	}
	return q.durable(notDurable, records(chunks))
}

// send sends commands together; with Config.Push.Durable followed by WAITAOF on the same
// connection.
func (q *Queue) send(ctx context.Context, build func() []rueidis.Completed) ([]rueidis.RedisResult, error) {
	if q.cfg.Push.Durable {
		return q.server.Durably(ctx, q.cfg.Push.DurableTimeout, build)
	}
	return q.client.DoMulti(ctx, build()...), nil
}

// pushOutcome returns the error of a push from the results of its chunks.
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
	return nil
}

// records counts the records of chunks.
func records(chunks [][]string) (n int) {
	for _, c := range chunks {
		n += len(c)
	}
	return n
}
