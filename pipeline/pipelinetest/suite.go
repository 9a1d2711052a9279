package pipelinetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Pusher is a pipeline.Queue that producers push to.
type Pusher interface {
	pipeline.Queue
	Push(ctx context.Context, payloads ...[]byte) error
}

// Row is the row of [TestTable]. Its table has the columns of the tags, and no key.
type Row struct {
	ID    string `db:"id"`
	Value int32  `db:"value"`
}

const short = 50 * time.Millisecond // a lease that the suite lets expire

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func push(t *testing.T, q Pusher, records ...string) {
	t.Helper()
	for _, r := range records { // one by one: the order is that of the calls
		must(t, q.Push(t.Context(), []byte(r)))
	}
}

func lease(t *testing.T, q Pusher, o queue.LeaseOptions) *queue.Batch {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := q.Lease(ctx, o)
	must(t, err)
	return b
}

func texts(b *queue.Batch) string {
	out := make([]string, len(b.Payloads))
	for i, p := range b.Payloads {
		out[i] = string(p)
	}
	return strings.Join(out, " ")
}

func balanced(t *testing.T, q Pusher) queue.Stats {
	t.Helper()
	s, err := q.Stats(t.Context())
	must(t, err)
	if s.Taken != s.Acked+s.InFlight+s.Dead+s.Discarded {
		t.Fatalf("the queue does not balance: %+v", s)
	}
	return s
}

// TestQueue checks that a queue behaves as workers and promoters need. open returns an empty queue
// that splits a batch after 2 failures or 2 crashes, and redelivers within a second.
func TestQueue(t *testing.T, open func(t *testing.T) Pusher) {
	t.Run("a batch is sealed and redelivered whole", func(t *testing.T) {
		q := open(t)
		push(t, q, "a", "b", "c")
		b := lease(t, q, queue.LeaseOptions{Records: 2})
		if texts(b) != "a b" || b.Attempt != 1 || b.Root != b.ID || b.Offset != 0 || b.Queue != q.Name() {
			t.Fatalf("got %q, %+v, want the oldest two", texts(b), b)
		}
		must(t, q.Release(t.Context(), b, queue.ReleaseOptions{}))
		again := lease(t, q, queue.LeaseOptions{Records: 1})
		if again.ID != b.ID || texts(again) != "a b" || again.Attempt != 2 || again.Failures+again.Crashes != 0 {
			t.Fatalf("got %q, %+v, want the same batch, whole and without blame", texts(again), again)
		}
		if s := balanced(t, q); s.Ready != 1 || s.InFlight != 2 {
			t.Errorf("got %+v, want 1 ready, 2 in flight", s)
		}
	})
	t.Run("a lost lease is fenced", func(t *testing.T) {
		q := open(t)
		push(t, q, "a")
		b := lease(t, q, queue.LeaseOptions{Duration: short})
		again := lease(t, q, queue.LeaseOptions{})
		if again.ID != b.ID || again.Crashes != 1 {
			t.Fatalf("got %+v, want the batch with one crash", again)
		}
		for name, err := range map[string]error{
			"Extend":        q.Extend(t.Context(), b, time.Second),
			"ExtendWaiting": q.ExtendWaiting(t.Context(), b, time.Second),
			"Handoff":       q.Handoff(t.Context(), b),
			"Release":       q.Release(t.Context(), b, queue.ReleaseOptions{}),
		} {
			if !errors.Is(err, queue.ErrLeaseLost) {
				t.Errorf("%s: %v, want ErrLeaseLost", name, err)
			}
		}
		must(t, q.Extend(t.Context(), again, time.Second))
	})
	t.Run("a death while waiting is no crash", func(t *testing.T) {
		q := open(t)
		push(t, q, "a")
		for range 4 {
			b := lease(t, q, queue.LeaseOptions{Duration: time.Minute})
			if b.Crashes != 0 {
				t.Fatalf("%d crashes, want none", b.Crashes)
			}
			must(t, q.ExtendWaiting(t.Context(), b, short))
		}
	})
	t.Run("an acknowledgement may come twice", func(t *testing.T) {
		q := open(t)
		push(t, q, "a")
		b := lease(t, q, queue.LeaseOptions{})
		must(t, q.Handoff(t.Context(), b))
		if h, err := q.HandedOff(t.Context()); err != nil || len(h) != 1 || h[0].ID != b.ID || h[0].Records != 1 {
			t.Fatalf("handed off: %+v, %v, want the batch", h, err)
		}
		for want := 1; want >= 0; want-- {
			if n, err := q.AckWith(t.Context(), queue.Ack{ID: b.ID}); err != nil || n != want {
				t.Errorf("acknowledged %d, %v, want %d", n, err, want)
			}
		}
		if s := balanced(t, q); s.Acked != 1 || s.InFlight != 0 {
			t.Errorf("got %+v, want 1 acknowledged", s)
		}
	})
	t.Run("a poison record ends alone", func(t *testing.T) { poison(t, open(t)) })
	t.Run("reconcile acts on each fate", func(t *testing.T) { reconcile(t, open(t)) })
}

