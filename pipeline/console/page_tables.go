package console

import (
	"context"
	"net/http"

	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/window"
)

// LookupState is a lookup table.
type LookupState struct {
	Name string `json:"name"`
	// Stats is nil where there is no answer.
	Stats *lookup.Stats `json:"stats"`
	// Refreshes reports that the console can refresh it.
	Refreshes bool `json:"can_refresh"`
}

// WindowState is a store of windows.
type WindowState struct {
	Name  string        `json:"name"`
	Stats *window.Stats `json:"stats"`
	// Imbalance is why its books do not balance, "" if they do.
	Imbalance string `json:"imbalance,omitempty"`
}

// TablesPage is the lookup tables, windows and views.
type TablesPage struct {
	Common
	Lookups []LookupState       `json:"lookups"`
	Windows []WindowState       `json:"windows"`
	Views   []matview.Freshness `json:"views"`
	// HasViews reports that the console was given a set of views.
	HasViews bool `json:"has_views"`
	// Refreshes reports that the console can refresh them.
	Refreshes bool `json:"can_refresh_views"`
}

func buildTables(ctx context.Context, p *pipe, _ *http.Request) (model, error) {
	var wanted []refresher
	for _, l := range p.lookups {
		wanted = append(wanted, l)
	}
	for _, w := range p.windows {
		wanted = append(wanted, w)
	}
	if p.views != nil {
		wanted = append(wanted, p.views)
	}
	await(ctx, wanted...)
	d := &TablesPage{Common: newCommon(), Lookups: []LookupState{}, Windows: []WindowState{}, Views: []matview.Freshness{}, HasViews: p.views != nil}
	_, d.Refreshes = p.Views.(viewRefresher)
	for i, l := range p.Lookups {
		_, refreshes := l.(lookupRefresher)
		d.Lookups = append(d.Lookups, LookupState{l.Name(), take(&d.Common, p.lookups[i]), refreshes})
	}
	for i, w := range p.Windows {
		s := WindowState{Name: w.Name(), Stats: take(&d.Common, p.windows[i])}
		if s.Stats != nil {
			if err := s.Stats.Balanced(); err != nil {
				s.Imbalance = err.Error()
			}
		}
		d.Windows = append(d.Windows, s)
	}
	if p.views != nil {
		if v := take(&d.Common, p.views); v != nil {
			d.Views = append(d.Views, *v...)
		}
	}
	return d, nil
}
