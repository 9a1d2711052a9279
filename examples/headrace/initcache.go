package main

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/lookup"
)

// initCache makes new versions of the lookup tables in Redis from those in Postgres.
type initCache struct {
	What string `arg:"" optional:"" default:"all" enum:"products,currencies,zips,all" help:"products, currencies, zips or all."`
}

type loaded struct {
	Table   string `json:"table"`
	Entries int    `json:"entries"`
	Version string `json:"version"`
}

func (v *initCache) Run(ctx context.Context, s *session) error {
	app, err := s.app(ctx)
	if err != nil {
		return err
	}
	var all []loaded
	text := ""
	for _, t := range []struct {
		name    string
		refresh func(context.Context) (lookup.RefreshResult, error)
	}{{"products", app.Products.Refresh}, {"currencies", app.Rates.Refresh}, {"zips", app.Zips.Refresh}} {
		if v.What != "all" && v.What != t.name {
			continue
		}
		r, err := t.refresh(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		all = append(all, loaded{t.name, r.Entries, r.Version})
		text += fmt.Sprintf("%-10s  %d entries, version %s\n", t.name, r.Entries, r.Version)
	}
	return s.print(map[string]any{"tables": all}, text)
}
