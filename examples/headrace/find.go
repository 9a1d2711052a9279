package main

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

// find shows where a record is.
type find struct {
	ID string `arg:"" help:"Id of the record, as the dedup window and the table know it, or of a batch."`
}

// Help shows an example.
func (find) Help() string { return "Example:\n\n  headrace find ord-0001" }

// Run looks in all places. It only reads. Its error reports that nothing was found.
func (v *find) Run(ctx context.Context, s *session) error {
	p, err := s.pipeline(ctx)
	if err != nil {
		return err
	}
	src := pipeline.FindSources{Queue: p.Queue, Window: p.Window}
	table, err := staging.NewFinder(ctx, s.pool, s.Table, "")
	switch {
	case err == nil:
		src.Table = table
	case p.Ledger != nil: // a pipeline without a table has not started yet
		return err
	}
	found, err := pipeline.Find(ctx, src, v.ID)
	if err != nil {
		return err
	}
	width, _ := program.Width(s.Out)
	text := ""
	for _, place := range found.Places {
		text += program.Wrap("", place.String(), width) + "\n"
	}
	for _, l := range found.Limits {
		text += program.Wrap("  ", "not looked through: "+l, width) + "\n"
	}
	if err := s.print(found, text); err != nil {
		return err
	}
	if len(found.Places) == 0 {
		return fmt.Errorf("nothing in the pipeline has the id %s", v.ID)
	}
	return nil
}
