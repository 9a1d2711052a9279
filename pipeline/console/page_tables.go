package console

import (
	"context"
	"net/http"

	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/matview"
)

// LookupState is a lookup table.
type LookupState struct {
	Name string `json:"name"`
	// Stats is nil where there is no answer.
	Stats *lookup.Stats `json:"stats"`
	// Refreshes reports that the console can refresh it.
	Refreshes bool `json:"can_refresh"`
}

// TablesPage is the lookup tables, windows and views, or one store of windows.
type TablesPage struct {
	Common
	Lookups []LookupState       `json:"lookups"`
	Windows []WindowState       `json:"windows"`
	Views   []matview.Freshness `json:"views"`
	// HasViews reports that the console was given a set of views.
	HasViews bool `json:"has_views"`
	// Refreshes reports that the console can refresh them.
	Refreshes bool `json:"can_refresh_views"`
	// Window is the store of windows that was asked for by its name.
	Window *WindowDetail `json:"window,omitempty"`
}

func buildTables(ctx context.Context, p *pipe, r *http.Request) (model, error) {
	d := &TablesPage{Lookups: []LookupState{}, Windows: []WindowState{}, Views: []matview.Freshness{}, HasViews: p.views != nil}
	_, d.Refreshes = p.Views.(viewRefresher)
	if r.FormValue("window") != "" {
		d.Common = newCommon()
		return d, buildWindow(ctx, p, r, d)
	}
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
	d.Common = newCommon()
	for i, l := range p.Lookups {
		_, refreshes := l.(lookupRefresher)
		d.Lookups = append(d.Lookups, LookupState{l.Name(), take(&d.Common, p.lookups[i]), refreshes})
	}
	for i := range p.Windows {
		d.Windows = append(d.Windows, p.windowState(&d.Common, i))
	}
	if p.views != nil {
		if v := take(&d.Common, p.views); v != nil {
			d.Views = append(d.Views, *v...)
		}
	}
	return d, nil
}
