package queue

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

func (q *Queue) auditDead(ctx context.Context, a *auditRun, keys auditKeys) error {
	a.report.Dead = int64(len(keys.dead))
	for ids := range slices.Chunk(sorted(union(keys.dead, keys.deadHashes)), page) {
		results := q.server.ReadAll(ctx, func() []rueidis.Completed {
			var cmds []rueidis.Completed
			for _, id := range ids {
				cmds = append(cmds, q.server.Command("HEXISTS", q.deadKey(id), "p"),
					q.server.Command("HMGET", q.deadKey(id), append([]string{"root"}, deadNumbers...)...),
					q.server.Command("PTTL", q.deadKey(id)), q.server.Command("ZSCORE", q.keys[keyDead], id))
			}
			return cmds
		})
		for i, id := range ids {
			if err := a.auditLetter(q, id, keys.dead[id], results[4*i:4*i+4]); err != nil {
				return wrap("audit", err)
			}
		}
	}
	return nil
}

// auditLetter checks a dead letter: whether it has a payload, its fields, its time to live and its
// score in the dead-letter list.
func (a *auditRun) auditLetter(q *Queue, id string, listed bool, results []rueidis.RedisResult) error {
	has, err := results[0].AsInt64()
	if redisx.IsWrongType(err) {
		a.differ(finding{lostDead, id}, "dead letter %s: its key is not a hash", id)
		return nil
	}
	if err != nil {
		return err
	}
	ttl, err := results[2].AsInt64()
	switch {
	case err != nil:
		return err
	case has == 0 && (listed || ttl != keyGone):
		a.differ(finding{lostDead, id}, "dead letter %s: its hash or its payload is gone", id)
	case has == 1 && !listed:
		a.differ(finding{unlistedDead, id}, "dead letter %s: it is not in the dead-letter list", id)
	}
	if has == 0 {
		return nil
	}
	a.expires(q.deadKey(id), ttl)
	odd, err := a.oddField(results[1])
	if err == nil && odd == "" && listed {
		odd, err = a.oddScore(results[3])
	}
	if odd != "" {
		a.differ(finding{oddDead, id}, "dead letter %s: %s is nothing that the queue writes", id, odd)
	}
	return err
}

// deadNumbers are the fields of a dead letter that hold numbers; the last two are times.
var deadNumbers = []string{"off", "att", "fails", "crashes", "first", "died"}

// oddField returns the first field of a dead letter that the queue does not write, with its text.
// The first of all is its root.
func (a *auditRun) oddField(result rueidis.RedisResult) (string, error) {
	fields, err := result.ToArray()
	if err != nil {
		return "", err
	}
	for i, field := range append([]string{"root"}, deadNumbers...) {
		text, err := fields[i].ToString()
		if err != nil && !rueidis.IsRedisNil(err) {
			return "", err
		}
		var sound bool
		switch {
		case i == 0:
			sound = isID(text)
		case field == "off":
			sound = isNumber(text, MaxRecords-1)
		case field == "first" || field == "died":
			sound = isNumber(text, a.lastTime())
		default:
			sound = isNumber(text, maxNumber)
		}
		if !sound {
			return fmt.Sprintf("%s = %q", field, cut(text, maxText)), nil
		}
	}
	return "", nil
}

// oddScore returns a score of the dead-letter list that is no time, or "". One without a score was
// removed since.
func (a *auditRun) oddScore(result rueidis.RedisResult) (string, error) {
	died, err := result.AsFloat64()
	switch {
	case rueidis.IsRedisNil(err) || err == nil && died >= 0 && died < float64(a.lastTime()):
		return "", nil
	case err != nil:
		return "", err
	}
	return fmt.Sprintf("its time %g", died), nil
}
