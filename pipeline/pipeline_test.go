package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Every way that a record may end, in one run: promoted, duplicate (in its batch and of an earlier one), filtered, refused by a stage, malformed,
// rejected by a rule.
func TestEachRecordEndsSomewhere(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	good := numbered("a", 1000, "good")
	r.push(good...)
	r.push(good[:50]...)
	r.push("twin good", "twin good", "malformed", "f filter", "x refuse", "y rule", " good")
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	r.check(want{rows: append(idsOf(good), "twin"), rejects: []string{"malformed", "x", "y", " good"}})
	books, err := r.flow.Books(context.Background(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	p := books.Postgres
	if p.Duplicates != 51 || p.Filtered != 1 || p.Rejected != 3 || p.Ruled != 1 || p.Rows != 1001 {
		t.Errorf("the ledger says %+v: want 51 duplicates, 1 filtered, 3 rejected, 1 ruled, 1001 rows", p)
	}
}

// A record that was rejected gives its id back with the acknowledgement, so that a corrected one may come; the id of a promoted one stays taken.
func TestRejectedRecordMayComeAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	r.push("x refuse", "y rule", "z good")
	r.settled()
	r.push("x good", "y good", "z good")
	r.settled()
	stop()
	r.check(want{rows: []string{"x", "y", "z"}, rejects: []string{"x", "y"}})
}

// Until the rejection is committed the id stays taken: it may yet turn out otherwise, and then two would be promoted.
func TestClaimOfARejectIsKeptUntilTheCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	wait := r.startWorker(ctx, pipeline.WorkerConfig{})
	for _, record := range []string{"x refuse", "x good"} {
		r.push(record)
		eventually(t, 20*time.Second, r.allHanded)
	}
	cancel()
	wait()
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	r.push("x good")
	r.settled()
	stop()
	r.check(want{rows: []string{"x"}, rejects: []string{"x"}})
	if books, err := r.flow.Books(context.Background(), time.Time{}); err != nil || books.Postgres.Duplicates != 1 {
		t.Errorf("%d duplicates, %v: want the one that came before the commit", books.Postgres.Duplicates, err)
	}
}

// A record that fails every batch it is in ends alone in the dead list; its neighbours go through, each once; and, its claim given back, a cured
// one of the same id may come.
func TestPoisonRecordEndsAlone(t *testing.T) {
	t.Parallel()
	poison := pipeline.Map("poison", func(v item) (item, error) {
		if v.Kind == "poison" {
			panic("poison")
		}
		return v, nil
	})
	r := newRig(t, rigOptions{stages: []pipeline.Stage[item, item]{poison}, lease: queue.LeaseConfig{MaxFailures: 2}})
	good := numbered("a", 300, "good")
	r.push(slices.Insert(slices.Clone(good), 137, "p poison")...)
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	r.push("p good")
	r.settled()
	stop()
	r.check(want{rows: append(idsOf(good), "p"), dead: []string{"p"}})
}

// stallTable holds up one Stage until it is told to go on.
type stallTable struct {
	*staging.Table[item]
	arrived, goOn chan struct{}
	once          sync.Once
}

func (s *stallTable) Stage(ctx context.Context, l staging.Load[item]) (staging.Outcome, error) {
	stalled := false
	s.once.Do(func() { stalled = true })
	if stalled {
		close(s.arrived)
		<-s.goOn
		return s.Table.Stage(context.WithoutCancel(ctx), l)
	}
	return s.Table.Stage(ctx, l)
}

