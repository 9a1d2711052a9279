package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

var errNode = errors.New("a node is away")

// partQueue fails in part: its first reconcile, or all its acknowledgements.
type partQueue struct {
	named
	reconciles int
	ack        error
}

func (q *partQueue) Reconcile(context.Context, queue.FatesFunc, queue.SettleFunc) (queue.ReconcileResult, error) {
	q.reconciles++
	if q.reconciles == 1 {
		return queue.ReconcileResult{}, errNode
	}
	return queue.ReconcileResult{}, nil
}

func (q *partQueue) AckWith(_ context.Context, acks ...queue.Ack) (int, error) {
	return len(acks), q.ack
}

// busyTable always has another batch to promote.
type busyTable struct {
	someTable
	promoted func() // after each promotion
}

func (busyTable) Epoch(context.Context) (string, error) { return "1", nil }

func (busyTable) RejectsByBatch(context.Context, []string) (map[string][]staging.Reject, error) {
	return nil, nil
}

func (t busyTable) Promote(context.Context, staging.PromoteOptions) (staging.PromoteResult, error) {
	defer t.promoted()
	return staging.PromoteResult{Batches: []staging.PromotedBatch{{ID: staging.NewBatchID(), Fate: staging.FatePromoted}}, Records: 1, Kept: 1, Rows: 1}, nil
}

