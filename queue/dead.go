package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// DeadLetters lists up to n dead letters, oldest first. For the first page, cursor is ""; for each
// further page, it is the next that the call before returned. next is "" at the end. Letters that
// are requeued or discarded in between do not shift the pages.
func (q *Queue) DeadLetters(ctx context.Context, cursor string, n int) (dead []DeadLetter, next string, err error) {
	if err := within("DeadLetters: n", n, 1, MaxRecords); err != nil {
		return nil, "", err
	}
	ids, next, err := q.deadIDs(ctx, cursor, n)
	if err != nil {
		return nil, "", err
	}
	for p := range slices.Chunk(ids, page) {
		letters, err := q.deadLetters(ctx, p)
		if err != nil {
			return nil, "", err
		}
		dead = append(dead, letters...)
	}
	return dead, next, nil
}

// deadLetters reads dead letters. It leaves out those that were requeued or discarded since, and
// those whose key holds another type: Audit names them.
func (q *Queue) deadLetters(ctx context.Context, ids []string) (dead []DeadLetter, err error) {
	results := q.server.ReadAll(ctx, func() []rueidis.Completed {
		cmds := make([]rueidis.Completed, len(ids))
		for i, id := range ids {
			cmds[i] = q.server.Command("HGETALL", q.deadKey(id))
		}
		return cmds
	})
	for i, r := range results {
		f, err := r.AsStrMap()
		if err = wrap("dead letters", err); errors.Is(err, ErrWrongType) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(f) == 0 {
			continue
		}
		num := func(field string) int64 { n, _ := strconv.ParseInt(f[field], 10, 64); return n }
		dead = append(dead, DeadLetter{
			ID: ids[i], Payload: []byte(f["p"]), Root: f["root"], Offset: int(num("off")), Reason: f["reason"], Attempts: num("att"),
			Failures: int(num("fails")), Crashes: int(num("crashes")), FirstSeen: time.UnixMilli(num("first")), Died: time.UnixMilli(num("died")),
		})
	}
	return dead, nil
}

func (q *Queue) deadKey(id string) string { return q.prefix + "d:" + id }

// A deadCursor is the last letter that was listed: its time of death, and its id, which orders the
// letters of one millisecond.
type deadCursor struct{ died, id string }

func parseDeadCursor(s string) (deadCursor, error) {
	if s == "" {
		return deadCursor{died: "-inf"}, nil
	}
	died, id, ok := strings.Cut(s, "/")
	if _, err := strconv.ParseInt(died, 10, 64); !ok || err != nil {
		return deadCursor{}, fmt.Errorf("%w: DeadLetters: invalid cursor %q", ErrConfig, s)
	}
	return deadCursor{died, id}, nil
}

func (c deadCursor) String() string { return c.died + "/" + c.id }

// deadIDs lists the ids of up to n dead letters after a cursor, in pages.
func (q *Queue) deadIDs(ctx context.Context, cursor string, n int) (ids []string, next string, err error) {
	from, err := parseDeadCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	last := from
	for skip := 0; ; skip += page {
		z, err := q.server.Read(ctx, "ZRANGEBYSCORE", q.keys[keyDead], from.died, "+inf", "WITHSCORES",
			"LIMIT", itoa(skip), itoa(page)).AsZScores()
		if err != nil {
			return nil, "", wrap("dead letters", err)
		}
		for _, e := range z {
			died := strconv.FormatInt(int64(e.Score), 10)
			if died == from.died && e.Member <= from.id {
				continue
			}
			if len(ids) == n {
				return ids, last.String(), nil
			}
			ids, last = append(ids, e.Member), deadCursor{died, e.Member}
		}
		if len(z) < page {
			return ids, "", nil
		}
	}
}

// Requeue delivers dead letters again, each as a batch of its own at its old place, with all
// counters at zero. It returns how many of the ids were dead letters.
func (q *Queue) Requeue(ctx context.Context, ids ...string) (int, error) {
	total := 0
	for len(ids) > 0 {
		var args []string
		for _, id := range ids[:min(len(ids), page)] {
			args = append(args, id, q.newID())
		}
		// This takes memory, so a full Redis refuses it.
		v, err := q.run(ctx, requeueScript, fills, args...).AsIntSlice()
		if err == nil && len(v) != 2 {
			err = unexpected("requeue", len(v), 2)
		}
		if err != nil {
			return total, wrap("requeue", err)
		}
		total += int(v[0])
		ids = ids[v[1]:]
	}
	return total, nil
}

// RequeueAll requeues as many letters as the dead-letter list has when it is called, oldest first.
// It returns how many it requeued.
func (q *Queue) RequeueAll(ctx context.Context) (int, error) {
	all, err := q.server.Read(ctx, "ZCARD", q.keys[keyDead]).AsInt64()
	if err != nil {
		return 0, wrap("requeue", err)
	}
	total, cursor := 0, ""
	for { // records that die again meanwhile would keep this going
		ids, next, err := q.deadIDs(ctx, cursor, page)
		if err != nil {
			return total, err
		}
		n, err := q.Requeue(ctx, ids...)
		total += n
		if err != nil || next == "" || int64(total) >= all {
			return total, err
		}
		cursor = next
	}
}

// Discard deletes dead letters for good; no other call ever does. It returns how many of the ids
// were dead letters.
func (q *Queue) Discard(ctx context.Context, ids ...string) (int, error) {
	total := 0
	for p := range slices.Chunk(ids, page) {
		done, err := q.run(ctx, discardScript, drains, p...).AsInt64()
		if err != nil {
			return total, wrap("discard", err)
		}
		total += int(done)
	}
	return total, nil
}
