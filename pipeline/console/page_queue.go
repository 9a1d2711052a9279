package console

import (
	"context"
	"net/http"

	"github.com/headrace/headrace/queue"
)

// QueuePage is the head of the ready list, and the batches of each state.
type QueuePage struct {
	Common
	Queue   *queue.Stats  `json:"queue"`
	Head    []Payload     `json:"head"` // of the ready list, oldest first
	Batches *QueueBatches `json:"batches"`
	// Promotes and Reconciles report that the console can do that.
	Promotes   bool `json:"can_promote"`
	Reconciles bool `json:"can_reconcile"`
}

func buildQueue(ctx context.Context, p *pipe, _ *http.Request) (model, error) {
	await(ctx, p.stats, p.head, p.flight)
	q := &QueuePage{Common: newCommon(), Head: []Payload{}, Promotes: p.Promote != nil, Reconciles: p.Reconcile != nil}
	q.Queue = take(&q.Common, p.stats)
	if head := take(&q.Common, p.head); head != nil {
		for _, r := range *head {
			q.Head = append(q.Head, p.h.payload(r.begin, r.length))
		}
	}
	q.Batches = take(&q.Common, p.flight)
	return q, nil
}
