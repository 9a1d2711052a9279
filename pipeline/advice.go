package pipeline

import (
	"context"

	"github.com/headrace/headrace/staging"
)

// adviser is a table that knows what makes its promotions slow, as *staging.Table and
// *staging.TableGroup do.
type adviser interface {
	Advise(ctx context.Context) ([]staging.Advice, error)
}

// advise logs what an administrator could change to make promotions faster. If the advice cannot be
// had, promotions go on without it: they report what is wrong with the server.
func (p *Promoter[T]) advise(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
	defer cancel()
	advice, err := p.adviser.Advise(ctx)
	if err != nil {
		return
	}
	for _, a := range advice {
		p.cfg.Logger.Info("pipeline: promotions could be faster", "queue", p.flow.Queue.Name(), "advice", a.Code, "reason", a.Text)
	}
}
