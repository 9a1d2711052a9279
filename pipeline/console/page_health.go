package console

import (
	"context"
	"net/http"
	"time"
)

// HealthPage shows the state of the servers, and the last actions.
type HealthPage struct {
	Common
	Checks  []Check        `json:"checks"`
	Actions []ActionResult `json:"actions"`
	Started time.Time      `json:"started"`
}

func buildHealth(ctx context.Context, p *pipe, _ *http.Request) (model, error) {
	await(ctx, p.checks[0], p.checks[1])
	d := &HealthPage{Common: newCommon(), Checks: []Check{}, Actions: p.h.journal.last(p.Name), Started: p.h.started}
	for _, r := range p.checks {
		if c := take(&d.Common, r); c != nil {
			d.Checks = append(d.Checks, *c...)
		}
	}
	return d, nil
}
