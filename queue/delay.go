package queue

import (
	"cmp"
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
// visible. It takes as many round trips as Push, and with MaxDepth one more.
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
	var last rueidis.RedisResult
	var sent bool // the last command, without which the records stay invisible
	var notDurable error
	err := q.server.Retry(ctx, func() (err error) {
		last, sent, notDurable, err = q.tryDelayed(ctx, uid.New(), due, reservation, chunks, n)
		return err
	})
	if err != nil && sent && !answered(last.Error()) {
		return &PushError{Unknown: n, Err: wrap("push", err)}
	}
	if err != nil {
		return q.wrapScript(ctx, "push", err)
	}
	complete, err := last.AsInt64()
	if err == nil && complete != int64(n) {
		err = errIncomplete
	}
	if err != nil {
		return wrap("push", err)
	}
	return q.durable(notDurable, n)
}

// tryDelayed sends a delayed push, in as many round trips as the pace asks for. It returns the
// result of the last command, and whether it was sent.
func (q *Queue) tryDelayed(ctx context.Context, id string, due int64, reservation string, chunks [][]string, n int) (
	last rueidis.RedisResult, sent bool, notDurable, err error,
) {
	for at := 0; at < len(chunks); {
		size, bytes := q.trip(chunks[at:])
		first := at == 0
		trip := chunks[at : at+size]
		at += size
		sent = at == len(chunks)
		results, aof := q.sendTrip(ctx, bytes, func() (cmds []rueidis.Completed) {
			return q.delayCommands(id, due, reservation, trip, n, first, sent)
		})
		if first {
			results[0] = q.server.Named(ctx, q.call(delayScript, fills), results[0])
		}
		last, notDurable = results[len(results)-1], cmp.Or(notDurable, aof)
		if err = firstError(results); err == nil && !sent {
			err = ctx.Err()
		}
		if err != nil {
			break
		}
	}
	return last, sent, notDurable, err
}

func firstError(results []rueidis.RedisResult) error {
	for _, r := range results {
		if err := r.Error(); err != nil {
			return err
		}
	}
	return nil
}

// delayCommands begins the list of a delayed push, fills it or completes it. LPUSHX adds nothing to
// a list that has expired.
func (q *Queue) delayCommands(id string, due int64, reservation string, chunks [][]string, n int, first, last bool) (cmds []rueidis.Completed) {
	list := q.prefix + "l:" + id
	step := func(args ...string) rueidis.Completed { return q.server.Eval(q.call(delayScript, fills, args...)) }
	if first {
		cmds = append(cmds, step("begin", id, ms(delayLasts), chunks[0][0]))
		chunks = append([][]string{chunks[0][1:]}, chunks[1:]...)
	}
	for _, values := range chunks {
		if len(values) > 0 {
			cmds = append(cmds, q.client.B().Lpushx().Key(list).Element(values...).Build())
		}
	}
	if last {
		cmds = append(cmds, step("end", id, ms(delayLasts), itoa(n), strconv.FormatInt(due, 10), reservation))
	}
	return cmds
}
