package console

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/queue"
)

// Edit is a payload that may be edited before it is pushed.
type Edit struct {
	Text string `json:"text"`
	// Refused is why it cannot be edited here; Needed reports that it must be.
	Refused string `json:"refused,omitempty"`
	Needed  bool   `json:"needed,omitempty"`
}

// planResolve counts the rejects of an action.
func (p *pipe) planResolve(ctx context.Context, a Action) (plan Plan, err error) {
	plan = Plan{Title: "Resolve rejects", Unit: "rejects", Records: int64(len(a.IDs))}
	plan.Text = "They are marked as done with, and leave this list. Their payloads stay in the table of rejects until the ledger is pruned. Nothing is pushed again."
	if a.All {
		plan.Records, err = p.eachReject(ctx, a, func([]int64) (int64, error) { return 0, nil })
	}
	return plan, err
}

// eachReject passes on the ids of the open rejects of an action with a filter, and returns how many
// there were.
func (p *pipe) eachReject(ctx context.Context, a Action, f func(ids []int64) (int64, error)) (n int64, err error) {
	var last int64
	if err := p.ledger.pool.QueryRow(ctx, p.ledger.statements["last_reject"], unprepared).Scan(&last); err != nil {
		return 0, p.ledger.explain("rejects", err)
	}
	for before := last + 1; before > 0; before -= rejectsLooked {
		ids, err := p.ledger.openRejects(ctx, before, a.Code, a.Source)
		if err != nil {
			return n, err
		}
		if len(ids) > 0 {
			if _, err := f(ids); err != nil {
				return n, err
			}
		}
		n += int64(len(ids))
	}
	return n, nil
}

// replayable reads the reject of a replay.
func (p *pipe) replayable(ctx context.Context, a Action) (*rejectRow, error) {
	ids, err := a.numbers()
	if err != nil {
		return nil, err
	}
	r, err := p.ledger.readReject(ctx, ids[0], queue.MaxPayload)
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return nil, fmt.Errorf("%w: no reject has the id %d", ErrNotFound, ids[0])
	case r.Resolved != nil:
		return nil, fmt.Errorf("%w: reject %d is resolved already", ErrArgument, ids[0])
	}
	return r, nil
}

// planReplay shows the payload of a reject to be edited.
func (p *pipe) planReplay(ctx context.Context, a Action) (Plan, error) {
	plan := Plan{Title: "Replay a reject", Unit: "rejects", Records: 1}
	plan.Text = "The record is pushed into the queue again, and then the reject is resolved. If the push succeeds and the rest does not, the reject stays open; a record that is pushed twice is a duplicate."
	r, err := p.replayable(ctx, a)
	if err != nil {
		return plan, err
	}
	plan.Edit = &Edit{Text: string(r.Begin), Needed: r.Source != "stage"}
	switch {
	case p.h.cfg.HidePayloads:
		plan.Edit.Refused = "payloads are hidden here"
	case r.Length > oneBytes:
		plan.Edit.Refused = "it is longer than " + size(oneBytes)
	case visible(string(r.Begin)) != string(r.Begin): // a browser sends back other bytes
		plan.Edit.Refused = "it has characters that do not print"
	}
	if plan.Edit.Refused != "" {
		plan.Edit.Text = ""
	}
	if plan.Edit.Needed && plan.Edit.Refused == "" {
		plan.Text += " This reject holds a row and not the record that it came from: write the record in its place."
	}
	return plan, nil
}

func (p *pipe) doResolve(ctx context.Context, a Action, d *ActionResult) error {
	some := func(ids []int64) (int64, error) {
		n, err := p.ledger.resolve(ctx, ids...)
		d.Records += n
		return n, err
	}
	var err error
	if a.All {
		_, err = p.eachReject(ctx, a, some)
	} else {
		var ids []int64
		if ids, err = a.numbers(); err == nil {
			_, err = some(ids)
		}
	}
	d.Text = fmt.Sprintf("%s %s resolved.", counted(d.Records, "rejects"), was(d.Records))
	return err
}

// doReplay pushes the record before it commits that the reject is resolved: a crash in between
// leaves the reject open, and a record that is pushed twice is a duplicate.
func (p *pipe) doReplay(ctx context.Context, a Action, d *ActionResult) error {
	r, err := p.replayable(ctx, a)
	if err != nil {
		return err
	}
	payload := r.Begin
	switch {
	case a.Payload != nil:
		payload = a.Payload
	case r.Source != "stage":
		return fmt.Errorf("%w: the reject holds a row and not the record: the record is needed", ErrArgument)
	case int64(len(payload)) != r.Length:
		return fmt.Errorf("console: read %d bytes of the payload, want %d", len(payload), r.Length)
	}
	done, err := p.ledger.resubmit(ctx, r.ID, func(ctx context.Context) error { return p.Queue.Push(ctx, payload) })
	switch {
	case err != nil:
		return err
	case !done:
		return fmt.Errorf("%w: reject %d is resolved already", ErrArgument, r.ID)
	}
	d.Records = 1
	d.Text = "The record was pushed into the queue, and the reject is resolved."
	return nil
}
