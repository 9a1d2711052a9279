package queue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// DeadLetters lists up to n dead letters, oldest first; those of the same millisecond come in any
// order. For the first page, cursor is ""; for each further page, it is the next that the call
// before returned. next is "" at the end. Letters that are requeued or discarded in between do not
// shift the pages.
//
// A page ends before a letter that is over the server's client-output-buffer-limit. A page that
// begins with one is [ErrReplyLimit], which names the letter, and next is that of the letters after
// it.
func (q *Queue) DeadLetters(ctx context.Context, cursor string, n int) (dead []DeadLetter, next string, err error) {
	if err := within("DeadLetters: n", n, 1, MaxRecords); err != nil {
		return nil, "", err
	}
	listed, next, err := q.listDead(ctx, cursor, n)
	if err != nil {
		return nil, "", err
	}
	read := 0
	for p := range slices.Chunk(listed, page) {
		letters, n, err := q.deadLetters(ctx, idsOf(p))
		dead = append(dead, letters...)
		read += n
		switch {
		case errors.Is(err, ErrReplyLimit) && read == 0:
			if len(listed) > 1 {
				next = listed[0].String()
			}
			return nil, next, err
		case errors.Is(err, ErrReplyLimit):
			return dead, listed[read-1].String(), nil
		case err != nil:
			return nil, "", err
		}
	}
	return dead, next, nil
}

// deadLetters reads dead letters, and returns how many of the ids it has read. It leaves out those
// that were requeued or discarded since, and those whose key holds another type: Audit names them.
func (q *Queue) deadLetters(ctx context.Context, ids []string) (dead []DeadLetter, read int, err error) {
	results, err := q.readEach(ctx, len(ids), func(i int) rueidis.Completed { return q.server.Command("HGETALL", q.deadKey(ids[i])) })
	for i, r := range results {
		f, err := r.AsStrMap()
		if err = wrap("dead letters", err); errors.Is(err, ErrWrongType) {
			continue
		}
		if err != nil {
			return nil, 0, err
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
	if errors.Is(err, ErrReplyLimit) {
		err = fmt.Errorf("%w: dead letter %s", err, ids[len(results)])
	}
	return dead, len(results), wrap("dead letters", err)
}

func (q *Queue) deadKey(id string) string { return q.prefix + "d:" + id }

// A deadCursor is a letter that was listed: its time of death, and its id, which orders the letters
// of one millisecond. The last one of a page is the cursor of the next.
type deadCursor struct{ died, id string }

func parseDeadCursor(s string) (deadCursor, error) {
	if s == "" {
		return deadCursor{died: "-inf"}, nil
	}
	died, id, ok := strings.Cut(s, "/")
	if f, err := strconv.ParseFloat(died, 64); !ok || err != nil || math.IsNaN(f) {
		return deadCursor{}, fmt.Errorf("%w: DeadLetters: invalid cursor %q", ErrConfig, cut(s, maxText))
	}
	return deadCursor{died, id}, nil
}

func (c deadCursor) String() string { return c.died + "/" + c.id }

// score formats a score exactly. Another program may have written one that is no time.
func score(s float64) string {
	if math.Abs(s) <= maxNumber {
		return strconv.FormatFloat(s, 'f', -1, 64)
	}
	return strconv.FormatFloat(s, 'g', -1, 64)
}

// idsOf returns the ids of dead letters.
func idsOf(listed []deadCursor) []string {
	ids := make([]string, len(listed))
	for i, c := range listed {
		ids[i] = c.id
	}
	return ids
}

// listDead lists up to n dead letters after a cursor, in pages.
func (q *Queue) listDead(ctx context.Context, cursor string, n int) (listed []deadCursor, next string, err error) {
	from, err := parseDeadCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	for skip := 0; ; skip += page {
		z, err := q.server.Read(ctx, "ZRANGEBYSCORE", q.keys[keyDead], from.died, "+inf", "WITHSCORES",
			"LIMIT", itoa(skip), itoa(page)).AsZScores()
		if err != nil {
			return nil, "", wrapKeys(ctx, q.server, "dead letters", err, q.typeOf(keyDead))
		}
		for _, e := range z {
			died := score(e.Score)
			if died == from.died && e.Member <= from.id {
				continue
			}
			if len(listed) == n {
				return listed, listed[n-1].String(), nil
			}
			listed = append(listed, deadCursor{died, e.Member})
		}
		if len(z) < page {
			return listed, "", nil
		}
	}
}

// Requeue delivers dead letters again, each as a batch of its own at its old place, with all
// counters at zero. It returns how many of the ids were dead letters. It also works at maxmemory:
// a dead letter takes about as much memory as its batch, and only its delivery frees it.
func (q *Queue) Requeue(ctx context.Context, ids ...string) (int, error) {
	total := 0
	for len(ids) > 0 {
		var args []string
		for _, id := range ids[:min(len(ids), longPage)] {
			args = append(args, id, q.newID())
		}
		v, err := q.run(ctx, requeueScript, drains, args...).AsIntSlice()
		if err == nil && len(v) != 2 {
			err = unexpected("requeue", len(v), 2)
		}
		if err != nil {
			return total, q.wrapScript(ctx, "requeue", err)
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
		return 0, wrapKeys(ctx, q.server, "requeue", err, q.typeOf(keyDead))
	}
	total, cursor := 0, ""
	for { // records that die again meanwhile would keep this going
		listed, next, err := q.listDead(ctx, cursor, page)
		if err != nil {
			return total, err
		}
		n, err := q.Requeue(ctx, idsOf(listed)...)
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
			return total, q.wrapScript(ctx, "discard", err)
		}
		total += int(done)
	}
	return total, nil
}
