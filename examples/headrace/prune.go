package main

import (
	"context"
	"fmt"
	"time"
)

// prune forgets old rows of the ledger and resolved rejects.
type prune struct {
	Before *time.Duration `required:"" help:"Delete rows older than this, such as 720h. Must exceed the age of anything in flight."`
	Yes    bool           `short:"y" help:"Do not ask."`
}

// Validate is called by kong after parsing.
func (v *prune) Validate() error {
	if v.Before != nil && *v.Before < time.Hour { // without it, kong names the missing flag
		return fmt.Errorf("--before is %v, must be at least 1h", *v.Before)
	}
	return nil
}

// Run prunes the ledger.
func (v *prune) Run(ctx context.Context, s *session) error {
	ledger, err := s.ledger(ctx)
	if err != nil {
		return err
	}
	now, err := ledger.Clock(ctx) // the ledger is stamped by it
	if err != nil {
		return err
	}
	before := now.Add(-*v.Before)
	if err := s.confirm(v.Yes, fmt.Sprintf("This forgets the ledger of %s before %s; batches that were sealed before are refused from then on",
		s.Table, before.Format(time.DateTime))); err != nil {
		return err
	}
	n, err := ledger.Prune(ctx, before)
	if err != nil {
		return err
	}
	return s.print(map[string]int{"pruned": n}, fmt.Sprintf("pruned %d ledger rows\n", n))
}
