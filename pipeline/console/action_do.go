package console

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/headrace/headrace/queue"
)

// Plan is what an action will do.
type Plan struct {
	Title string `json:"title"`
	Text  string `json:"text"`
	// Records is how many records, or batches where Unit is "batches", it touches. More reports that
	// there may be more than were counted.
	Records int64  `json:"records"`
	Unit    string `json:"unit"`
	More    bool   `json:"more,omitempty"`
	// Danger reports that it cannot be undone.
	Danger bool `json:"danger,omitempty"`
	// Edit is the payload that may be edited.
	Edit *Edit `json:"edit,omitempty"`
}

// ActionResult is an action that was done, or failed.
type ActionResult struct {
	At      time.Time     `json:"at"`
	Who     string        `json:"who"`
	Action  Action        `json:"action"`
	Records int64         `json:"records"`
	Unit    string        `json:"unit"`
	Text    string        `json:"text"`
	Details []string      `json:"details,omitempty"`
	Error   string        `json:"error,omitempty"`
	Took    time.Duration `json:"took_ns"`
}

// journal keeps the last actions in this process.
type journal struct {
	mu      sync.Mutex
	results []ActionResult
}

const maxResults = 50

func (j *journal) add(d ActionResult) {
	j.mu.Lock()
	defer j.mu.Unlock()
	d.Action.Payload = nil
	j.results = append(j.results, d)
	if len(j.results) > maxResults {
		j.results = slices.Delete(j.results, 0, len(j.results)-maxResults)
	}
}

// last returns the last actions on a pipeline, newest first.
func (j *journal) last(pipeline string) []ActionResult {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := []ActionResult{}
	for _, d := range slices.Backward(j.results) {
		if d.Action.Pipeline == pipeline {
			out = append(out, d)
		}
	}
	return out
}

// plan counts what an action will do. It changes nothing.
func (p *pipe) plan(ctx context.Context, a Action) (plan Plan, err error) {
	plan.Unit = "records"
	stats := func() queue.Stats {
		var s queue.Stats
		if err == nil {
			s, err = p.Queue.Stats(ctx)
		}
		return s
	}
	switch a.Kind {
	case ActionKindPause:
		s := stats()
		plan.Title, plan.Records = "Pause the queue", s.Ready+s.Delayed
		plan.Text = "Workers lease nothing more, in all processes. The batches that they hold still go to the table. Producers can still push. Waiting records stay where they are until the queue is resumed."
	case ActionKindResume:
		s := stats()
		plan.Title, plan.Records = "Resume the queue", s.Ready+s.Delayed
		plan.Text = "Workers lease again, within a second."
	case ActionKindRequeue, ActionKindDiscard:
		plan, err = p.planDead(ctx, a)
	case ActionKindResolve:
		plan, err = p.planResolve(ctx, a)
	case ActionKindReplay:
		plan, err = p.planReplay(ctx, a)
	case ActionKindRefreshView:
		if _, ok := p.Views.(viewRefresher); !ok {
			return plan, fmt.Errorf("%w: no views that can be refreshed", ErrUnavailable)
		}
		plan.Title, plan.Unit = "Refresh "+cmp.Or(a.Name, "all views"), "views"
		plan.Text = "The view and those that it reads are brought up to date. Readers go on where the view has a unique index."
		var all int
		if f, e := p.Views.Freshness(ctx); e == nil {
			all = len(f)
		} else {
			err = e
		}
		plan.Records = int64(all)
		if a.Name != "" {
			plan.Records = 1
		}
	case ActionKindRefreshLookup:
		if _, err := p.lookup(a.Name); err != nil {
			return plan, err
		}
		plan.Title, plan.Unit, plan.Records = "Refresh the lookup table "+a.Name, "tables", 1
		plan.Text = "The table is read from its source and becomes the current version in all processes, in one step. If that fails, the version of now stays."
	case ActionKindPromote:
		if p.Promote == nil {
			return plan, fmt.Errorf("%w: the console knows no flow to promote by", ErrUnavailable)
		}
		staged, e := p.ledger.readStaged(ctx)
		err = e
		plan.Title, plan.Unit, plan.Records = "Promote now", "batches", staged.Batches
		plan.Text = "What is staged goes into the table in one transaction, and is acknowledged. A promoter that runs does this on its own."
	case ActionKindReconcile:
		if p.Reconcile == nil {
			return plan, fmt.Errorf("%w: the console knows no flow to reconcile by", ErrUnavailable)
		}
		plan.Title, plan.Unit, plan.Records = "Reconcile", "batches", stats().HandedOffBatches
		plan.Text = "Each batch that was handed off is compared with the table: a promoted one is acknowledged, a void one is split or buried, one that Postgres has lost is delivered again."
	case ActionKindAudit:
		s := stats()
		plan.Title, plan.Unit = "Audit the queue", "batches"
		plan.Records = s.LeasedBatches + s.WaitingBatches + s.HandedOffBatches + s.BrokenBatches
		plan.Text = "The queue is recounted from its keys and compared with its books. Nothing changes. It reads every batch and every dead letter, so it costs more than a page."
	}
	return plan, err
}

// do does an action, and notes what it did.
func (p *pipe) do(ctx context.Context, a Action, d *ActionResult) error {
	switch a.Kind {
	case ActionKindPause:
		d.Text = "The queue is paused."
		return p.Queue.Pause(ctx)
	case ActionKindResume:
		d.Text = "The queue is resumed."
		return p.Queue.Resume(ctx)
	case ActionKindRequeue:
		return p.doDead(ctx, a, d, "requeued", p.Queue.Requeue)
	case ActionKindDiscard:
		return p.doDead(ctx, a, d, "discarded", p.Queue.Discard)
	case ActionKindResolve:
		return p.doResolve(ctx, a, d)
	case ActionKindReplay:
		return p.doReplay(ctx, a, d)
	case ActionKindRefreshView:
		return p.doRefresh(ctx, a, d)
	case ActionKindRefreshLookup:
		l, err := p.lookup(a.Name)
		if err != nil {
			return err
		}
		r, err := l.Refresh(ctx)
		d.Records, d.Text = 1, fmt.Sprintf("Version %s with %s is current.", r.Version, counted(int64(r.Entries), "entries"))
		return err
	case ActionKindPromote:
		n, err := p.Promote(ctx)
		d.Records, d.Text = int64(n), fmt.Sprintf("%s %s promoted.", counted(int64(n), "batches"), was(int64(n)))
		return err
	case ActionKindReconcile:
		d.Text = "The batches that were handed off were compared with the table."
		return p.Reconcile(ctx)
	case ActionKindAudit:
		report, err := p.Queue.Audit(ctx)
		d.Records, d.Details = report.Batches, report.Differences
		d.Text = fmt.Sprintf("Counted %s in %s, %s and %s; %s from the books.", counted(report.Records, "records"),
			counted(report.Batches, "batches"), counted(report.Dead, "dead letters"), counted(report.Delayed, "delayed records"),
			counted(int64(len(report.Differences)), "differences"))
		if !report.Quiet {
			d.Text += " The queue was busy, so its sums were not compared."
		}
		return err
	}
	return fmt.Errorf("%w: action %q", ErrArgument, a.Kind)
}
