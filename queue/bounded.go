package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/internal/uid"
)

const (
	// A push of at most this many records and bytes goes through the script that checks the bound. A
	// larger one reserves room first: a record that passes through Lua costs twice as much as LPUSH.
	smallPush, smallPushBytes = 64, 32 << 10
	// reservationLasts is how long the room of a producer that has died stays reserved.
	reservationLasts = time.Minute
)

// pushBounded pushes within Config.Push.MaxDepth.
func (q *Queue) pushBounded(ctx context.Context, payloads [][]byte) error {
	small, smallBytes := min(smallPush, q.cfg.Push.Chunk), min(smallPushBytes, q.cfg.Push.ChunkBytes)
	if len(payloads) <= small && size(payloads) <= smallBytes {
		chunks, _ := q.chunks(payloads)
		return q.pushSmall(ctx, chunks[0])
	}
	var chunks [][]string
	var buffers [][]byte
	for {
		begin := time.Now()
		id, err := q.reserveDuring(ctx, len(payloads), func() {
			if chunks == nil {
				chunks, buffers = q.chunks(payloads)
			}
		})
		if err != nil {
			return err
		}
		if time.Since(begin) > reservationLasts/2 { // this process was frozen
			q.unreserve(ctx, id, len(payloads))
			continue
		}
		release := q.releaseCall(id, len(payloads))
		released, err := q.pushChunks(ctx, chunks, buffers, &release)
		var pe *PushError
		// What is unknown may still arrive, so its room expires.
		if err != nil && (!errors.As(err, &pe) || !released && pe.Unknown == 0) {
			q.unreserve(ctx, id, len(payloads))
		}
		return err
	}
}

// unreserve ends the reservation of a push that has failed. If this fails too, it expires.
func (q *Queue) unreserve(ctx context.Context, id string, n int) {
	if id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = q.server.Once(ctx, q.releaseCall(id, n), nil)
}

func (q *Queue) releaseCall(id string, n int) redisx.Call {
	return q.call(releaseScript, drains, itoa(n), id)
}

// pushSmall pushes one chunk through the script that checks the bound.
func (q *Queue) pushSmall(ctx context.Context, values []string) error {
	call := q.call(reserveScript, fills, append(q.reserveArgs("", len(values)), values...)...)
	if !q.cfg.Push.Durable {
		return q.reserved(ctx, q.server.Run(ctx, call), len(values), len(values))
	}
	r, notDurable := q.server.RunDurably(ctx, q.cfg.Push.DurableTimeout, call)
	if err := q.reserved(ctx, r, len(values), len(values)); err != nil {
		return err
	}
	return q.durable(notDurable, len(values))
}

// reserve reserves room for n records and returns the id of the reservation. It waits for its reply
// after ctx has ended: the room is given back if there is none, and that must not come before the
// request.
func (q *Queue) reserve(ctx context.Context, n int) (id string, err error) {
	if err := ctx.Err(); err != nil {
		return "", wrap("push", err)
	}
	id = uid.New()
	call, cancel := redisx.Outlive(ctx, replyGrace)
	defer cancel()
	r := q.run(call, reserveScript, fills, q.reserveArgs(id, n)...)
	if !answered(r.Error()) {
		q.unreserve(ctx, id, n)
	}
	return id, q.reserved(ctx, r, n, 0)
}

// reserveDuring reserves room while work runs: the copying of the payloads takes as long as the
// round trip.
func (q *Queue) reserveDuring(ctx context.Context, n int, work func()) (id string, err error) {
	reserved := make(chan struct{})
	go func() {
		defer close(reserved)
		id, err = q.reserve(ctx, n)
	}()
	work()
	<-reserved
	return id, err
}

func (q *Queue) reserveArgs(id string, n int) []string {
	return []string{strconv.FormatInt(q.cfg.Push.MaxDepth, 10), itoa(n), id, ms(reservationLasts)}
}

// reserved reads the reply of reserve.lua for n records. unknown is how many of them a lost reply
// leaves unknown.
func (q *Queue) reserved(ctx context.Context, r rueidis.RedisResult, n, unknown int) error {
	v, err := r.ToArray()
	switch {
	case err != nil && unknown > 0 && !answered(err):
		return &PushError{Unknown: unknown, Err: wrap("push", err)}
	case err != nil:
		return q.wrapScript(ctx, "push", err)
	case len(v) != 2:
		return unexpected("push", len(v), 2)
	}
	status, err := v[0].AsInt64()
	if err != nil {
		return wrap("push", err)
	}
	switch status {
	case 1:
		return nil
	case 0:
		depth, err := v[1].AsInt64()
		if err != nil {
			return wrap("push", err)
		}
		return &FullError{Depth: depth, Max: q.cfg.Push.MaxDepth, Records: int64(n)}
	}
	text, err := v[1].ToString()
	switch {
	case err != nil:
		return wrap("push", err)
	case status == replyCounter:
		return q.counterError(text)
	}
	return q.layoutError(text)
}

// replyCounter is the reply of a bounded push when a counter of the depth holds no number.
const replyCounter = -3

// counterError is the error of a counter with its text.
func (q *Queue) counterError(counter string) error {
	return fmt.Errorf("%w: %s %q: Repair recounts it", ErrCounter, q.keys[keyStat], counter)
}

// durable turns the error of WAITAOF after n pushed records into that of the push.
func (q *Queue) durable(err error, n int) error {
	if err == nil {
		return nil
	}
	return &PushError{Pushed: n, Err: fmt.Errorf("%w: %w", ErrNotDurable, err)}
}

// refused reports whether the server refused a command before it began.
func refused(err error) bool { return redisx.Refused(err) }

// answered reports whether the server answered a command, with success or an error, or was never
// asked. After a broken connection the outcome is unknown.
func answered(err error) bool {
	_, isReply := rueidis.IsRedisErr(err)
	return err == nil || isReply || refused(err) || redisx.NotSent(err)
}

func size(payloads [][]byte) (n int) {
	for _, p := range payloads {
		n += len(p)
	}
	return n
}
