package console

import (
	"context"
	"fmt"
)

// planDead counts the dead letters of an action.
func (p *pipe) planDead(ctx context.Context, a Action) (plan Plan, err error) {
	plan.Unit = "dead letters"
	if a.Kind == ActionKindRequeue {
		plan.Title = "Requeue dead letters"
		plan.Text = "Each gets another chance, as a batch of its own with its counters at zero."
	} else {
		plan.Title, plan.Danger = "Discard dead letters", true
		plan.Text = "They are removed for good, with their payloads. The books count them as discarded."
	}
	switch {
	case !a.All:
		plan.Records = int64(len(a.IDs))
	case a.Reason == "":
		s, err := p.Queue.Stats(ctx)
		plan.Records = s.Dead
		return plan, err
	default:
		plan.More, err = p.eachLetter(ctx, a.Reason, func(ids []string) error { plan.Records += int64(len(ids)); return nil })
	}
	return plan, err
}

// letterParts bounds the dead letters that one action with a filter looks at: letterParts times
// deadLooked.
const letterParts = 100

// eachLetter passes on the ids of the dead letters with a part of a reason. more reports that there
// are letters that it has not looked at.
func (p *pipe) eachLetter(ctx context.Context, reason string, f func(ids []string) error) (more bool, err error) {
	q := letterQuery{reason: reason, wanted: deadLooked, looked: deadLooked}
	for range letterParts {
		page, err := p.readLetters(ctx, q)
		if err != nil {
			return true, err
		}
		ids := make([]string, len(page.letters))
		for i, l := range page.letters {
			ids[i] = l.ID
		}
		if len(ids) > 0 {
			if err := f(ids); err != nil {
				return true, err
			}
		}
		if q.after = page.next; q.after == "" {
			return false, nil
		}
	}
	return true, nil
}

func (p *pipe) doDead(ctx context.Context, a Action, d *ActionResult, done string, do func(ctx context.Context, ids ...string) (int, error)) error {
	some := func(ids []string) error {
		n, err := do(ctx, ids...)
		d.Records += int64(n)
		return err
	}
	var more bool
	var err error
	if a.All {
		more, err = p.eachLetter(ctx, a.Reason, some)
	} else {
		err = some(a.IDs)
	}
	d.Text = fmt.Sprintf("%s %s %s.", counted(d.Records, "dead letters"), was(d.Records), done)
	if more {
		d.Text += " There are more: do it again."
	}
	return err
}
