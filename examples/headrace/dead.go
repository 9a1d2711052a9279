package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/examples/internal/ops"
	"github.com/headrace/headrace/queue"
)

// dead is the dead-letter list.
type dead struct {
	List    deadList    `cmd:"" help:"List dead letters, oldest first."`
	Show    deadShow    `cmd:"" help:"Show a dead letter with its payload."`
	Requeue deadRequeue `cmd:"" help:"Deliver dead letters again."`
	Discard deadDiscard `cmd:"" aliases:"drop" help:"Remove dead letters for good."`
}

type letter struct {
	ID       string    `json:"id"`
	Died     time.Time `json:"died"`
	Seen     time.Time `json:"first_seen"`
	Reason   string    `json:"reason"`
	Attempts int64     `json:"attempts"`
	Failures int       `json:"failures"`
	Crashes  int       `json:"crashes"`
	Payload  any       `json:"payload"`
}

func toLetter(d queue.DeadLetter) letter {
	return letter{d.ID, d.Died, d.FirstSeen, d.Reason, d.Attempts, d.Failures, d.Crashes, ops.Payload(d.Payload)}
}

// readAtOnce is how many records are read at once for a list: a payload may have megabytes.
const readAtOnce = 10

type deadList struct {
	N     int    `short:"n" default:"20" help:"How many, 1 to 1000."`
	After string `help:"Continue after this cursor of the previous call."`
}

// Validate is called by kong after parsing.
func (v *deadList) Validate() error { return between("-n", v.N, 1, 1000) }

// Run lists one page.
func (v *deadList) Run(ctx context.Context, s *session) error {
	q, err := s.queue(ctx)
	if err != nil {
		return err
	}
	page, next, err := q.DeadLetters(ctx, v.After, min(v.N, readAtOnce))
	if err != nil {
		return err
	}
	list, err := s.list("dead")
	if err != nil {
		return err
	}
	for {
		for _, d := range page {
			if err := list.add(func() any { return toLetter(d) }, func() string {
				return fmt.Sprintf("%s  %s  %s", d.ID, d.Died.Format(time.DateTime), d.Reason)
			}); err != nil {
				return err
			}
		}
		if next == "" || list.n >= v.N {
			break
		}
		if page, next, err = q.DeadLetters(ctx, next, min(v.N-list.n, readAtOnce)); err != nil {
			return err
		}
	}
	more := ""
	if next != "" {
		more = fmt.Sprintf("more: add --after %s\n", next)
	}
	return list.end("next", next, more)
}

type deadShow struct {
	ID string `arg:"" help:"Id of the dead letter."`
}

// Run shows one dead letter.
func (v *deadShow) Run(ctx context.Context, s *session) error {
	q, err := s.queue(ctx)
	if err != nil {
		return err
	}
	d, err := q.DeadLetter(ctx, v.ID)
	if errors.Is(err, queue.ErrGone) {
		return fmt.Errorf("no dead letter has the id %s", v.ID)
	}
	if err != nil {
		return err
	}
	return s.print(toLetter(d), s.field("id", d.ID)+s.field("died", d.Died.Format(time.DateTime))+s.field("reason", d.Reason)+
		s.field("attempts", fmt.Sprintf("%d (failures %d, crashes %d)", d.Attempts, d.Failures, d.Crashes))+
		s.field("payload", ops.Readable(d.Payload)))
}

// selection is some dead letters, or all.
type selection struct {
	IDs []string `arg:"" optional:"" name:"id" help:"Ids of dead letters."`
	All bool     `help:"All of them."`
}

// Validate is called by kong after parsing.
func (v *selection) Validate() error {
	if v.All == (len(v.IDs) > 0) {
		return errors.New("name ids of dead letters, or --all")
	}
	return nil
}

// missed is the error of a verb that found n of its ids. A mistyped id must not look like success.
func (v *selection) missed(n int) error {
	if v.All || n == len(v.IDs) {
		return nil
	}
	return fmt.Errorf("%d of %d ids are not those of a dead letter", len(v.IDs)-n, len(v.IDs))
}

type deadRequeue struct{ selection }

// Run requeues dead letters.
func (v *deadRequeue) Run(ctx context.Context, s *session) error {
	q, err := s.queue(ctx)
	if err != nil {
		return err
	}
	var n int
	if v.All {
		n, err = q.RequeueAll(ctx)
	} else {
		n, err = q.Requeue(ctx, v.IDs...)
	}
	if err != nil {
		return err
	}
	return errors.Join(s.print(map[string]int{"requeued": n}, fmt.Sprintf("requeued %d dead letters\n", n)), v.missed(n))
}

type deadDiscard struct {
	selection
	Yes bool `short:"y" help:"Do not ask."`
}

// Run discards dead letters.
func (v *deadDiscard) Run(ctx context.Context, s *session) error {
	q, err := s.queue(ctx)
	if err != nil {
		return err
	}
	ids := v.IDs
	if v.All {
		if ids, err = ops.DeadLetters(ctx, s.client, s.Queue); err != nil {
			return err
		}
	}
	if err := s.confirm(v.Yes, fmt.Sprintf("This discards %d dead letters of the queue %s for good", len(ids), s.Queue)); err != nil {
		return err
	}
	n := 0
	for len(ids) > 0 {
		part := ids[:min(1000, len(ids))]
		ids = ids[len(part):]
		m, err := q.Discard(ctx, part...)
		if n += m; err != nil {
			return err
		}
	}
	return errors.Join(s.print(map[string]int{"discarded": n}, fmt.Sprintf("discarded %d dead letters\n", n)), v.missed(n))
}
