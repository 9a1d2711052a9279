package pipeline_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// countedClient counts the commands that a program sends.
type countedClient struct {
	rueidis.Client
	sent atomic.Int64
}

func (c *countedClient) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	c.sent.Add(1)
	return c.Client.Do(ctx, cmd)
}

func (c *countedClient) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	c.sent.Add(int64(len(cmds)))
	return c.Client.DoMulti(ctx, cmds...)
}

// findRig is a rig with an index on the id, whose Redis commands are counted.
func findRig(t *testing.T) (*rig, *countedClient) {
	t.Helper()
	c := &countedClient{Client: servertest.Redis(t)}
	r := newRig(t, rigOptions{redis: c, lease: queue.LeaseConfig{MaxFailures: 1}})
	if _, err := r.pool.Exec(t.Context(), "CREATE INDEX ON items (id)"); err != nil {
		t.Fatal(err)
	}
	return r, c
}

// find returns the places of a record, without what differs from run to run.
func (r *rig) find(id string) pipeline.FindResult {
	r.t.Helper()
	found, err := r.flow.Find(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

func states(f pipeline.FindResult) string {
	var out []string
	for _, p := range f.Places {
		s := p.Location.String()
		if p.Duplicate {
			s += " duplicate"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func (r *rig) wantFound(id, want string) pipeline.FindResult {
	r.t.Helper()
	f := r.find(id)
	if got := states(f); got != want {
		r.t.Errorf("%s: got %q, want %q\n%v", id, got, want, f)
	}
	return f
}

// handOff runs a worker until it has handed off everything that is ready.
func (r *rig) handOff() {
	r.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	wait := r.startWorker(ctx, pipeline.WorkerConfig{Name: "w7", Records: 10})
	eventually(r.t, 30*time.Second, func() error {
		s, err := r.queue.Stats(ctx)
		if err == nil && s.Ready+s.LeasedBatches+s.WaitingBatches > 0 {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	stop()
	wait()
}

func (r *rig) promote() {
	r.t.Helper()
	p, err := pipeline.NewPromoter(r.flow, pipeline.PromoterConfig{Logger: quiet})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := p.Promote(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// One record in each place of a pipeline.
func TestFind(t *testing.T) {
	t.Parallel()
	r, _ := findRig(t)
	ctx := t.Context()
	r.wantFound("nowhere", "")

	r.push("r0 keep", "r1 keep")
	if f := r.wantFound("r1", "ready"); len(f.Places) != 1 || f.Places[0].Position != 1 || f.Limits != nil {
		t.Errorf("ready: got %+v, want one record before it, and no limit", f)
	}
	due := time.Now().Add(time.Hour)
	if err := r.queue.PushAt(ctx, due, []byte("later keep")); err != nil {
		t.Fatal(err)
	}
	if f := r.wantFound("later", "delayed"); f.Places[0].At.UnixMilli() != due.UnixMilli() {
		t.Errorf("delayed: got %v, want until %v", f.Places[0], due)
	}

	b, err := r.queue.Lease(ctx, queue.LeaseOptions{Worker: "w3", Duration: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	p := r.wantFound("r1", "leased").Places[0]
	if p.Batch != b.ID || p.Position != 1 || p.Records != 2 || p.Worker != "w3" || p.Attempt != 1 || p.At.UnixMilli() != b.Deadline.UnixMilli() {
		t.Errorf("leased: got %+v, want batch %s of w3 until %v", p, b.ID, b.Deadline)
	}
	if err := r.queue.Release(ctx, b, queue.ReleaseOptions{}); err != nil {
		t.Fatal(err)
	}
	r.wantFound("r0", "waiting for redelivery")
	r.handOff()
	if p := r.wantFound("r1", "staged").Places[0]; p.Batch != b.ID || p.Position != 1 || p.Worker != "w7" || p.Attempt != 2 || !p.Unacked {
		t.Errorf("staged: got %+v, want attempt 2 of w7", p)
	}
	r.wantFound(b.ID, "staged")

	r.push("r1 keep", "r2 refuse", "r3 rule", "r4 filter", "noid") // a copy, two rejects, a filtered one, and one without an id
	r.handOff()
	r.wantFound("r1", "staged, staged duplicate")
	r.promote()
	p = r.wantFound("r1", "promoted").Places[0]
	if p.Batch != b.ID || p.Position != 1 || p.At.IsZero() || p.Row != `{"id":"r1","kind":"keep"}` || p.Unacked {
		t.Errorf("promoted: got %+v, want batch %s and its row", p, b.ID)
	}
	for id, code := range map[string]string{"r2": "refused", "r3": "ruled"} {
		if p := r.wantFound(id, "rejected").Places[0]; p.Code != code || p.Batch == "" || !p.Resolved.IsZero() {
			t.Errorf("%s: got %+v, want the code %s", id, p, code)
		}
	}
	if p := r.wantFound("r4", "promoted").Places[0]; p.Row != "" || !strings.Contains(p.String(), "no row with its key was found") {
		t.Errorf("filtered: got %v, want no row", p)
	}
	if f := r.wantFound(b.ID, "promoted"); f.Places[0].Position != pipeline.WholeBatch || f.Places[0].Records != 2 {
		t.Errorf("a batch: got %+v", f)
	}

	// Rejected, corrected, and there again.
	rejects, err := r.table.Rejects(ctx, staging.RejectFilter{Key: "r2"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.table.Replay(ctx, []staging.Correction[item]{{Reject: rejects[0].ID, Rows: []item{{"r2", "keep"}}}}); err != nil {
		t.Fatal(err)
	}
	f := r.wantFound("r2", "promoted, rejected")
	if f.Places[1].Resolved.IsZero() || f.Places[0].Row == "" {
		t.Errorf("replayed: got %v, want a row and a resolved reject", f)
	}
	text, err := json.Marshal(f)
	if err != nil || !strings.Contains(string(text), `"location":"rejected"`) {
		t.Errorf("as JSON: got %s, %v", text, err)
	}
}

// A record that is alone in the dead-letter list, and the batch that it came from.
func TestFindDead(t *testing.T) {
	t.Parallel()
	r, _ := findRig(t)
	ctx := t.Context()
	r.push("r0 keep", "r1 keep")
	b, err := r.queue.Lease(ctx, queue.LeaseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.table.Void(ctx, staging.Batch{ID: b.ID, Records: 2}); err != nil {
		t.Fatal(err)
	}
	if err := r.queue.Settle(ctx, b, queue.Resolution{}); err != nil { // splits it
		t.Fatal(err)
	}
	part, err := r.queue.Lease(ctx, queue.LeaseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.table.Void(ctx, staging.Batch{ID: part.ID, Root: part.Root, Offset: part.Offset, Records: 1}); err != nil {
		t.Fatal(err)
	}
	if err := r.queue.Settle(ctx, part, queue.Resolution{}); err != nil {
		t.Fatal(err)
	}
	id, _, _ := strings.Cut(string(part.Payloads[0]), " ")
	if p := r.wantFound(id, "dead").Places[0]; p.Batch != part.ID || p.Reason == "" {
		t.Errorf("got %+v, want dead letter %s with a reason", p, part.ID)
	}
	r.handOff()
	r.promote()
	other := []string{"r0", "r1"}[1-slices.Index([]string{"r0", "r1"}, id)]
	if p := r.wantFound(other, "promoted").Places[0]; p.Batch == b.ID || p.Row == "" {
		t.Errorf("the other part: got %+v, want a batch of its own", p)
	}
	if f := r.wantFound(b.ID, "promoted, void, void"); len(f.Places) != 3 {
		t.Errorf("the batch that was split: got %v", f)
	}
	if _, err := r.queue.Requeue(ctx, part.ID); err != nil {
		t.Fatal(err)
	}
	r.wantFound(id, "waiting for redelivery")
	r.handOff()
	r.promote()
	if p := r.wantFound(id, "promoted").Places[0]; p.Batch == part.ID || p.Row == "" {
		t.Errorf("requeued: got %+v, want a batch of its own", p)
	}
}

// The cost of Find does not grow with the queue, and what it does not read it names.
func TestFindIsBounded(t *testing.T) {
	t.Parallel()
	r, c := findRig(t)
	r.push(numbered("a", 20, "keep")...)
	r.handOff()
	r.promote()
	cost := func() int64 {
		before := c.sent.Load()
		r.wantFound("a7", "promoted")
		return c.sent.Load() - before
	}
	small := cost()
	for range 10 {
		r.push(numbered("b", 2000, "keep")...)
	}
	large := cost()
	if small > 10 || large > small+10 {
		t.Errorf("Find sent %d commands, and %d with 20,000 ready records: want at most 10 and 10 more", small, large)
	}
	if f := r.find("b1999"); len(f.Places) != 0 || len(f.Limits) != 1 || f.Limits[0] != "ready: 1000 of 20000 records were read, oldest first" {
		t.Errorf("got %v, want one limit", f)
	}
}

// Programs that know names only: payloads are compared by their text.
func TestFindByNames(t *testing.T) {
	t.Parallel()
	r, _ := findRig(t)
	r.push("a-1 keep", "b-1 keep")
	r.handOff()
	r.promote()
	r.push("a-1 keep", "a-11 keep", "ba-1 keep")
	table, err := staging.NewFinder(t.Context(), r.pool, "items", "id")
	if err != nil {
		t.Fatal(err)
	}
	src := pipeline.FindSources{Queue: r.queue, Window: r.window, Table: table}
	f, err := pipeline.Find(t.Context(), src, "a-1")
	if err != nil || states(f) != "ready, promoted" || f.Places[1].Row == "" || len(f.Limits) != 1 {
		t.Errorf("got %v, %v, want ready and promoted", f, err)
	}
	f, err = pipeline.Find(t.Context(), pipeline.FindSources{}, "a-1")
	if err != nil || len(f.Places) != 0 || len(f.Limits) != 3 {
		t.Errorf("without sources: got %v, %v, want three limits", f, err)
	}
	if _, err = pipeline.Find(t.Context(), src, ""); err == nil {
		t.Error("an empty id: got no error")
	}
}

// A record that makes the chain panic hides no other one.
func TestFindAfterAPanic(t *testing.T) {
	t.Parallel()
	r, _ := findRig(t)
	r.flow.Chain = pipeline.Then(pipeline.Decode(func(p []byte) (item, error) {
		if strings.HasPrefix(string(p), "boom") {
			panic("boom")
		}
		return decodeItem(p)
	}), pipeline.Dedup(r.window, itemID))
	r.push("a keep", "boom keep", "b keep")
	r.wantFound("b", "ready")
}
