package dedup_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// A window for each shard of the ids: all slots of a cluster share the work, and no id is fresh twice.
func TestCluster(t *testing.T) {
	servertest.EachCluster(t, func(t *testing.T, cl *servertest.Cluster) {
		t.Run("shards", func(t *testing.T) {
			const shards, n = 12, 6000
			ids := names("c", 0, n)
			nodes := map[int]bool{}
			for s := range shards {
				name := fmt.Sprint("shard-", s)
				nodes[cl.Slot(t, "{"+name+"}")*servertest.Masters/16384] = true
				w := newWindow(t, cl.Client, name, dedup.Config{})
				var mine []string
				for _, id := range ids {
					if dedup.Shard(id, shards) == s {
						mine = append(mine, id)
					}
				}
				for _, root := range []string{"a", "b"} {
					for i, v := range claim(t, w, dedup.Batch{Root: root, Records: len(mine)}, nil, mine...) {
						if (v == fresh) != (root == "a") {
							t.Fatalf("%s: %s is %v for %s", name, mine[i], v, root)
						}
					}
				}
				undo(t, cl.Client, w, dedup.Claim{Root: "a", Place: 0, ID: mine[0]})
				if seen, err := w.Seen(t.Context(), mine[0], mine[1]); err != nil || seen[0] || !seen[1] {
					t.Fatal(seen, err)
				}
				if err := w.Clear(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if len(nodes) != servertest.Masters {
				t.Fatalf("the shards are on %d nodes", len(nodes))
			}
		})
		t.Run("strict", func(t *testing.T) { strictAcrossAMove(t, cl) })
		t.Run("half a slot", func(t *testing.T) { halfASlot(t, cl) })
	})
}

// strictAcrossAMove: the client does not know yet that the slot has moved, and must not ask the old node's disk.
func strictAcrossAMove(t *testing.T, cl *servertest.Cluster) {
	if !cl.Has(t, "WAITAOF") {
		return // Redis 7.0, where a strict window cannot be made
	}
	slot := cl.Slot(t, "{strict}")
	at := slot * servertest.Masters / 16384
	to := (at + 1) % servertest.Masters
	for _, i := range []int{at, to} {
		cl.Do(t, i, "CONFIG", "SET", "appendonly", "yes")
		defer cl.Do(t, i, "CONFIG", "SET", "appendonly", "no")
	}
	batch := dedup.Batch{Root: "a", Records: 1}
	var w *dedup.Deduplicator
	servertest.Eventually(t, "the nodes have their files", func() bool {
		var err error
		if w, err = dedup.New(t.Context(), cl.Client, "strict", dedup.Config{Durable: true}); err != nil {
			return false
		}
		_, err = w.Claim(t.Context(), batch, nil, []string{"x"})
		return err == nil
	})
	for _, disk := range []string{"no", "yes"} {
		cl.Do(t, to, "CONFIG", "SET", "appendonly", disk)
		cl.Begin(t, slot, at, to)
		cl.Finish(t, slot, at, to)
		_, err := w.Claim(t.Context(), batch, nil, []string{"x"})
		if (err == nil) != (disk == "yes") || err != nil && !errors.Is(err, dedup.ErrNotDurable) {
			t.Errorf("a claim on a node with appendonly %s: %v", disk, err)
		}
		at, to = to, at
	}
}

// halfASlot: some keys are on the other node. A script that began would take their ids for fresh, or end in its middle.
func halfASlot(t *testing.T, cl *servertest.Cluster) {
	w := newWindow(t, cl.Client, "half", dedup.Config{})
	slot := cl.Slot(t, "{half}")
	from := slot * servertest.Masters / 16384
	to := (from + 1) % servertest.Masters
	ids := names("h", 0, 200)
	claim(t, w, dedup.Batch{Root: "a", Records: len(ids)}, nil, ids...)
	keys, err := cl.Do(t, from, "KEYS", "{half}:d:*").AsStrSlice()
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
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "TRYAGAIN") {
			t.Errorf("%s met half of the slot and was not refused: %v", what, err)
		}
	}
	_, err = w.Claim(t.Context(), batch, nil, more)
	refused("Claim", err)
	_, err = w.Seen(t.Context(), ids...)
	refused("Seen", err)
	_, err = w.Forget(t.Context(), ids...)
	refused("Forget", err)
	_, err = w.Undo(t.Context(), []dedup.Claim{{Root: "a", ID: ids[0]}})
	refused("Undo", err)
	refused("Clear", w.Clear(t.Context()))
	cl.Finish(t, slot, from, to)

	if seen, err := w.Seen(t.Context(), "new"); err != nil || seen[0] {
		t.Errorf("the refused call has claimed: %v, %v", seen, err)
	}
	for i, v := range claim(t, w, batch, nil, more...) {
		if (v == fresh) != (i == 200) {
			t.Errorf("after the move id %d is %v", i, v)
		}
	}
	cl.Begin(t, slot, to, from) // back, for whoever comes next
	cl.Finish(t, slot, to, from)
}
