package pipeline_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// chaos breaks calls at random: before they are done, or after (the reply is lost), or it freezes
// the caller past its lease.
type chaos struct {
	mu   sync.Mutex
	rnd  *rand.Rand
	rate float64
	off  bool
}

func (c *chaos) roll() (fault string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off || c.rnd.Float64() >= c.rate {
		return ""
	}
	return [...]string{"before", "after", "freeze"}[c.rnd.IntN(3)]
}

func (c *chaos) do(ctx context.Context, call func() error) error {
	switch c.roll() {
	case "before":
		return pipeline.Unavailable(errLostReply)
	case "after":
		if err := call(); err != nil {
			return err
		}
		return pipeline.Unavailable(errLostReply)
	case "freeze":
		t := time.NewTimer(250 * time.Millisecond)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done(): // frozen does not mean deaf forever: the test must end
		}
	}
	return call()
}

type chaosQueue struct {
	*queue.Queue
	c *chaos
}

func (q *chaosQueue) Extend(context.Context, *queue.Batch, time.Duration) error        { return nil } // no sign of life
func (q *chaosQueue) ExtendWaiting(context.Context, *queue.Batch, time.Duration) error { return nil }
func (q *chaosQueue) Handoff(ctx context.Context, b *queue.Batch) error {
	return q.c.do(ctx, func() error { return q.Queue.Handoff(context.WithoutCancel(ctx), b) })
}
func (q *chaosQueue) AckWith(ctx context.Context, acks ...queue.Ack) (n int, err error) {
	err = q.c.do(ctx, func() error { n, err = q.Queue.AckWith(ctx, acks...); return err })
	return n, err
}
func (q *chaosQueue) Release(ctx context.Context, b *queue.Batch, o queue.ReleaseOptions) error {
	return q.c.do(ctx, func() error { return q.Queue.Release(ctx, b, o) })
}

type chaosTable struct {
	*staging.Table[item]
	c *chaos
}

func (t *chaosTable) Stage(ctx context.Context, l staging.Load[item]) (o staging.Outcome, err error) {
	err = t.c.do(ctx, func() error { o, err = t.Table.Stage(context.WithoutCancel(ctx), l); return err })
	return o, err
}
func (t *chaosTable) Promote(ctx context.Context, o staging.PromoteOptions) (p staging.PromoteResult, err error) {
	err = t.c.do(ctx, func() error { p, err = t.Table.Promote(ctx, o); return err })
	return p, err
}
func (t *chaosTable) Void(ctx context.Context, b staging.Batch) (f staging.Fate, err error) {
	err = t.c.do(ctx, func() error { f, err = t.Table.Void(ctx, b); return err })
	return f, err
}

// Two programs of workers and two promoters on one queue, whose calls fail, lose their replies or
// freeze past the lease, one in five. Batches are redelivered, voided and split while others still
// hold them. Every record ends once.
func TestChaos(t *testing.T) {
	t.Parallel()
	const seed = 7
	r := newRig(t, rigOptions{lease: queue.LeaseConfig{MaxCrashes: 1, MaxFailures: 1}})
	c := &chaos{rnd: rand.New(rand.NewPCG(seed, seed)), rate: 0.2}
	whole := r.flow
	r.flow.Queue = &chaosQueue{r.queue, c}
	r.flow.Table = &chaosTable{r.table, c}

	good := numbered("a", 3000, "good")
	r.push(good...)
	r.push(good[:300]...)
	for _, kind := range []string{"filter", "refuse", "rule"} {
		r.push(numbered(kind, 30, kind)...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var waits []func()
	for range 2 {
		waits = append(waits,
			r.startWorker(ctx, pipeline.WorkerConfig{Concurrency: 4, Records: 60, LeaseDuration: 120 * time.Millisecond}),
			r.startPromoter(ctx, pipeline.PromoterConfig{PollInterval: 30 * time.Millisecond, ReconcileInterval: 50 * time.Millisecond}))
	}
	eventually(t, 2*time.Minute, func() error {
		st, err := r.queue.Stats(context.Background())
		if err == nil && st.Acked+st.Dead < int64(len(r.pushed))*9/10 {
			err = errLostReply
		}
		return err
	})
	c.mu.Lock()
	c.off = true
	c.mu.Unlock()
	// A lease that ran out is a crash to the queue, so a healthy record may have been buried here:
	// it is requeued, and must end like the others.
	eventually(t, 2*time.Minute, func() error {
		if _, err := r.queue.RequeueAll(context.Background()); err != nil {
			return err
		}
		st, err := r.queue.Stats(context.Background())
		if err == nil && st.Acked != int64(len(r.pushed)) {
			err = fmt.Errorf("%d pushed: %+v", len(r.pushed), st)
		}
		return err
	})
	cancel()
	for _, wait := range waits {
		wait()
	}
	r.flow = whole
	rejects := append(idsOf(numbered("refuse", 30, "")), idsOf(numbered("rule", 30, ""))...)
	r.check(want{rows: idsOf(good), rejects: rejects})
}
