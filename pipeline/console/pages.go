package console

import (
	"context"
	"net/http"
	"time"
)

// page is one page of a pipeline.
type page struct {
	title string
	build func(ctx context.Context, p *pipe, r *http.Request) (model, error)
}

// pages are the pages of a pipeline, by their names in addresses.
var pages = map[string]page{
	pageOverview: {"Overview", buildOverview},
	"queue":      {"Queue", buildQueue},
	"dead":       {"Dead letters", buildDead},
	"rejects":    {"Rejects", buildRejects},
	"find":       {"Find", buildFind},
	"batches":    {"Batches", buildBatches},
	"tables":     {"Lookups, windows, views", buildTables},
	"health":     {"Health", buildHealth},
}

// menu is the order of the pages.
var menu = []string{pageOverview, "queue", "dead", "rejects", "find", "batches", "tables", "health"}

// model is what a page shows, and what its JSON contains.
type model interface{ common() *Common }

// Common is what every page has.
type Common struct {
	// At is when the page was made.
	At time.Time `json:"at"`
	// Warnings name what is missing or old.
	Warnings []Warning `json:"warnings"`
}

func (c *Common) common() *Common { return c }

func newCommon() Common { return Common{At: time.Now(), Warnings: []Warning{}} }

// take returns the last answer of a reading, nil if there is none, and notes what is missing.
func take[V any](c *Common, r *reading[V]) *V {
	a := r.get()
	if w := a.warning(); w != nil {
		c.Warnings = append(c.Warnings, *w)
	}
	if !a.ok {
		return nil
	}
	return &a.value
}
