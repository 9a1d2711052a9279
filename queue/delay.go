package queue

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/internal/uid"
)

// delayLasts is how long the unfinished list of a delayed push lasts after its producer has died.
const delayLasts = time.Hour

// errIncomplete reports a list that is not complete when its last command arrives: it was on the
// way between two nodes, or it has expired.
var errIncomplete = errors.New("the list of the delayed push is not complete")

// PushAt adds payloads that become available for lease at the given time, by the server's clock.
// The push is all or nothing: its records wait in a list of their own, which the last command makes
// visible. With MaxDepth it takes one round trip more.
func (q *Queue) PushAt(ctx context.Context, at time.Time, payloads ...[]byte) error {
	if err := q.checkPayloads(ctx, payloads); err != nil {
		return err
	}
	reservation := ""
	if q.cfg.Push.MaxDepth > 0 {
		var err error
		if reservation, err = q.reserve(ctx, len(payloads)); err != nil {
			return err
		}
	}
	chunks, _ := q.chunks(payloads)
	err := q.pushDelayed(ctx, max(redisx.UnixMilli(at), 0), reservation, chunks, len(payloads))
	var pe *PushError
	if err != nil && !errors.As(err, &pe) {
		q.unreserve(ctx, reservation, len(payloads))
	}
	return err
}

// pushDelayed makes the list of a delayed push of n records. It tries anew, under another id, while
// the server refuses a part of it.
func (q *Queue) pushDelayed(ctx context.Context, due int64, reservation string, chunks [][]string, n int) error {
	var results []rueidis.RedisResult
	var notDurable error
	err := q.server.Retry(ctx, func() error {
		results, notDurable = q.send(ctx, func() []rueidis.Completed {
			return q.delayCommands(uid.New(), due, reservation, chunks, n)
		})
		results[0] = q.server.Named(ctx, q.call(delayScript, fills), results[0])
		return firstError(results)
	})
	if err != nil && !answered(results[len(results)-1].Error()) {
		return &PushError{Unknown: n, Err: wrap("push", err)}
	}
	if err != nil {
		return q.wrapScript(ctx, "push", err)
	}
	complete, err := results[len(results)-1].AsInt64()
	if err == nil && complete != int64(n) {
		err = errIncomplete
	}
	if err != nil {
		return wrap("push", err)
	}
	return q.durable(notDurable, n)
}

func firstError(results []rueidis.RedisResult) error {
	for _, r := range results {
		if err := r.Error(); err != nil {
			return err
		}
	}
	return nil
}

// delayCommands makes the list of a delayed push, fills it and completes it. LPUSHX adds nothing to
// a list that has expired.
func (q *Queue) delayCommands(id string, due int64, reservation string, chunks [][]string, n int) []rueidis.Completed {
	list := q.prefix + "l:" + id
	step := func(args ...string) rueidis.Completed { return q.server.Eval(q.call(delayScript, fills, args...)) }
	cmds := []rueidis.Completed{step("begin", id, ms(delayLasts), chunks[0][0])}
	chunks = append([][]string{chunks[0][1:]}, chunks[1:]...)
	for _, values := range chunks {
		if len(values) > 0 {
			cmds = append(cmds, q.client.B().Lpushx().Key(list).Element(values...).Build())
		}
	}
	return append(cmds, step("end", id, ms(delayLasts), itoa(n), strconv.FormatInt(due, 10), reservation))
}
