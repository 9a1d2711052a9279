package dedup_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// A window for each shard of the ids: all slots of a cluster share the work, and no id is fresh
// twice.
func TestCluster(t *testing.T) {
	servertest.EachCluster(t, func(t *testing.T, cl *servertest.Cluster) {
		t.Run("shards", func(t *testing.T) {
			const shards, n = 12, 6000
			ids := names("c", 0, n)
			nodes := map[int]bool{}
			for s := range shards {
				name := fmt.Sprint("shard-", s)
				nodes[cl.Slot(t, "{"+name+"}")*servertest.Masters/16384] = true
				d := open(t, cl.Client, name, dedup.Config{})
				var mine []string
				for _, id := range ids {
					if dedup.Shard(id, shards) == s {
						mine = append(mine, id)
					}
				}
				for _, root := range []string{"a", "b"} {
					for i, v := range claim(t, d, dedup.Batch{Root: root, Records: len(mine)}, nil, mine...) {
						if (v == fresh) != (root == "a") {
							t.Fatalf("%s: %s is %v for %s", name, mine[i], v, root)
						}
					}
				}
				undo(t, cl.Client, d, dedup.Claim{Root: "a", Place: 0, ID: mine[0]})
				if seen, err := d.Seen(t.Context(), mine[0], mine[1]); err != nil || seen[0] || !seen[1] {
					t.Fatal(seen, err)
				}
				if err := d.Clear(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if len(nodes) != servertest.Masters {
				t.Fatalf("the shards are on %d nodes", len(nodes))
			}
		})
		t.Run("durable", func(t *testing.T) { durableAcrossAMove(t, cl) })
		t.Run("half a slot", func(t *testing.T) { halfASlot(t, cl) })
	})
}

// durableAcrossAMove: the client does not know yet that the slot has moved, and must not ask the
// old node's disk.
func durableAcrossAMove(t *testing.T, cl *servertest.Cluster) {
	if !cl.Has(t, "WAITAOF") {
		return // Redis 7.0, where Durable is refused
	}
	slot := cl.Slot(t, "{durable}")
	at := slot * servertest.Masters / 16384
	to := (at + 1) % servertest.Masters
	for _, i := range []int{at, to} {
		cl.Do(t, i, "CONFIG", "SET", "appendfsync", "always") // WAITAOF answers at once
		cl.Do(t, i, "CONFIG", "SET", "appendonly", "yes")
		defer cl.Do(t, i, "CONFIG", "SET", "appendonly", "no")
	}
	batch := dedup.Batch{Root: "a", Records: 1}
	var d *dedup.Deduplicator
	servertest.Eventually(t, "the nodes have their files", func() bool {
		var err error
		if d, err = dedup.New(t.Context(), cl.Client, "durable", dedup.Config{Durable: true}); err != nil {
			return false
		}
		_, err = d.Claim(t.Context(), batch, nil, []string{"x"})
		return err == nil
	})
	for _, disk := range []string{"no", "yes"} {
		cl.Do(t, to, "CONFIG", "SET", "appendonly", disk)
		cl.Begin(t, slot, at, to)
		cl.Finish(t, slot, at, to)
		_, err := d.Claim(t.Context(), batch, nil, []string{"x"})
		if (err == nil) != (disk == "yes") || err != nil && !errors.Is(err, dedup.ErrNotDurable) {
			t.Errorf("a claim on a node with appendonly %s: %v", disk, err)
		}
		at, to = to, at
	}
}

// halfASlot: some keys are on the other node. A script that began would take their ids for fresh,
// or end in its middle.
func halfASlot(t *testing.T, cl *servertest.Cluster) {
	d := open(t, cl.Client, "half", dedup.Config{})
	slot := cl.Slot(t, "{half}")
	from := slot * servertest.Masters / 16384
	to := (from + 1) % servertest.Masters
	ids := names("h", 0, 200)
	claim(t, d, dedup.Batch{Root: "a", Records: len(ids)}, nil, ids...)
	keys, err := cl.Do(t, from, "KEYS", "{half}:dedup:t:*").AsStrSlice()
	if err != nil || len(keys) < 2 {
		t.Fatal(len(keys), err)
	}
	b := guard(t, cl.Client, "half", "b")
	batch := dedup.Batch{Guard: b, Root: "b", Records: 201}
	more := append(ids[:200:200], "new")

	cl.Begin(t, slot, from, to)
	for _, k := range keys[:len(keys)/2] {
		cl.Move(t, k, from, to)
	}
	refused := func(what string, call func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // a refused call waits for the slot
		defer cancel()
		if err := call(ctx); err == nil {
			t.Errorf("%s ran on half of the slot, want a refusal", what)
		}
	}
	refused("Claim", func(ctx context.Context) error { _, err := d.Claim(ctx, batch, nil, more); return err })
	refused("Seen", func(ctx context.Context) error { _, err := d.Seen(ctx, ids...); return err })
	refused("Forget", func(ctx context.Context) error { _, err := d.Forget(ctx, ids...); return err })
	refused("Undo", func(ctx context.Context) error {
		_, err := d.Undo(ctx, []dedup.Claim{{Root: "a", ID: ids[0]}})
		return err
	})
	refused("Stats", func(ctx context.Context) error { _, err := d.Stats(ctx); return err })
	refused("Clear", d.Clear)
	cl.Finish(t, slot, from, to)

	if seen, err := d.Seen(t.Context(), "new"); err != nil || seen[0] {
		t.Errorf("the refused call has claimed: %v, %v", seen, err)
	}
	for i, v := range claim(t, d, batch, nil, more...) {
		if (v == fresh) != (i == 200) {
			t.Errorf("after the move id %d is %v", i, v)
		}
	}
	cl.Begin(t, slot, to, from) // back, for the next run
	cl.Finish(t, slot, to, from)
}
