package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/pipeline/console"
	"github.com/headrace/headrace/window"
)

// windowNames are the windows that a verb looks at besides the pipeline.
type windowNames struct {
	Windows []string `name:"window" sep:"none" placeholder:"NAME" help:"Windows to include; repeat it for several."`
}

// audit recounts the windows. The second error names what is off.
func (v *windowNames) audit(ctx context.Context, s *session) (list []auditedWindow, off, err error) {
	list = []auditedWindow{}
	for _, name := range v.Windows {
		r, err := window.Open(ctx, s.client, name)
		if err != nil {
			return nil, nil, err
		}
		report, err := r.Audit(ctx)
		if err != nil && len(report.Differences) == 0 {
			return nil, nil, err
		}
		list = append(list, auditedWindow{name, report.Windows, append([]string{}, report.Differences...)})
		// Audit can find differences and fail, too: then the list is not whole.
		if err := errors.Join(report.Balanced(), err); err != nil {
			off = errors.Join(off, fmt.Errorf("windows %s: %w", name, err))
		}
	}
	return list, off, nil
}

// check looks whether this program can read the windows.
func (v *windowNames) check(ctx context.Context, redis rueidis.Client) ([]console.Check, error) {
	var checks []console.Check
	for _, name := range v.Windows {
		c := console.Check{Name: "Windows " + name}
		r, err := window.Open(ctx, redis, name)
		switch {
		case err == nil:
			c.OK, c.Found = true, fmt.Sprintf("layout %s, size %s, sliding window %s", window.Layout, length(r.Size()), length(r.Keep()))
		case errors.Is(err, window.ErrMissing):
			c.Found, c.Fix = "no program has used them", "correct the name, or start the program that adds their events"
		case errors.Is(err, window.ErrLayout):
			c.Found, c.Fix = err.Error(), "use the version of this program that fits"
		default:
			return nil, err
		}
		checks = append(checks, c)
	}
	return checks, nil
}

// length prints a duration of a configuration; 0 is "none".
func length(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return d.String()
}