// poison fails every batch that holds "p".
func poison(t *testing.T, q Pusher) {
	push(t, q, "a", "b", "p", "c", "d")
	void := map[string]bool{}
	settle := func(_ context.Context, b *queue.Batch) (queue.Resolution, error) {
		void[b.ID] = true
		return queue.Resolution{}, nil
	}
	var acked []string
	root := ""
	for i := 0; balanced(t, q).Dead == 0 || len(acked) < 4; i++ {
		if i == 100 {
			t.Fatalf("after 100 leases: acknowledged %q, %+v", acked, balanced(t, q))
		}
		b := lease(t, q, queue.LeaseOptions{Settle: settle})
		if void[b.ID] {
			t.Fatalf("batch %s was delivered although it is void", b.ID)
		}
		if root == "" {
			root = b.Root
		}
		if want := string("abpcd"[b.Offset]); b.Root != root || string(b.Payloads[0]) != want {
			t.Fatalf("root %s, offset %d holds %q, want %q of root %s", b.Root, b.Offset, b.Payloads[0], want, root)
		}
		if strings.Contains(texts(b), "p") {
			must(t, q.Release(t.Context(), b, queue.ReleaseOptions{Failure: "poison"}))
			continue
		}
		acked = append(acked, strings.Fields(texts(b))...)
		_, err := q.AckWith(t.Context(), queue.Ack{ID: b.ID})
		must(t, err)
		if len(acked) == 4 {
			// What is left is the poison record. Its burial happens during a lease, which finds
			// nothing then.
			bury(t, q, settle)
		}
	}
	slices.Sort(acked)
	if got := strings.Join(acked, ""); got != "abcd" {
		t.Errorf("acknowledged %q, want each neighbour once", got)
	}
}

