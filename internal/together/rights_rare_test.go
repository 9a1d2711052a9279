package together_test

import (
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/queue"
)

// rareCalls returns calls that a healthy server rarely sees, each on a queue of its own: its name
// ends in the number of the call. Each can be made once.
func rareCalls(t *testing.T, c rueidis.Client, name string) map[string]func() error {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do := func(args ...string) {
		t.Helper()
		must(c.Do(ctx, c.B().Arbitrary(args...).Build()).Error())
	}
	// batches opens a queue with three leased batches of one record.
	batches := func(number string) (q *queue.Queue, b []*queue.Batch, tag string) {
		t.Helper()
		q, err := queue.New(ctx, c, name+"-"+number, queue.Config{
			Lease: queue.LeaseConfig{Backoff: time.Millisecond, MaxBackoff: time.Millisecond}, Logger: slog.New(slog.DiscardHandler),
		})
		must(err)
		must(q.Push(ctx, []byte("a"), []byte("b"), []byte("c")))
		for range 3 {
			one, err := q.TryLease(ctx, queue.LeaseOptions{Records: 1, Duration: time.Hour})
			must(err)
			b = append(b, one)
		}
		return q, b, "{" + q.Name() + "}:"
	}
	undo := func(tag string) []queue.Undo {
		do("SET", tag+"claim", "old")
		return []queue.Undo{{Key: tag + "claim", Old: "old", New: "new"}}
	}
	acked, ackedBatches, tag := batches("3")
	ackUndo := undo(tag)
	buried, buriedBatches, tag := batches("4")
	buryUndo := undo(tag)
	broken, brokenBatches, tag := batches("5")
	do("HSET", tag+"queue:m:"+brokenBatches[0].ID, "n", "many")
	do("HSET", tag+"queue:m:"+brokenBatches[1].ID, "n", "many")
	clocked, clockedBatches, tag := batches("6")
	ahead := time.Now().Add(time.Hour).UnixMilli()
	do("HSET", tag+"queue:stat", "clock", strconv.FormatInt(ahead, 10))
	lost, lostBatches, tag := batches("7")
	must(lost.Release(ctx, lostBatches[0], queue.ReleaseOptions{}))
	do("DEL", tag+"queue:b:"+lostBatches[0].ID)
	ids, err := dedup.New(ctx, c, name+"-8", dedup.Config{ExpectedIDs: 1000, Logger: slog.New(slog.DiscardHandler)})
	must(err)
	_, err = ids.Mark(ctx, "a", "b", "c")
	must(err)
	mended, mendedBatches, tag := batches("9")
	do("DEL", tag+"queue:b:"+mendedBatches[0].ID)
	do("ZREM", tag+"queue:leases", mendedBatches[1].ID)
	return map[string]func() error{
		"3 undo at the end": func() error {
			_, err := acked.AckWith(ctx, queue.Ack{ID: ackedBatches[0].ID, Undo: ackUndo})
			return err
		},
		"4 undo at the burial": func() error { return buried.Settle(ctx, buriedBatches[0], queue.Resolution{Undo: buryUndo}) },
		"5 broken": func() error {
			_, err := broken.Ack(ctx, brokenBatches[0].ID)
			return err
		},
		"6 clock that was set back": func() error { return clocked.Extend(ctx, clockedBatches[0], time.Hour) },
		"7 lost list": func() error {
			_, err := lost.TryLease(ctx, queue.LeaseOptions{})
			if errors.Is(err, queue.ErrEmpty) {
				return nil
			}
			return err
		},
		"8 forget": func() error {
			n, err := ids.Forget(ctx, "a", "b", "a")
			if err == nil && n != 2 {
				t.Errorf("forgot %d ids, want 2", n)
			}
			return err
		},
		"9 repair": func() error {
			r, err := mended.Repair(ctx, nil)
			if err != nil {
				return err
			}
			return r.After.Balanced()
		},
	}
}
