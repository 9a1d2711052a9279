package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// Types that take part in a Flow, and in Find.
var (
	_ pipeline.Queue        = (*queue.Shards)(nil)
	_ pipeline.QueueFinder  = (*queue.Shards)(nil)
	_ pipeline.Deduplicator = (*pipeline.ShardWindow)(nil)
	_ pipeline.WindowFinder = (*pipeline.ShardWindow)(nil)
	_ pipeline.Gate         = (*pipeline.ShardGate)(nil)
)

// itemKey is the id of a payload of these tests.
func itemKey(p []byte) string {
	id, _, _ := strings.Cut(string(p), " ")
	return id
}

// shardRig is a rig over three shards.
type shardRig struct {
	*rig
	shards *pipeline.Shards
}

func newShardRig(t *testing.T, cfg pipeline.ShardsConfig) *shardRig {
	t.Helper()
	r := newRig(t, rigOptions{})
	cfg.Key = itemKey
	cfg.Queue.Lease = queue.LeaseConfig{Backoff: 10 * time.Millisecond, PollInterval: 20 * time.Millisecond, MaxFailures: 1}
	s, err := pipeline.NewShards(t.Context(), r.redis, r.queue.Name(), 3, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.flow = shardFlow(r, s.Queue, s.Window, s.Gate, s.Signals)
	return &shardRig{r, s}
}

// shardFlow is the flow of the rig over another queue.
func shardFlow(r *rig, q pipeline.Queue, w pipeline.Deduplicator, g pipeline.Gate, s *pipeline.Signals) pipeline.Flow[item] {
	return pipeline.Flow[item]{
		Queue: q, Table: r.table, Signals: s, Gate: g,
		Chain: pipeline.Then4(
			pipeline.Decode(decodeItem),
			pipeline.Dedup(w, itemID),
			pipeline.Filter("wanted", func(v item) bool { return v.Kind != "filter" }),
			pipeline.Map("refuse", func(v item) (item, error) {
				if v.Kind == "poison" {
					panic("poison")
				}
				return refuse(v)
			}),
		),
	}
}

func (r *shardRig) push(records ...string) {
	r.t.Helper()
	payloads := make([][]byte, len(records))
	for i, p := range records {
		payloads[i] = []byte(p)
	}
	if err := r.shards.Push(r.t.Context(), payloads...); err != nil {
		r.t.Fatal(err)
	}
	r.pushed = append(r.pushed, records...)
}

// drained waits until all that was pushed is accounted for.
func (r *shardRig) drained() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	if err := r.flow.Drain(ctx); err != nil {
		r.t.Fatal(err)
	}
}

// ids returns the ids of a column of a table, as the tables have them.
func (r *shardRig) ids(sql string) []string {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(), sql)
	if err != nil {
		r.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.t.Fatal(err)
	}
	return ids
}