// A worker stalls before its COPY until its batch has been given up for lost, made void and split, and the children are promoted. When it wakes up, its COPY
// must not count: the ledger says void. Without the void, every record of the batch is promoted twice.
func TestStalledWorkerCannotStageASplitBatch(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{lease: queue.LeaseConfig{MaxCrashes: 1}})
	stall := &stallTable{Table: r.table, arrived: make(chan struct{}), goOn: make(chan struct{})}
	other := *r
	r.flow.Table = stall
	records := numbered("a", 20, "good")
	r.push(records...)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// The staller never extends its lease: it is frozen.
	frozen := &noExtend{Queue: r.queue}
	r.flow.Queue = frozen
	wait := r.startWorker(ctx, pipeline.WorkerConfig{Concurrency: 1, Lease: 150 * time.Millisecond, Hold: time.Minute})
	<-stall.arrived
	frozen.stop.Store(true)

	otherCtx, otherStop := context.WithCancel(context.Background())
	defer otherStop()
	other.pushed = r.pushed
	waitOther, waitP := other.startWorker(otherCtx, pipeline.WorkerConfig{}), other.startPromoter(otherCtx, pipeline.PromoterConfig{})
	other.settled()
	close(stall.goOn)
	// Its COPY is refused by the ledger, or lands and is dropped at the next promotion.
	cancel()
	wait()
	promoter, err := pipeline.NewPromoter(other.flow, pipeline.PromoterConfig{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := promoter.Promote(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	otherStop()
	waitOther()
	waitP()
	other.check(want{rows: idsOf(records)})
}

// noExtend is the queue of a worker that is frozen: it gives no sign of life, and leases nothing new once stopped.
type noExtend struct {
	*queue.Queue
	stop atomic.Bool
}

func (q *noExtend) Extend(context.Context, *queue.Batch, time.Duration) error { return nil }
func (q *noExtend) Lease(ctx context.Context, o queue.LeaseOptions) (*queue.Batch, error) {
	if q.stop.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return q.Queue.Lease(ctx, o)
}

// Postgres is away for longer than a worker may hold a batch; no batch is blamed for it, and all goes through when it is back.
func TestPostgresAwayIsNobodysFault(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{lease: queue.LeaseConfig{MaxFailures: 1, MaxCrashes: 1}})
	away := &awayTable{Table: r.table}
	away.left.Store(8)
	r.flow.Table = away
	records := numbered("a", 200, "good")
	r.push(records...)
	stop := r.start(pipeline.WorkerConfig{Records: 20, Lease: 200 * time.Millisecond, Hold: 300 * time.Millisecond}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	if away.left.Load() > 0 {
		t.Errorf("the outage was not met: %d left", away.left.Load())
	}
	r.check(want{rows: idsOf(records)})
}

type awayTable struct {
	*staging.Table[item]
	left atomic.Int64
}

func (a *awayTable) Stage(ctx context.Context, l staging.Load[item]) (staging.Outcome, error) {
	if a.left.Add(-1) >= 0 {
		return 0, pipeline.Unavailable(errors.New("connection refused"))
	}
	return a.Table.Stage(ctx, l)
}

// A transform that hangs loses its batch to another worker after Hold; the batch goes through there.
func TestHungTransformLosesItsBatch(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	hung, release := make(chan struct{}), make(chan struct{})
	stage := pipeline.Func("hang", func(_ context.Context, _ *pipeline.Batch, in pipeline.Records[item]) (pipeline.Records[item], error) {
		if calls.Add(1) == 1 {
			close(hung)
			<-release
		}
		return in, nil
	})
	r := newRig(t, rigOptions{stages: []pipeline.Stage[item, item]{stage}})
	records := numbered("a", 50, "good")
	r.push(records...)
	stop := r.start(pipeline.WorkerConfig{Concurrency: 2, Lease: 200 * time.Millisecond, Hold: 300 * time.Millisecond}, pipeline.PromoterConfig{})
	defer stop()
	<-hung
	r.settled()
	close(release)
	stop()
	r.check(want{rows: idsOf(records)})
}

// orderQueue fails the test when a batch is acknowledged that the durable ledger does not have.
type orderQueue struct {
	*queue.Queue
	t     *testing.T
	table *staging.Table[item]
	acked atomic.Int64
}

func (q *orderQueue) AckWith(ctx context.Context, acks ...queue.Ack) (int, error) {
	ids := make([]string, len(acks))
	for i, a := range acks {
		ids[i] = a.ID
	}
	fates, err := q.table.Fates(ctx, ids)
	if err != nil {
		return 0, err
	}
	for i, f := range fates {
		if f != staging.FatePromoted {
			q.t.Errorf("batch %s is acknowledged while its fate is %v", ids[i], f)
		}
		q.acked.Add(1)
	}
	return q.Queue.AckWith(ctx, acks...)
}

func TestAcknowledgedOnlyAfterTheCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	order := &orderQueue{Queue: r.queue, t: t, table: r.table}
	r.flow.Queue = order
	records := numbered("a", 500, "good")
	r.push(records...)
	stop := r.start(pipeline.WorkerConfig{Records: 50}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	if order.acked.Load() < 10 {
		t.Errorf("%d batches acknowledged, want 10", order.acked.Load())
	}
	r.check(want{rows: idsOf(records)})
}

// Told to stop, a worker finishes what it has in hand.
func TestStopFinishesWhatIsInHand(t *testing.T) {
	t.Parallel()
	entered, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	stage := pipeline.Map("wait", func(v item) (item, error) {
		once.Do(func() { close(entered); <-goOn })
		return v, nil
	})
	r := newRig(t, rigOptions{stages: []pipeline.Stage[item, item]{stage}})
	r.push(numbered("a", 10, "good")...)
	ctx, cancel := context.WithCancel(context.Background())
	wait := r.startWorker(ctx, pipeline.WorkerConfig{Concurrency: 1})
	<-entered
	cancel()
	close(goOn)
	wait()
	st, err := r.queue.Stats(context.Background())
	if err != nil || st.Handed != 10 {
		t.Errorf("after the stop: %+v, %v: want 10 records handed off", st, err)
	}
}

// What cannot be finished within Grace goes back to the queue, at once and without blame.
func TestStopGivesBackAfterGrace(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	var once sync.Once
	stage := pipeline.Func("slow", func(ctx context.Context, _ *pipeline.Batch, in pipeline.Records[item]) (pipeline.Records[item], error) {
		once.Do(func() { close(entered) })
		<-ctx.Done()
		return in, ctx.Err()
	})
	r := newRig(t, rigOptions{stages: []pipeline.Stage[item, item]{stage}})
	r.push(numbered("a", 10, "good")...)
	ctx, cancel := context.WithCancel(context.Background())
	wait := r.startWorker(ctx, pipeline.WorkerConfig{Concurrency: 1, Grace: 50 * time.Millisecond})
	<-entered
	cancel()
	wait()
	b, err := r.queue.TryLease(context.Background(), queue.LeaseOptions{})
	if err != nil || len(b.Payloads) != 10 || b.Failures != 0 || b.Crashes != 0 {
		t.Errorf("after the stop: %+v, %v: want the batch back, without blame", b, err)
	}
}

// A stage that loses a record is a failure of the batch, again and again, and says so in the dead list.
func TestStageThatLosesARecord(t *testing.T) {
	t.Parallel()
	stage := pipeline.Func("sieve", func(_ context.Context, _ *pipeline.Batch, in pipeline.Records[item]) (pipeline.Records[item], error) {
		return pipeline.Records[item]{}, nil
	})
	r := newRig(t, rigOptions{stages: []pipeline.Stage[item, item]{stage}, lease: queue.LeaseConfig{MaxFailures: 1}})
	r.push("a good", "b good")
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	r.check(want{dead: []string{"a", "b"}})
	dead, _, err := r.queue.Dead(context.Background(), "", 1)
	if err != nil || len(dead) != 1 || !strings.Contains(dead[0].Reason, `stage "sieve"`) {
		t.Errorf("dead list: %+v, %v: want the stage in the reason", dead, err)
	}
}

// From the push to the promoted row, signals wake each program: nobody waits for a poll.
func TestSignalsWakeEachProgram(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	promoted := make(chan time.Time, 100)
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{
		Every: time.Hour, Reconcile: time.Hour,
		Observer: pipeline.ObserverFunc(func(e pipeline.Event) {
			if e.Op == pipeline.OpPromote {
				promoted <- time.Now()
			}
		}),
	})
	defer stop()
	listening(t, r)
	for i := range 5 {
		start := time.Now()
		r.push(numbered(string(rune('a'+i)), 1, "good")...)
		select {
		case at := <-promoted:
			t.Logf("push to promoted: %v", at.Sub(start).Round(time.Millisecond))
		case <-time.After(10 * time.Second):
			t.Fatal("not promoted within 10 s: the signal was not heard")
		}
	}
	stop()
}

// listening waits until the promoter has subscribed.
func listening(t *testing.T, r *rig) {
	t.Helper()
	channel := "{" + r.queue.Name() + "}:signals"
	eventually(t, 10*time.Second, func() error {
		n, err := r.redis.Do(t.Context(), r.redis.B().PubsubNumsub().Channel(channel).Build()).ToArray()
		if err != nil {
			return err
		}
		if count, err := n[1].AsInt64(); err != nil || count == 0 {
			return errors.New("nobody listens")
		}
		return nil
	})
}

// However much there is to promote, reconcile gets its turn.
func TestReconcileIsNotStarved(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.flow.Table = &busyTable{Table: r.table}
	var reconciled atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	wait := r.startPromoter(ctx, pipeline.PromoterConfig{Reconcile: 20 * time.Millisecond, Observer: pipeline.ObserverFunc(func(e pipeline.Event) {
		if e.Op == pipeline.OpReconcile {
			reconciled.Add(1)
		}
	})})
	eventually(t, 20*time.Second, func() error {
		if n := reconciled.Load(); n < 5 {
			return fmt.Errorf("reconciled %d times", n)
		}
		return nil
	})
	cancel()
	wait()
}

// busyTable always has something to promote.
type busyTable struct{ *staging.Table[item] }

func (b *busyTable) Promote(ctx context.Context, o staging.PromoteOptions) (staging.Promotion, error) {
	p, err := b.Table.Promote(ctx, o)
	p.Batches = append(p.Batches, staging.Promoted{ID: "01890000-0000-7000-8000-000000000000", Fate: staging.FatePromoted})
	return p, err
}

// A batch that is older than the ledger remembers may have been promoted before: it is not promoted again, whole or in parts.
func TestBatchBelowTheFloorIsNotPromotedTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{lease: queue.LeaseConfig{MaxFailures: 1, MaxCrashes: 1}})
	lost := &lostAcks{Queue: r.queue}
	r.flow.Queue = lost
	records := numbered("a", 9, "good")
	r.push(records...)
	ctx, cancel := context.WithCancel(context.Background())
	waitW, waitP := r.startWorker(ctx, pipeline.WorkerConfig{}), r.startPromoter(ctx, pipeline.PromoterConfig{Reconcile: time.Hour})
	eventually(t, 20*time.Second, func() error {
		if lost.n.Load() == 0 {
			return errors.New("not promoted yet")
		}
		return nil
	})
	cancel()
	waitW()
	waitP()
	// What a prune does, without the hour of margin that it keeps.
	if _, err := r.pool.Exec(context.Background(), "WITH f AS (UPDATE items_control SET floor = now()) DELETE FROM items_ledger"); err != nil {
		t.Fatal(err)
	}
	r.flow.Queue = r.queue
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	var rows int
	if err := r.pool.QueryRow(context.Background(), "SELECT count(*) FROM items").Scan(&rows); err != nil || rows != len(records) {
		t.Errorf("%d rows of %d records, %v", rows, len(records), err)
	}
}

// lostAcks loses each acknowledgement on its way.
type lostAcks struct {
	*queue.Queue
	n atomic.Int64
}

func (q *lostAcks) AckWith(context.Context, ...queue.Ack) (int, error) {
	q.n.Add(1)
	return 0, errLostReply
}