// After a node of its queue has failed, a promoter goes on promoting, and reconciles again some
// time later however much there is to promote.
func TestReconcileGetsItsTurnAfterAFailure(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var p *Promoter[int]
	promotions := 0
	q := &partQueue{}
	table := busyTable{promoted: func() {
		switch promotions++; promotions {
		case 3:
			p.reconcileAfter(0) // the time is over
		case 100:
			cancel()
		}
	}}
	p, err := NewPromoter(Flow[int]{Queue: q, Table: table, Chain: Decode(atoi)}, PromoterConfig{ReconcileInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	p.sharded = true
	if err := p.round(ctx, ctx, make(chan struct{}, 1)); !errors.Is(err, errNode) || promotions != 3 {
		t.Errorf("got %v after %d promotions, want the error of the node after 3", err, promotions)
	}
	p.reconcileAfter(0) // as the loop does after an error
	promotions = 0
	if err := p.round(ctx, ctx, make(chan struct{}, 1)); err != nil || promotions != 3 || q.reconciles != 2 {
		t.Errorf("got %v after %d promotions and %d reconciles, want 3 and 2", err, promotions, q.reconciles)
	}
}

// Rows that are in the target are new for the views also if Redis has not answered the
// acknowledgement.
func TestNotifyWithoutAnAcknowledgement(t *testing.T) {
	t.Parallel()
	notices := 0
	q := &partQueue{reconciles: 1, ack: errNode}
	p, err := NewPromoter(Flow[int]{Queue: q, Table: busyTable{promoted: func() {}}, Chain: Decode(atoi)},
		PromoterConfig{ReconcileInterval: time.Hour, Notify: func() { notices++ }})
	if err != nil {
		t.Fatal(err)
	}
	dirty := make(chan struct{}, 1)
	if err := p.round(t.Context(), t.Context(), dirty); !errors.Is(err, errNode) || notices != 1 || len(dirty) != 1 {
		t.Errorf("got %v, %d notices, %d refreshes due, want the error of the node and one of each", err, notices, len(dirty))
	}
}

// heldQueue cannot be reconciled while another lane is promoted.
type heldQueue struct{ partQueue }

func (*heldQueue) Reconcile(context.Context, queue.FatesFunc, queue.SettleFunc) (queue.ReconcileResult, error) {
	return queue.ReconcileResult{}, fmt.Errorf("fates: %w", staging.ErrBusy)
}

// A reconcile whose wait for a promotion of another lane times out does not hold up the first lane.
// Where there is one lane, the reconcile comes first.
func TestALongPromotionOfAnotherLane(t *testing.T) {
	t.Parallel()
	for lanes, want := range []int{1: 0, 2: 3} {
		if lanes == 0 {
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		promotions := 0
		table := busyTable{promoted: func() {
			if promotions++; promotions == 3 {
				cancel()
			}
		}}
		p, err := NewPromoter(Flow[int]{Queue: &heldQueue{}, Table: table, Chain: Decode(atoi)}, PromoterConfig{ReconcileInterval: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		p.wake = make([]chan struct{}, lanes)
		if err := p.round(ctx, t.Context(), make(chan struct{}, 1)); !errors.Is(err, staging.ErrBusy) || promotions != want {
			t.Errorf("%d lanes: got %v after %d promotions, want ErrBusy after %d", lanes, err, promotions, want)
		}
		cancel()
	}
}

// lanedTable has three lanes and counts the promotions of each.
type lanedTable struct {
	busyTable
	lanes func(lane int)
}

func (lanedTable) Lanes() int { return 3 }

func (t lanedTable) Promote(ctx context.Context, o staging.PromoteOptions) (staging.PromoteResult, error) {
	t.lanes(o.Lane)
	return t.busyTable.Promote(ctx, o)
}

// A promoter that was given a lane promotes no other one.
func TestAPromoterOfOneLane(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	got := map[int]int{}
	table := lanedTable{busyTable: busyTable{promoted: func() {}}, lanes: func(lane int) {
		mu.Lock()
		defer mu.Unlock()
		if got[lane]++; got[lane] == 100 {
			cancel()
		}
	}}
	p, err := NewPromoter(Flow[int]{Queue: &partQueue{reconciles: 1}, Table: table, Chain: Decode(atoi)},
		PromoterConfig{Promote: staging.PromoteOptions{Lane: 2}, ReconcileInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(ctx); err != nil || len(got) != 1 || got[2] < 100 {
		t.Errorf("got %v, promotions by lane %v, want those of lane 2 only", err, got)
	}
}

// elsewhereQueue has batches that are handed off, and counts how often they are reconciled.
type elsewhereQueue struct {
	partQueue
	err error
}

func (q *elsewhereQueue) Stats(context.Context) (queue.Stats, error) {
	return queue.Stats{HandedOffBatches: 1}, nil
}

func (q *elsewhereQueue) Reconcile(context.Context, queue.FatesFunc, queue.SettleFunc) (queue.ReconcileResult, error) {
	q.reconciles++
	return queue.ReconcileResult{}, q.err
}

// emptyTable has nothing to promote.
type emptyTable struct{ busyTable }

func (emptyTable) Promote(context.Context, staging.PromoteOptions) (staging.PromoteResult, error) {
	return staging.PromoteResult{}, nil
}

// Batches that another queue's promoter has promoted are looked for now and then, however busy the
// other lanes are. A timeout of the wait for those lanes is no failure then.
func TestPromotedElsewhereWhileLanesAreBusy(t *testing.T) {
	t.Parallel()
	q := &elsewhereQueue{}
	p, err := NewPromoter(Flow[int]{Queue: q, Table: emptyTable{}, Chain: Decode(atoi)}, PromoterConfig{ReconcileInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	p.epoch = "1"
	p.reconcileAfter(time.Hour)
	p.wake = make([]chan struct{}, 2)
	const recently = -time.Hour
	for _, c := range []struct {
		busy int32
		ago  time.Duration // since it was done last
		err  error
		want int
	}{
		{0, recently, nil, 1},
		{1, recently, nil, 1},
		{1, elsewhereInterval, nil, 2},
		{1, elsewhereInterval, fmt.Errorf("fates: %w", staging.ErrBusy), 3},
	} {
		p.busy.Store(c.busy)
		p.asked, q.err = time.Now().Add(-c.ago), c.err
		if err := p.round(t.Context(), t.Context(), make(chan struct{}, 1)); err != nil || q.reconciles != c.want {
			t.Errorf("%+v: %v and %d reconciles, want %d", c, err, q.reconciles, c.want)
		}
	}
	p.busy.Store(0)
	if err := p.round(t.Context(), t.Context(), make(chan struct{}, 1)); !errors.Is(err, staging.ErrBusy) {
		t.Errorf("with idle lanes: got %v, want ErrBusy", err)
	}
}
