package console

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

// FindPage is where a record or a batch is.
type FindPage struct {
	Common
	ID string `json:"id"`
	// Found is nil where nothing was asked for, or there is no answer.
	Found *pipeline.FindResult `json:"found"`
}

func buildFind(ctx context.Context, p *pipe, r *http.Request) (model, error) {
	d := &FindPage{Common: newCommon(), ID: strings.TrimSpace(r.FormValue("id"))}
	if d.ID == "" {
		return d, nil
	}
	one := ask(p, p.both, "where the record is", d.ID, func(ctx context.Context) (pipeline.FindResult, error) {
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		return p.Find(ctx, d.ID)
	})
	await(ctx, one)
	if found := take(&d.Common, one); found != nil {
		d.Found = p.h.shownFound(*found)
	}
	return d, nil
}

// shownFound prepares what was found to be shown.
func (h *Handler) shownFound(f pipeline.FindResult) *pipeline.FindResult {
	places := make([]pipeline.FoundPlace, len(f.Places))
	for i, x := range f.Places {
		if h.cfg.HidePayloads {
			x.Row = ""
		}
		x.Row, x.Reason, x.Code, x.Worker = visible(x.Row), visible(x.Reason), visible(x.Code), visible(x.Worker)
		places[i] = x
	}
	f.Places = places
	return &f
}

// finder finds records by the names of a pipeline. This type is concurrency safe.
type finder struct {
	p  *pipe
	mu sync.Mutex
	// What was opened before.
	window *dedup.Deduplicator
	table  *staging.Finder
}

// find is Flow.Find without the chain.
func (f *finder) find(ctx context.Context, id string) (pipeline.FindResult, error) {
	src, err := f.sources(ctx)
	if err != nil {
		return pipeline.FindResult{}, err
	}
	return pipeline.Find(ctx, src, id)
}

// sources opens the window and the table once they are there.
func (f *finder) sources(ctx context.Context) (src pipeline.FindSources, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.window == nil {
		if f.window, err = dedup.New(ctx, f.p.Redis, f.p.Queue.Name(), dedup.Config{Eviction: dedup.EvictionIgnore}); err != nil {
			return src, err
		}
	}
	if f.table == nil {
		switch f.table, err = staging.NewFinder(ctx, f.p.Postgres, f.p.Table, ""); {
		case errors.Is(err, staging.ErrNoTarget), errors.Is(err, staging.ErrMissing):
			f.table = nil
		case err != nil:
			return src, err
		}
	}
	src.Queue, src.Window = f.p.Queue, f.window
	if f.table != nil {
		src.Table = f.table
	}
	return src, nil
}
