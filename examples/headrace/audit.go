package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/headrace/headrace/examples/internal/program"
)

// audit recounts the queue and windows, and compares the books of both stores. It only reads.
type audit struct{ windowNames }

type audited struct {
	Balanced    bool     `json:"balanced"`
	Quiet       bool     `json:"quiet"`
	Batches     int64    `json:"batches"`
	Records     int64    `json:"records"`
	Dead        int64    `json:"dead"`
	Delayed     int64    `json:"delayed"`
	Differences []string `json:"differences"`
	Books       string   `json:"books,omitempty"` // the line that is off

	Windows []auditedWindow `json:"windows"`
}

type auditedWindow struct {
	Window      string   `json:"window"`
	Windows     int      `json:"windows"` // how many were compared
	Differences []string `json:"differences"`
}

// Run audits. Its error names what is off.
func (v *audit) Run(ctx context.Context, s *session) error {
	p, err := s.pipeline(ctx)
	if err != nil {
		return err
	}
	found, err := p.Queue.Audit(ctx)
	if err != nil {
		return err
	}
	now, err := p.Stats(ctx)
	if err != nil {
		return err
	}
	r := audited{
		Quiet: found.Quiet, Batches: found.Batches, Records: found.Records, Dead: found.Dead, Delayed: found.Delayed,
		Differences: append([]string{}, found.Differences...),
	}
	off := now.Balanced()
	if off != nil {
		r.Books = off.Error()
	}
	r.Balanced = off == nil && len(r.Differences) == 0
	var windows error
	if r.Windows, windows, err = v.audit(ctx, s); err != nil {
		return err
	}
	r.Balanced = r.Balanced && windows == nil
	width, _ := program.Width(s.Out)
	text := fmt.Sprintf("counted %d records in %d batches, %d dead, %d delayed\n", r.Records, r.Batches, r.Dead, r.Delayed)
	if !r.Quiet {
		text += "the queue was busy: its sums were not compared\n"
	}
	for _, l := range now.Books.Lines() {
		mark := "✓"
		if l.Imbalance() != 0 {
			mark = "✗"
		}
		text += program.Wrap(fmt.Sprintf("%s %-9s ", mark, l.Name), l.Sum, width) + "\n"
	}
	for _, d := range r.Differences {
		text += program.Wrap("✗ ", d, width) + "\n"
	}
	for _, w := range r.Windows {
		if len(w.Differences) == 0 {
			text += program.Wrap("✓ windows   ", fmt.Sprintf("%s: %d windows are as their books have them", w.Window, w.Windows), width) + "\n"
		}
		for _, d := range w.Differences {
			text += program.Wrap("✗ windows   ", w.Window+": "+d, width) + "\n"
		}
	}
	if err := s.print(r, text); err != nil {
		return err
	}
	if len(r.Differences) > 0 {
		off = errors.Join(off, errors.New("the queue differs from its books: "+strings.Join(r.Differences, "; ")))
	}
	return errors.Join(off, windows)
}
