package console

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/lookup"
)

// lookupRefresher is a lookup table that can be refreshed.
type lookupRefresher interface {
	Refresh(ctx context.Context) (lookup.RefreshResult, error)
}

func (p *pipe) lookup(name string) (lookupRefresher, error) {
	for _, l := range p.Lookups {
		if r, ok := l.(lookupRefresher); ok && l.Name() == name {
			return r, nil
		}
	}
	return nil, fmt.Errorf("%w: no lookup table %q that can be refreshed", ErrUnavailable, name)
}

func (p *pipe) doRefresh(ctx context.Context, a Action, d *ActionResult) error {
	views, ok := p.Views.(viewRefresher)
	if !ok {
		return fmt.Errorf("%w: no views that can be refreshed", ErrUnavailable)
	}
	var names []string
	if a.Name != "" {
		names = []string{a.Name}
	}
	report, err := views.Refresh(ctx, names...)
	d.Records = int64(len(report.Views))
	for _, v := range report.Views {
		line := fmt.Sprintf("%s: %s in %s", v.View, v.Action, duration(v.Duration))
		if v.Reason != "" {
			line += ", not concurrently: " + v.Reason
		}
		d.Details = append(d.Details, line)
	}
	d.Text = fmt.Sprintf("The refresh took %s.", duration(report.Duration))
	return err
}
