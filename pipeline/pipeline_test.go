package pipeline_test

import (
	"context"
	"errors"
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

// Every way that a record may end, in one run: promoted, duplicate (in its batch and of an earlier
// one), filtered, refused by a stage, malformed, rejected by a rule.
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
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // ends the lock
	if _, err := tx.Exec(t.Context(), "LOCK TABLE items_rejects IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	books, err := r.flow.Books(t.Context()) // reads no reject, or it would wait
	if err != nil {
		t.Fatal(err)
	}
	var open int64
	for i, c := range books.Rejects {
		if open += c.Open; i > 0 && c.Open > books.Rejects[i-1].Open {
			t.Errorf("rejects by code are %v, want most open ones first", books.Rejects)
		}
	}
	if open != 4 {
		t.Errorf("rejects by code are %v, want 4 in all", books.Rejects)
	}
	p := books.Postgres
	if p.Duplicates != 51 || p.Filtered != 1 || p.Rejected != 3 || p.RejectedByRule != 1 || p.Rows != 1001 {
		t.Errorf("the ledger has %+v, want 51 duplicates, 1 filtered, 3 rejected, 1 ruled, 1001 rows", p)
	}
}

// A record that was rejected gives its id back with the acknowledgement, so that a corrected one
// may come; the id of a promoted one stays taken.
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

// Until the rejection is committed the id stays taken: it may yet turn out otherwise, and then two
// would be promoted.
func TestClaimOfARejectIsKeptUntilTheCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	wait := r.startWorker(ctx, pipeline.WorkerConfig{})
	for _, record := range []string{"x refuse", "x good"} {
		r.push(record)
		eventually(t, 2*time.Minute, r.allHanded)
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
	if books, err := r.flow.Books(context.Background()); err != nil || books.Postgres.Duplicates != 1 {
		t.Errorf("%d duplicates, %v: want the one that came before the commit", books.Postgres.Duplicates, err)
	}
}

// A record that fails every batch it is in ends alone in the dead-letter list; its neighbours go
// through, each once; and, its claim given back, a cured one of the same id may come.
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

// A worker whose context ends finishes what it has in hand.
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
	if err != nil || st.HandedOff != 10 {
		t.Errorf("after the stop: %+v, %v: want 10 records handed off", st, err)
	}
}

// What cannot be finished within ShutdownTimeout goes back to the queue, at once and without blame.
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
	wait := r.startWorker(ctx, pipeline.WorkerConfig{Concurrency: 1, ShutdownTimeout: 50 * time.Millisecond})
	<-entered
	cancel()
	wait()
	b, err := r.queue.TryLease(context.Background(), queue.LeaseOptions{})
	if err != nil || len(b.Payloads) != 10 || b.Failures != 0 || b.Crashes != 0 {
		t.Errorf("after the stop: %+v, %v: want the batch back, without blame", b, err)
	}
}

// A stage that loses a record is a failure of the batch, again and again. Its name is in the
// dead letter.
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
	dead, _, err := r.queue.DeadLetters(context.Background(), "", 1)
	if err != nil || len(dead) != 1 || !strings.Contains(dead[0].Reason, `stage "sieve"`) {
		t.Errorf("dead-letter list: %+v, %v: want the stage in the reason", dead, err)
	}
}

// From the push to the promoted row, signals wake each program: none waits for a poll.
func TestSignalsWakeEachProgram(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	promoted := make(chan time.Time, 100)
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{
		PollInterval: time.Hour, ReconcileInterval: time.Hour,
		Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
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
		case <-time.After(time.Minute):
			t.Fatal("not promoted within a minute: the signal was lost")
		}
	}
	stop()
}

// listening waits until the promoter has subscribed.
func listening(t *testing.T, r *rig) {
	t.Helper()
	channel := "{" + r.queue.Name() + "}:signals"
	eventually(t, 2*time.Minute, func() error {
		n, err := r.redis.Do(t.Context(), r.redis.B().PubsubNumsub().Channel(channel).Build()).ToArray()
		if err != nil {
			return err
		}
		if count, err := n[1].AsInt64(); err != nil || count == 0 {
			return errors.New("no subscriber")
		}
		return nil
	})
}
