package pipeline

import (
	"context"
	"time"
)

// refreshLoop refreshes after promotions, one refresh at a time and at most once per
// RefreshInterval. When the last promotion is over (promoted is closed), it refreshes once more if
// rows were promoted since: no later program may run to do it.
func (p *Promoter[T]) refreshLoop(ctx, work context.Context, dirty chan struct{}, promoted <-chan struct{}) {
	defer p.refreshing.gone("")
	for ctx.Err() == nil {
		select {
		case <-dirty:
			if !p.refresh(work) {
				poke(dirty)
			}
			_ = sleep(ctx, p.cfg.RefreshInterval)
		case <-ctx.Done():
		}
	}
	<-promoted
	select {
	case <-dirty:
		p.refresh(work)
	default:
	}
}

func (p *Promoter[T]) refresh(ctx context.Context) bool {
	start := time.Now()
	err := p.cfg.Refresh(ctx)
	p.events.emit(ctx, Event{Op: OpRefresh, Duration: time.Since(start), Err: err})
	if err != nil {
		p.refreshing.failed("", err)
		return false
	}
	p.refreshing.succeeded("")
	p.flow.signal(ctx, SignalRefreshed)
	return true
}
