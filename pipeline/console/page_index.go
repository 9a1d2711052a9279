package console

import (
	"context"

	"github.com/headrace/headrace/queue"
)

// Index is all pipelines.
type Index struct {
	Common
	Pipelines []Summary `json:"pipelines"`
}

// Summary is one pipeline of the [Index].
type Summary struct {
	Name    string       `json:"name"`
	Verdict Verdict      `json:"verdict"`
	Queue   *queue.Stats `json:"queue"`
	Books   []BookLine   `json:"books"`
}

func (h *Handler) index(ctx context.Context) *Index {
	var wanted []refresher
	for _, p := range h.pipes {
		wanted = append(wanted, p.stats, p.books, p.staged)
	}
	await(ctx, wanted...)
	d := &Index{Common: newCommon(), Pipelines: []Summary{}}
	for _, p := range h.pipes {
		s := Summary{Name: p.Name, Queue: take(&d.Common, p.stats)}
		s.Verdict, s.Books, _ = verdict(take(&d.Common, p.books), take(&d.Common, p.staged))
		d.Pipelines = append(d.Pipelines, s)
	}
	return d
}
