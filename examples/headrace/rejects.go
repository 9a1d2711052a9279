package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/examples/internal/ops"
	"github.com/headrace/headrace/staging"
)

// rejects is the table of rejected records and rows.
type rejects struct {
	List    rejectList    `cmd:"" help:"List open rejects, oldest first."`
	Codes   rejectCodes   `cmd:"" help:"Count open rejects by code."`
	Show    rejectShow    `cmd:"" help:"Show a reject with its payload."`
	Resolve rejectResolve `cmd:"" help:"Mark rejects as resolved."`
	Replay  rejectReplay  `cmd:"" help:"Push a reject again, corrected or as it was, and resolve it."`
}

type rejectList struct {
	N     int    `short:"n" default:"20" help:"How many, 1 to 1000."`
	Code  string `help:"Only those with this code."`
	Key   string `help:"Only those with this record id."`
	All   bool   `help:"Include resolved rejects."`
	After int64  `help:"Continue after this id."`
}

// Validate is called by kong after parsing.
func (v *rejectList) Validate() error { return between("-n", v.N, 1, 1000) }

// Run lists one page.
func (v *rejectList) Run(ctx context.Context, s *session) error {
	ledger, err := s.ledger(ctx)
	if err != nil {
		return err
	}
	filter := staging.RejectFilter{Code: v.Code, Key: v.Key, Resolved: v.All, After: v.After}
	list, err := s.list("rejects")
	if err != nil {
		return err
	}
	for list.n < v.N {
		filter.Limit = min(v.N-list.n, readAtOnce)
		page, err := ledger.Rejects(ctx, filter)
		if err != nil {
			return err
		}
		for _, r := range page {
			if err := list.add(func() any { return r }, func() string {
				return fmt.Sprintf("%6d  %s  %-18s %s", r.ID, r.At.Format(time.DateTime), r.Code, r.Reason)
			}); err != nil {
				return err
			}
			filter.After = r.ID
		}
		if len(page) < filter.Limit {
			return list.end("", "", "")
		}
	}
	return list.end("", "", fmt.Sprintf("more: add --after %d\n", filter.After))
}

type rejectCodes struct{}

// Run counts the rejects.
func (v *rejectCodes) Run(ctx context.Context, s *session) error {
	ledger, err := s.ledger(ctx)
	if err != nil {
		return err
	}
	counts, err := ledger.OpenCodes(ctx)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, code := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&text, "%-18s %d\n", code, counts[code])
	}
	return s.print(map[string]any{"codes": counts}, text.String())
}

type rejectShow struct {
	ID int64 `arg:"" help:"Id of the reject."`
}

// Run shows one reject.
func (v *rejectShow) Run(ctx context.Context, s *session) error {
	ledger, err := s.ledger(ctx)
	if err != nil {
		return err
	}
	r, err := ledger.Reject(ctx, v.ID)
	if err != nil {
		return err
	}
	state := "open"
	if r.Resolved != nil {
		state = "resolved " + r.Resolved.Format(time.DateTime)
	}
	return s.print(r, s.field("id", fmt.Sprintf("%d (%s)", r.ID, state))+s.field("at", r.At.Format(time.DateTime))+s.field("code", r.Code)+
		s.field("reason", r.Reason)+s.field("key", r.Key)+s.field("batch", fmt.Sprintf("%s, place %d, source %s", r.Batch, r.Place, r.Source))+
		s.field("payload", ops.Readable(r.Raw)))
}

type rejectResolve struct {
	IDs []int64 `arg:"" name:"id" help:"Ids of rejects."`
}

// Run resolves rejects.
func (v *rejectResolve) Run(ctx context.Context, s *session) error {
	ledger, err := s.ledger(ctx)
	if err != nil {
		return err
	}
	n, err := ledger.Resolve(ctx, v.IDs...)
	if err != nil {
		return err
	}
	if err := s.print(map[string]int{"resolved": n}, fmt.Sprintf("resolved %d rejects\n", n)); err != nil {
		return err
	}
	if n < len(v.IDs) {
		return fmt.Errorf("%d of %d ids are not those of an open reject", len(v.IDs)-n, len(v.IDs))
	}
	return nil
}

type rejectReplay struct {
	rejectShow
	File string `help:"File with the corrected record. Without it, the rejected record is pushed."`
}

// Run pushes the record before it commits that the reject is resolved: a crash in between leaves
// the reject open, and a record that is pushed twice is a duplicate.
func (v *rejectReplay) Run(ctx context.Context, s *session) error {
	ledger, err := s.ledger(ctx)
	if err != nil {
		return err
	}
	r, err := ledger.Reject(ctx, v.ID)
	if err != nil {
		return err
	}
	resolved := fmt.Errorf("reject %d is resolved already", r.ID)
	if r.Resolved != nil {
		return resolved
	}
	payload := r.Raw
	if v.File != "" {
		if payload, err = os.ReadFile(v.File); err != nil {
			return err
		}
	} else if r.Source != "stage" {
		return errors.New("this reject holds a row and not the record that it came from: give the record with --file")
	}
	q, err := s.queue(ctx)
	if err != nil {
		return err
	}
	done, err := ledger.Resubmit(ctx, r.ID, func(ctx context.Context) error { return q.Push(ctx, payload) })
	if err != nil {
		return err
	}
	if !done {
		return resolved
	}
	return s.print(map[string]int64{"replayed": r.ID}, fmt.Sprintf("pushed the record of reject %d and resolved it\n", r.ID))
}
