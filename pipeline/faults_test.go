package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// stallTable holds up one Stage until it may go on.
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

// A worker stalls before its COPY until its batch has been given up for lost, made void and split,
// and the children are promoted. When it wakes up, its COPY must not count: the ledger has it as
// void. Without the void, every record of the batch is promoted twice.
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
	wait := r.startWorker(ctx, pipeline.WorkerConfig{Concurrency: 1, LeaseDuration: 150 * time.Millisecond, BatchTimeout: time.Minute})
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

// noExtend is the queue of a worker that is frozen: it gives no sign of life, and leases nothing
// new once stopped.
type noExtend struct {
	*queue.Queue
	stop atomic.Bool
}

func (q *noExtend) Extend(context.Context, *queue.Batch, time.Duration) error        { return nil }
func (q *noExtend) ExtendWaiting(context.Context, *queue.Batch, time.Duration) error { return nil }
func (q *noExtend) Lease(ctx context.Context, o queue.LeaseOptions) (*queue.Batch, error) {
	if q.stop.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return q.Queue.Lease(ctx, o)
}

// Postgres is away for longer than a worker may hold a batch; no batch is blamed for it, and all
// goes through when it is back.
func TestOutageOfPostgresIsNoFault(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"it is away":                   pipeline.Unavailable(errors.New("connection refused")),
		"it gives no transaction ids":  &pgconn.PgError{Severity: "ERROR", Code: "54000", Routine: "GetNewTransactionId"},
		"it gives no multixact ids":    &pgconn.PgError{Severity: "ERROR", Code: "54000", Routine: "GetNewMultiXactId"},
		"it takes no more connections": &pgconn.PgError{Severity: "FATAL", Code: "53300"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{lease: queue.LeaseConfig{MaxFailures: 1, MaxCrashes: 1}})
			away := &awayTable{Table: r.table, err: err}
			away.left.Store(8)
			r.flow.Table = away
			records := numbered("a", 200, "good")
			r.push(records...)
			stop := r.start(pipeline.WorkerConfig{Records: 20, LeaseDuration: 200 * time.Millisecond, BatchTimeout: 300 * time.Millisecond}, pipeline.PromoterConfig{})
			defer stop()
			r.settled()
			stop()
			if away.left.Load() > 0 {
				t.Errorf("the outage was not met: %d left", away.left.Load())
			}
			r.check(want{rows: idsOf(records)})
			if st, err := r.queue.Stats(context.Background()); err != nil || st.Splits > 0 {
				t.Errorf("%d batches were split, %v, want none", st.Splits, err)
			}
		})
	}
}

type awayTable struct {
	*staging.Table[item]
	left atomic.Int64
	err  error
}

func (a *awayTable) Stage(ctx context.Context, l staging.Load[item]) (staging.Outcome, error) {
	if a.left.Add(-1) >= 0 {
		return 0, a.err
	}
	return a.Table.Stage(ctx, l)
}

// A transform that hangs loses its batch to another worker after BatchTimeout. The batch goes
// through there.
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
	stop := r.start(pipeline.WorkerConfig{Concurrency: 2, LeaseDuration: 200 * time.Millisecond, BatchTimeout: 300 * time.Millisecond}, pipeline.PromoterConfig{})
	defer stop()
	<-hung
	r.settled()
	close(release)
	stop()
	r.check(want{rows: idsOf(records)})
}

// However much there is to promote, reconcile gets its turn.
func TestReconcileIsNotStarved(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.flow.Table = &busyTable{Table: r.table}
	var reconciled atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	wait := r.startPromoter(ctx, pipeline.PromoterConfig{ReconcileInterval: 20 * time.Millisecond, Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
		if e.Op == pipeline.OpReconcile {
			reconciled.Add(1)
		}
	})})
	eventually(t, 2*time.Minute, func() error {
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

func (b *busyTable) Promote(ctx context.Context, o staging.PromoteOptions) (staging.PromoteResult, error) {
	p, err := b.Table.Promote(ctx, o)
	p.Batches = append(p.Batches, staging.PromotedBatch{ID: "01890000-0000-7000-8000-000000000000", Fate: staging.FatePromoted})
	return p, err
}

// A batch that is older than the ledger remembers may have been promoted before: it is not promoted
// again, whole or in parts.
func TestBatchBelowTheFloorIsNotPromotedTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{lease: queue.LeaseConfig{MaxFailures: 1, MaxCrashes: 1}})
	lost := &lostAcks{Queue: r.queue}
	r.flow.Queue = lost
	records := numbered("a", 9, "good")
	r.push(records...)
	ctx, cancel := context.WithCancel(context.Background())
	waitW, waitP := r.startWorker(ctx, pipeline.WorkerConfig{}), r.startPromoter(ctx, pipeline.PromoterConfig{ReconcileInterval: time.Hour})
	eventually(t, 2*time.Minute, func() error {
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
