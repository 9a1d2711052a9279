package together_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Whatever an operator has done to the keys of a batch: the ledger takes the calls of Reconcile and
// Repair, and a late copy of the damaged batch is dropped.
func TestDamagedBatchesAndTheLedger(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c, name := servertest.Redis(t), servertest.Prefix(t)
	q, err := queue.New(ctx, c, name, queue.Config{Logger: slog.New(slog.DiscardHandler)})
	ok(err)
	type row struct {
		ID int64 `db:"id"`
	}
	table, err := staging.New(ctx, servertest.Postgres(t), "damaged", staging.Config[row]{Create: true, Key: []string{"id"}})
	ok(err)
	settle := func(ctx context.Context, b *queue.Batch) (queue.Resolution, error) {
		fate, err := table.Void(ctx, staging.Batch{
			ID: b.ID, Root: b.Root, Offset: b.Offset, Records: len(b.Payloads), Attempt: b.Attempt, Sealed: b.Sealed,
		})
		return queue.Resolution{Promoted: fate == staging.FatePromoted}, err
	}
	known := func(ctx context.Context, ids []string) ([]queue.BatchFate, error) {
		_, err := table.Fates(ctx, ids)
		fates := make([]queue.BatchFate, len(ids)) // they stay, as staged ones do
		for i := range fates {
			fates[i].Fate = queue.FateStaged
		}
		return fates, err
	}
	key := func(s string) string { return "{" + name + "}:queue:" + s }
	for what, damage := range map[string]func(id string) []string{
		"the list is gone":            func(id string) []string { return []string{"DEL", key("b:" + id)} },
		"a record is gone":            func(id string) []string { return []string{"RPOP", key("b:" + id)} },
		"the hash is gone":            func(id string) []string { return []string{"DEL", key("m:" + id)} },
		"the hash is a string":        func(id string) []string { return []string{"SET", key("m:" + id), "x"} },
		"the root is no id":           func(id string) []string { return []string{"HSET", key("m:" + id), "root", "x"} },
		"the place is too large":      func(id string) []string { return []string{"HSET", key("m:" + id), "off", "4000000000"} },
		"it was sealed before Christ": func(id string) []string { return []string{"HSET", key("m:" + id), "sealed", "-90000000000000"} },
		"it will be sealed too late":  func(id string) []string { return []string{"HSET", key("m:" + id), "sealed", "9007199254740991"} },
		"a stranger is handed off":    func(string) []string { return []string{"ZADD", key("handed"), "1", "stranger"} },
		"a strange hash, handed off":  func(string) []string { return []string{"HSET", key("m:stranger"), "att", "1", "st", "H", "n", "1"} },
	} {
		ok(q.Push(ctx, []byte("1"), []byte("2")))
		b, err := q.TryLease(ctx, queue.LeaseOptions{})
		ok(err)
		ok(q.Handoff(ctx, b))
		ok(c.Do(ctx, c.B().Arbitrary(damage(b.ID)...).Build()).Error())
		if _, err := q.Reconcile(ctx, known, settle); err != nil {
			t.Errorf("%s: reconcile: %v", what, err)
		}
		r, err := q.Repair(ctx, settle)
		if err != nil || r.After.Balanced() != nil {
			t.Errorf("%s: repair: %v, %v", what, err, r.After.Balanced())
		}
		left, err := q.Batches(ctx, b.ID)
		ok(err)
		if fates, err := table.Fates(ctx, []string{b.ID}); err != nil || len(left) == 0 && fates[0] != staging.FateVoid {
			t.Errorf("%s: got fates %v, %v of a batch that is gone, want void", what, fates, err)
		}
		_, err = q.Ack(ctx, b.ID)
		ok(err)
	}
}
