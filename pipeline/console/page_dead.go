package console

import (
	"context"
	"fmt"
	"net/http"

	"github.com/headrace/headrace/queue"
)

// DeadPage is a page of dead letters, newest first, or one of them.
type DeadPage struct {
	Common
	Queue   *queue.Stats `json:"queue"`
	Reason  string       `json:"filter_reason,omitempty"`
	Letters []DeadLetter `json:"dead_letters"`
	// Next is the after of the next page, "" at the end.
	Next string `json:"next,omitempty"`
	// Letter is the one that was asked for by its id.
	Letter *DeadLetter `json:"dead_letter,omitempty"`
}

func buildDead(ctx context.Context, p *pipe, r *http.Request) (model, error) {
	d := &DeadPage{Common: newCommon(), Letters: []DeadLetter{}}
	q := letterQuery{after: r.FormValue("after"), reason: r.FormValue("reason"), wanted: deadPage, looked: deadLooked, bytes: listBytes, id: r.FormValue("id")}
	if _, err := parseDeadCursor(q.after); err != nil {
		return nil, err
	}
	if q.id != "" {
		q.bytes = oneBytes
	}
	list := ask(p, p.redis, "the dead letters", fmt.Sprintf("%q", []string{q.after, q.reason, q.id}), func(ctx context.Context) (letterPage, error) { return p.readLetters(ctx, q) })
	await(ctx, p.stats, list)
	d.Queue, d.Reason = take(&d.Common, p.stats), q.reason
	page := take(&d.Common, list)
	switch {
	case page == nil:
	case q.id != "" && len(page.letters) == 0:
		return nil, fmt.Errorf("%w: no dead letter has the id %q: it was requeued or discarded", ErrNotFound, q.id)
	case q.id != "":
		d.Letter = &page.letters[0]
	default:
		d.Letters, d.Next = append(d.Letters, page.letters...), page.next
	}
	return d, nil
}