// Every fate of a record over three shards and one table: copies meet in the window of their id,
// the claims of rejects come back at their shard, a poison record dies alone in its shard, and the
// books over all shards balance. The next regular reconcile is an hour away, so the promoter itself
// acknowledges each batch.
func TestShardedPipeline(t *testing.T) {
	t.Parallel()
	r := newShardRig(t, pipeline.ShardsConfig{Gate: backpressure.Config{High: 4000}})
	stop := r.start(pipeline.WorkerConfig{Records: 25}, pipeline.PromoterConfig{ReconcileInterval: time.Hour})
	defer stop()
	kept := numbered("k", 300, "keep")
	r.push(kept...)
	r.push(kept...) // copies, in any shard's next batches
	filtered, refused, ruled := numbered("f", 30, "filter"), numbered("r", 30, "refuse"), numbered("u", 30, "rule")
	r.push(filtered...)
	r.push(refused...)
	r.push(ruled...)
	r.push(numbered("p", 3, "poison")...)
	r.drained()
	// Corrected, they are pushed again: their claims were given back when the rejects were committed.
	corrected := append(numbered("r", 30, "keep"), numbered("u", 30, "keep")...)
	r.push(corrected...)
	r.drained()
	stop()

	same(t, "promoted", append(idsOf(kept), idsOf(corrected)...), r.ids("SELECT id FROM items"))
	same(t, "rejected", append(idsOf(refused), idsOf(ruled)...), r.ids("SELECT key FROM items_rejects"))
	dead, _, err := r.shards.Queue.DeadLetters(t.Context(), "", 100)
	if err != nil || len(dead) != 3 {
		t.Errorf("%d dead letters, %v, want the 3 poison records", len(dead), err)
	}
	books, err := r.flow.Books(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := books.Balanced(); err != nil || !books.Quiet {
		t.Errorf("the books: %v, quiet %v, want balanced and quiet", err, books.Quiet)
	}
	if books.Redis.Taken != int64(len(r.pushed)) || books.Postgres.Duplicates != int64(len(kept)) || books.Postgres.Filtered != int64(len(filtered)) {
		t.Errorf("got %+v, %+v, want %d taken, %d duplicates, %d filtered", books.Redis, books.Postgres, len(r.pushed), len(kept), len(filtered))
	}
	for i, q := range r.shards.Queue.Queues() {
		st, err := q.Stats(t.Context())
		if err != nil || st.Balanced() != nil || st.Acked == 0 {
			t.Errorf("shard %d: %+v, %v, want its part of the records", i, st, err)
		}
	}
	for _, g := range r.shards.Gate.Gates() {
		if st, err := g.Stats(t.Context()); err != nil || st.ReservedRecords != 0 {
			t.Errorf("gate %s: %d records reserved, %v, want none", g.Name(), st.ReservedRecords, err)
		}
	}
}

// A record in another shard than that of its id would not meet its copies. It is rejected by name,
// its payload is kept, and no claim is lost for it.
func TestARecordInTheWrongShardIsRejected(t *testing.T) {
	t.Parallel()
	r := newShardRig(t, pipeline.ShardsConfig{})
	ctx := t.Context()
	records := numbered("k", 30, "keep")
	r.push(records...)
	wrong := 0
	for i, q := range r.shards.Queue.Queues() { // a producer that pushes everything everywhere
		for _, p := range records {
			if err := r.redis.Do(ctx, r.redis.B().Lpush().Key("{"+q.Name()+"}:ready").Element(p).Build()).Error(); err != nil {
				t.Fatal(err)
			}
			if r.shards.Queue.ShardOf(itemKey([]byte(p))) != i {
				wrong++
			}
		}
	}
	// The same for the flows of single shards.
	for i := range r.shards.Len() {
		one := r.shards.Shard(i)
		flow := shardFlow(r.rig, one.Queue, one.Window, one.Gate, one.Signals)
		worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{Logger: quiet, Records: 10})
		if err != nil {
			t.Fatal(err)
		}
		promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{Logger: quiet, PollInterval: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ends := []func(){background(t, func() error { return worker.Run(ctx) }), background(t, func() error { return promoter.Run(ctx) })}
		defer func() {
			cancel()
			for _, end := range ends {
				end()
			}
		}()
	}
	r.drained()
	same(t, "promoted", idsOf(records), r.ids("SELECT id FROM items"))
	if n := len(r.ids("SELECT payload FROM items_rejects WHERE code = 'wrong_shard' AND reason LIKE '%belongs to%'")); n != wrong || wrong == 0 {
		t.Errorf("%d records rejected as in the wrong shard, want %d", n, wrong)
	}
	books, err := r.flow.Books(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if b := books.Postgres; books.Balanced() != nil || b.Duplicates != 30 || b.Rows != 30 || b.Rejected != int64(wrong) {
		t.Errorf("got %+v, want 30 rows, 30 duplicates, %d rejected", b, wrong)
	}
}

// Where several shards feed one table, a promoter meets the rejects of batches that another one
// acknowledges. Their claims are not its own: a claim is in the slot of its shard.
func TestAShardGivesBackItsOwnClaims(t *testing.T) {
	t.Parallel()
	r := newShardRig(t, pipeline.ShardsConfig{NoGate: true})
	ctx := t.Context()
	r.push("a keep", "b keep", "c keep", "d keep", "e keep", "f keep")
	var claims []dedup.Claim
	for range 100 {
		b, err := r.shards.Queue.TryLease(ctx, queue.LeaseOptions{Duration: time.Hour, Records: 1})
		if errors.Is(err, queue.ErrEmpty) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		id := itemKey(b.Payloads[0])
		if _, err := r.shards.Window.Claim(ctx, dedup.Batch{Guard: b.Guard, Root: b.Root, Records: 1}, nil, []string{id}); err != nil {
			t.Fatal(err)
		}
		claims = append(claims, dedup.Claim{Root: b.Root, ID: id})
	}
	all, err := r.shards.Window.Undo(ctx, claims)
	if err != nil || len(claims) != 6 {
		t.Fatalf("%d claims, %v, want 6", len(claims), err)
	}
	for i := range r.shards.Len() {
		one := r.shards.Shard(i)
		undo, err := one.Window.Undo(ctx, claims)
		if err != nil {
			t.Fatal(err)
		}
		for k, c := range claims {
			want := 0
			if r.shards.Queue.ShardOf(c.ID) == i {
				want = 1
			}
			if len(undo[k]) != want || len(all[k]) != 1 {
				t.Errorf("shard %d: %d undos of %s, and %d over all shards; want %d and 1", i, len(undo[k]), c.ID, len(all[k]), want)
			}
			for _, u := range undo[k] {
				if !strings.HasPrefix(u.Key, "{"+one.Queue.Name()+"}") {
					t.Errorf("shard %d: the undo of %s is in key %s", i, c.ID, u.Key)
				}
			}
		}
	}
}

// Find finds a record in whichever shard it is: by its id in the window and the ledger, and by a
// scan where there is no index.
func TestFindOverShards(t *testing.T) {
	t.Parallel()
	r := newShardRig(t, pipeline.ShardsConfig{})
	ctx := t.Context()
	r.push("waits1 keep", "waits2 keep", "waits3 keep")
	where := func(id, want string) pipeline.FindResult {
		t.Helper()
		found, err := r.flow.Find(ctx, id)
		if err != nil || states(found) != want {
			t.Errorf("%s: got %q, %v, want %q", id, states(found), err, want)
		}
		return found
	}
	shards := map[string]bool{}
	for _, id := range []string{"waits1", "waits2", "waits3"} {
		where(id, "ready")
		shards[r.shards.Queue.Queues()[r.shards.Queue.ShardOf(id)].Name()] = true
	}
	if len(shards) < 2 {
		t.Fatal("the ids are all of one shard")
	}
	for range shards {
		if _, err := r.shards.Queue.TryLease(ctx, queue.LeaseOptions{Worker: "w", Duration: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"waits1", "waits2", "waits3"} {
		if p := where(id, "leased").Places[0]; p.Worker != "w" || p.Attempt != 1 {
			t.Errorf("%s: got %+v, want worker w, attempt 1", id, p)
		} else if again := where(p.Batch, "leased"); again.Places[0].Position != pipeline.WholeBatch {
			t.Errorf("batch %s: got %+v, want the whole batch", p.Batch, again.Places[0])
		}
	}
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	r.push("done1 keep", "done2 keep", "done3 refuse")
	eventually(t, time.Minute, func() error {
		st, err := r.shards.Queue.Stats(ctx)
		if err == nil && st.Acked != 3 {
			err = fmt.Errorf("%d acknowledged, want 3", st.Acked)
		}
		return err
	})
	for id, want := range map[string]string{"done1": "promoted", "done2": "promoted", "done3": "rejected"} {
		where(id, want)
	}
}

// What would scatter equal ids over windows is refused before a record is pushed.
func TestShardsConfigIsChecked(t *testing.T) {
	t.Parallel()
	r := newShardRig(t, pipeline.ShardsConfig{})
	ctx := t.Context()
	open := func(cfg pipeline.ShardsConfig) error {
		_, err := pipeline.NewShards(ctx, r.redis, servertest.Prefix(t), 2, cfg)
		return err
	}
	for what, err := range map[string]error{
		"Key is nil":    open(pipeline.ShardsConfig{}),
		"Gate has keys": open(pipeline.ShardsConfig{Key: itemKey, Gate: backpressure.Config{LagKey: "{x}:lag"}}),
		"client of NewShards is nil": func() error {
			_, err := pipeline.NewShards(ctx, nil, "x", 2, pipeline.ShardsConfig{Key: itemKey})
			return err
		}(),
		"must be the Window of NewSha": func() error {
			one, err := dedup.New(ctx, r.redis, r.shards.Queue.Name(), dedup.Config{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = pipeline.NewWorker(shardFlow(r.rig, r.shards.Queue, one, nil, nil), pipeline.WorkerConfig{})
			return err
		}(),
		"must be \"" + r.shards.Queue.Queues()[1].Name() + "\" like the queue": func() error { // the window of another shard
			_, err := pipeline.NewWorker(shardFlow(r.rig, r.shards.Shard(1).Queue, r.shards.Shard(0).Window, nil, nil), pipeline.WorkerConfig{})
			return err
		}(),
	} {
		if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want ErrConfig that contains %q", err, what)
		}
	}
	// Without a window and a gate, payloads go to the shards in turn.
	s, err := pipeline.NewShards(ctx, r.redis, servertest.Prefix(t), 2, pipeline.ShardsConfig{NoWindow: true, NoGate: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Push(ctx, []byte("a"), []byte("b")); err != nil || s.Window != nil || s.Gate != nil || s.Shard(1).Gate != nil {
		t.Errorf("push without a key: %v", err)
	}
	for i, q := range s.Queue.Queues() {
		if st, err := q.Stats(ctx); err != nil || st.Ready != 1 {
			t.Errorf("shard %d: %d records, %v, want 1", i, st.Ready, err)
		}
	}
	// A batch that is not of these shards claims nothing.
	if _, err := r.shards.Window.Claim(ctx, dedup.Batch{Guard: "{x}:m", Root: "r", Records: 1}, nil, []string{"a"}); !errors.Is(err, dedup.ErrBatch) {
		t.Errorf("claim of a batch of another queue: %v, want ErrBatch", err)
	}
}

// A signal of any shard reaches the listener over all of them, and that of the shard alone.
func TestSignalsOfShards(t *testing.T) {
	t.Parallel()
	r := newShardRig(t, pipeline.ShardsConfig{NoGate: true})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	heard := make(chan string, 100)
	listen := func(name string, s *pipeline.Signals) {
		wg.Go(func() { _ = s.Listen(ctx, func(sig pipeline.Signal) { heard <- name + " " + string(sig) }) })
	}
	listen("all", r.shards.Signals)
	listen("one", r.shards.Shard(2).Signals)
	await := func(want string, send func() error) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		deadline := time.After(time.Minute)
		for { // until the subscriptions are active
			if err := send(); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-heard:
				if got == want {
					return
				}
			case <-tick.C:
			case <-deadline:
				t.Fatalf("no signal %q", want)
			}
		}
	}
	for i := range r.shards.Len() {
		await("all staged", func() error { return r.shards.Shard(i).Signals.Send(ctx, pipeline.SignalStaged) })
	}
	await("one staged", func() error { return r.shards.Shard(2).Signals.Send(ctx, pipeline.SignalStaged) })
	await("all promoted", func() error { return r.shards.Signals.Send(ctx, pipeline.SignalPromoted) })
}
