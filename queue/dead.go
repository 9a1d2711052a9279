package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/uid"
)

// Dead lists up to n dead records, the one that died first first. cursor is "" to begin, then the next of the call before; next is ""
// at the end. Records that are requeued or dropped in between shift nothing.
func (q *Queue) DeadLetters(ctx context.Context, cursor string, n int) (dead []DeadLetter, next string, err error) {
	if n < 1 || n > MaxRecords {
		return nil, "", fmt.Errorf("%w: Dead of %d records: must be 1 to %d", ErrConfig, n, MaxRecords)
	}
	ids, next, err := q.deadIDs(ctx, cursor, n)
	if err != nil || len(ids) == 0 {
		return nil, next, err
	}
	cmds := make([]rueidis.Completed, len(ids))
	for i, id := range ids {
		cmds[i] = q.c.B().Hgetall().Key(q.prefix + "d:" + id).Build()
	}
	for i, r := range q.c.DoMulti(ctx, cmds...) {
		f, err := r.AsStrMap()
		if err != nil {
			return nil, "", wrap("dead", err)
		}
		if len(f) == 0 {
			continue // requeued or dropped since
		}
		num := func(field string) int64 { n, _ := strconv.ParseInt(f[field], 10, 64); return n }
		dead = append(dead, DeadLetter{
			ID: ids[i], Payload: []byte(f["p"]), Root: f["root"], Offset: int(num("off")), Reason: f["reason"], Attempts: num("att"),
			Failures: int(num("fails")), Crashes: int(num("crashes")), FirstSeen: time.UnixMilli(num("first")), Died: time.UnixMilli(num("died")),
		})
	}
	return dead, next, nil
}

// deadIDs pages through the dead list by time of death and, within one millisecond, by id: a cursor names the last one seen.
func (q *Queue) deadIDs(ctx context.Context, cursor string, n int) (ids []string, next string, err error) {
	key, from, after := q.prefix+"dead", "-inf", ""
	if cursor != "" {
		var ok bool
		if from, after, ok = strings.Cut(cursor, "/"); !ok {
			return nil, "", fmt.Errorf("%w: cursor %q of Dead is none", ErrConfig, cursor)
		}
		if _, err := strconv.ParseInt(from, 10, 64); err != nil {
			return nil, "", fmt.Errorf("%w: cursor %q of Dead is none", ErrConfig, cursor)
		}
	}
	score := ""
	for skip := int64(0); len(ids) < n; {
		z, err := q.c.Do(ctx, q.c.B().Zrangebyscore().Key(key).Min(from).Max("+inf").Withscores().Limit(skip, int64(n)+1).Build()).AsZScores()
		if err != nil {
			return nil, "", wrap("dead", err)
		}
		for _, e := range z {
			s := strconv.FormatInt(int64(e.Score), 10)
			if s == from && e.Member <= after {
				continue
			}
			if len(ids) == n {
				return ids, score + "/" + ids[n-1], nil
			}
			ids, score = append(ids, e.Member), s
		}
		if len(z) <= n {
			return ids, "", nil
		}
		skip += int64(len(z))
	}
	return ids, score + "/" + ids[len(ids)-1], nil
}

// Requeue gives dead records another chance, each as a batch of its own at its old place, with all counters at zero. It answers how
// many of them there were.
func (q *Queue) Requeue(ctx context.Context, ids ...string) (int, error) {
	total := 0
	for len(ids) > 0 {
		n := min(len(ids), page)
		args := make([]string, 1, 1+2*n)
		args[0] = q.prefix
		for _, id := range ids[:n] {
			args = append(args, id, uid.New())
		}
		// This takes memory, so a full Redis refuses it.
		done, err := q.run(ctx, requeueScript, false, args...).AsInt64()
		if err != nil {
			return total, wrap("requeue", err)
		}
		total += int(done)
		ids = ids[n:]
	}
	return total, nil
}

// RequeueAll requeues as many records as are dead when it is called, oldest first.
func (q *Queue) RequeueAll(ctx context.Context) (int, error) {
	all, err := q.c.Do(ctx, q.c.B().Zcard().Key(q.prefix+"dead").Build()).AsInt64()
	if err != nil {
		return 0, wrap("requeue", err)
	}
	total := 0
	end := ""
	for { // records that die anew meanwhile would keep this going
		ids, next, err := q.deadIDs(ctx, end, page)
		if err != nil {
			return total, err
		}
		n, err := q.Requeue(ctx, ids...)
		total += n
		if err != nil || next == "" || int64(total) >= all {
			return total, err
		}
		end = next
	}
}

// Drop throws dead records away, by choice; nothing else ever removes one. It answers how many of them there were.
func (q *Queue) Discard(ctx context.Context, ids ...string) (int, error) {
	total := 0
	for len(ids) > 0 {
		n := min(len(ids), page)
		done, err := q.run(ctx, dropScript, true, append([]string{q.prefix}, ids[:n]...)...).AsInt64()
		if err != nil {
			return total, wrap("drop", err)
		}
		total += int(done)
		ids = ids[n:]
	}
	return total, nil
}