// bury fails the poison record until it is dead.
func bury(t *testing.T, q Pusher, settle queue.SettleFunc) {
	t.Helper()
	for i := 0; balanced(t, q).Dead == 0; i++ {
		if i == 100 {
			t.Fatalf("the poison record is not buried: %+v", balanced(t, q))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		b, err := q.Lease(ctx, queue.LeaseOptions{Settle: settle})
		if err == nil {
			err = q.Release(ctx, b, queue.ReleaseOptions{Failure: "poison"})
		} else if errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
		cancel()
		must(t, err)
	}
}

func reconcile(t *testing.T, q Pusher) {
	ids := map[queue.Fate]string{}
	for _, f := range []queue.Fate{queue.FateUnknown, queue.FateStaged, queue.FatePromoted, queue.FateVoid} {
		push(t, q, fmt.Sprint("x", f), fmt.Sprint("y", f))
		b := lease(t, q, queue.LeaseOptions{Records: 2})
		must(t, q.Handoff(t.Context(), b))
		ids[f] = b.ID
	}
	fates := func(_ context.Context, asked []string) ([]queue.BatchFate, error) {
		out := make([]queue.BatchFate, len(asked))
		for i, id := range asked {
			for f, known := range ids {
				if id == known {
					out[i].Fate = f
				}
			}
		}
		return out, nil
	}
	settle := func(context.Context, *queue.Batch) (queue.Resolution, error) { return queue.Resolution{}, nil }
	r, err := q.Reconcile(t.Context(), fates, settle)
	if want := (queue.ReconcileResult{Seen: 4, Left: 1, Acked: 1, Settled: 1, Redelivered: 1}); err != nil || r != want {
		t.Fatalf("got %+v, %v, want %+v", r, err, want)
	}
	if s := balanced(t, q); s.Acked != 2 || s.HandedOff != 2 || s.Splits != 1 {
		t.Errorf("got %+v, want 2 records acknowledged, 2 left handed off, 1 split", s)
	}
	for range 3 { // the unknown one, whole, and the two children of the void one
		b := lease(t, q, queue.LeaseOptions{})
		if (b.ID == ids[queue.FateUnknown]) != (len(b.Payloads) == 2) || b.Failures+b.Crashes != 0 {
			t.Errorf("got %q, %+v, want no blame", texts(b), b)
		}
	}
}

// TestWindow checks that a dedup window claims by place. open returns an empty window and its
// queue, which splits a batch after 2 failures.
func TestWindow(t *testing.T, open func(t *testing.T) (Pusher, pipeline.Deduplicator)) {
	claim := func(t *testing.T, w pipeline.Deduplicator, b *queue.Batch, ids ...string) string {
		t.Helper()
		pos := make([]int32, len(ids))
		for i := range pos {
			pos[i] = int32(i)
		}
		v, err := w.Claim(t.Context(), dedup.Batch{Guard: b.Guard, Root: b.Root, Offset: b.Offset, Records: len(b.Payloads)}, pos, ids)
		must(t, err)
		out := ""
		for _, verdict := range v {
			out += map[dedup.Verdict]string{dedup.VerdictFresh: "f", dedup.VerdictDuplicate: "d"}[verdict]
		}
		return out
	}
	t.Run("by place", func(t *testing.T) {
		q, w := open(t)
		if w.Name() != q.Name() {
			t.Errorf("the window is named %q, want %q like its queue", w.Name(), q.Name())
		}
		push(t, q, "a", "b", "a")
		b := lease(t, q, queue.LeaseOptions{})
		for range 2 { // redelivery meets its own claims
			if got := claim(t, w, b, "a", "b", "a"); got != "ffd" {
				t.Errorf("verdicts %q, want ffd", got)
			}
			must(t, q.Release(t.Context(), b, queue.ReleaseOptions{Failure: "no"}))
			if b = lease(t, q, queue.LeaseOptions{}); !b.Annotated && len(b.Payloads) == 3 {
				t.Error("the batch is not annotated after a claim")
			}
		}
		got := map[string]string{}
		for {
			ids := strings.Fields(texts(b))
			got[fmt.Sprint(b.Offset)] = claim(t, w, b, ids...)
			if len(got) == 2 {
				break
			}
			b = lease(t, q, queue.LeaseOptions{})
		}
		if all := got["0"] + got["1"] + got["2"]; all != "ffd" {
			t.Errorf("the children have %v, want the verdicts of the whole", got)
		}
	})
	t.Run("given back with the acknowledgement", func(t *testing.T) {
		q, w := open(t)
		push(t, q, "a")
		b := lease(t, q, queue.LeaseOptions{})
		claim(t, w, b, "a")
		other := func() *queue.Batch { push(t, q, "a"); return lease(t, q, queue.LeaseOptions{}) }
		second := other()
		if got := claim(t, w, second, "a"); got != "d" {
			t.Errorf("verdict %q, want a duplicate", got)
		}
		undo, err := w.Undo(t.Context(), []dedup.Claim{{Root: b.Root, Place: b.Offset, ID: "a"}, {Root: second.Root, Place: second.Offset, ID: "a"}})
		must(t, err)
		if len(undo[0]) == 0 || len(undo[1]) != 0 {
			t.Fatalf("undo %v, want one for the place that holds the id", undo)
		}
		acks := []queue.Ack{{ID: b.ID}}
		for _, u := range undo[0] {
			acks[0].Undo = append(acks[0].Undo, queue.Undo(u))
		}
		_, err = q.AckWith(t.Context(), acks...)
		must(t, err)
		if got := claim(t, w, other(), "a"); got != "f" {
			t.Errorf("verdict %q after the claim was given back, want fresh", got)
		}
		if _, err := w.Claim(t.Context(), dedup.Batch{Guard: b.Guard, Root: b.Root, Records: 1}, []int32{0}, []string{"z"}); !errors.Is(err, dedup.ErrGone) {
			t.Errorf("a claim for a batch that is gone: %v, want ErrGone", err)
		}
	})
}

// TestTable checks that a table stages and promotes each batch once. open returns an empty table
// and a function that returns the rows that were promoted.
func TestTable(t *testing.T, open func(t *testing.T) (table pipeline.Table[Row], rows func() []Row)) {
	load := func(id string) staging.Load[Row] {
		return staging.Load[Row]{
			Batch: staging.Batch{ID: id, Root: id, Records: 5, Attempt: 1, Worker: "w", Sealed: time.Now()},
			Rows:  []Row{{"a", 1}, {"b", 2}, {"b", 3}}, Pos: []int32{0, 1, 1}, Duplicates: 1, Filtered: 1,
			Rejects: []staging.Reject{{Pos: 4, Code: "bad", Reason: "a bad one", Payload: []byte("x"), Key: "x"}},
		}
	}
	stage := func(t *testing.T, table pipeline.Table[Row], l staging.Load[Row], want staging.Outcome) {
		t.Helper()
		if got, err := table.Stage(t.Context(), l); err != nil || got != want {
			t.Fatalf("staged: %v, %v, want %v", got, err, want)
		}
	}
	fate := func(t *testing.T, table pipeline.Table[Row], id string, want staging.Fate) {
		t.Helper()
		if got, err := table.Fates(t.Context(), []string{id}); err != nil || got[0] != want {
			t.Fatalf("fate %v, %v, want %v", got, err, want)
		}
	}
	promote := func(t *testing.T, table pipeline.Table[Row]) staging.PromoteResult {
		t.Helper()
		p, err := table.Promote(t.Context(), staging.PromoteOptions{})
		must(t, err)
		return p
	}
	t.Run("once", func(t *testing.T) {
		table, rows := open(t)
		id := staging.NewBatchID()
		l := load(id)
		l.Batch.Records = 6
		if _, err := table.Stage(t.Context(), l); !errors.Is(err, staging.ErrLoad) {
			t.Errorf("a load that does not add up: %v, want ErrLoad", err)
		}
		fate(t, table, id, staging.FateUnknown)
		l.Batch.Records = 5
		stage(t, table, l, staging.OutcomeStaged)
		stage(t, table, load(id), staging.OutcomeAlreadyStaged)
		fate(t, table, id, staging.FateStaged)
		if p := promote(t, table); len(p.Batches) != 1 || p.Batches[0] != (staging.PromotedBatch{ID: id, Fate: staging.FatePromoted}) || p.Rows != 3 || p.Records != 5 {
			t.Errorf("promoted %+v, want the batch with 3 rows of 5 records", p)
		}
		if p := promote(t, table); len(p.Batches) != 0 {
			t.Errorf("promoted again: %+v, want nothing", p)
		}
		stage(t, table, load(id), staging.OutcomeAlreadyPromoted)
		fate(t, table, id, staging.FatePromoted)
		if f, err := table.Void(t.Context(), l.Batch); err != nil || f != staging.FatePromoted {
			t.Errorf("void: %v, %v, want promoted", f, err)
		}
		got := rows()
		slices.SortFunc(got, func(a, b Row) int { return int(a.Value - b.Value) })
		if !slices.Equal(got, []Row{{"a", 1}, {"b", 2}, {"b", 3}}) {
			t.Errorf("rows %v, want the three", got)
		}
		r, err := table.RejectsByBatch(t.Context(), []string{id})
		if err != nil || len(r[id]) != 1 || r[id][0].Key != "x" || r[id][0].Root != id || r[id][0].Place != 4 || r[id][0].Code != "bad" {
			t.Errorf("rejects %+v, %v, want the one with its place", r, err)
		}
		b, err := table.BooksSince(t.Context(), time.Time{})
		if want := (staging.Books{Batches: 1, Records: 5, Kept: 2, Duplicates: 1, Filtered: 1, Rejected: 1, Staged: 3, Rows: 3}); err != nil || b != want {
			t.Errorf("books %+v, %v, want %+v", b, err, want)
		}
	})
	t.Run("void", func(t *testing.T) {
		table, rows := open(t)
		before, after := staging.NewBatchID(), staging.NewBatchID()
		stage(t, table, load(before), staging.OutcomeStaged)
		for _, id := range []string{before, after} {
			if f, err := table.Void(t.Context(), load(id).Batch); err != nil || f != staging.FateVoid {
				t.Errorf("void: %v, %v, want void", f, err)
			}
			fate(t, table, id, staging.FateVoid)
		}
		stage(t, table, load(after), staging.OutcomeAlreadyVoid)
		if p := promote(t, table); len(p.Batches) != 1 || p.Batches[0].Fate != staging.FateVoid || p.Rows != 0 {
			t.Errorf("promoted %+v, want the staged batch as void, without rows", p)
		}
		if got := rows(); len(got) != 0 {
			t.Errorf("rows %v, want none", got)
		}
	})
}
