package console

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// RejectsPage is a page of rejects, newest first, or one of them.
type RejectsPage struct {
	Common
	Codes    []CodeCount `json:"codes"`
	Code     string      `json:"filter_code,omitempty"`
	Source   string      `json:"filter_source,omitempty"`
	Within   string      `json:"filter_within,omitempty"`
	Resolved bool        `json:"filter_resolved,omitempty"`
	// Counted is how many of the newest ids the counts by code cover.
	Counted int      `json:"counted_ids"`
	Rejects []Reject `json:"rejects"`
	// Next is the before of the next page, 0 at the end.
	Next int64 `json:"next,omitempty"`
	// Reject is the one that was asked for by its id.
	Reject *Reject `json:"reject,omitempty"`
}

func buildRejects(ctx context.Context, p *pipe, r *http.Request) (model, error) {
	d := &RejectsPage{Common: newCommon(), Rejects: []Reject{}, Codes: []CodeCount{}, Counted: rejectsLooked}
	d.Code, d.Source, d.Within, d.Resolved = r.FormValue("code"), r.FormValue("source"), r.FormValue("within"), r.FormValue("resolved") != ""
	if text := r.FormValue("id"); text != "" {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: id is %q, must be a number", ErrArgument, text)
		}
		one := ask(p, p.postgres, "the reject", text, func(ctx context.Context) (*rejectRow, error) { return p.ledger.readReject(ctx, id, oneBytes) })
		await(ctx, one)
		if got := take(&d.Common, one); got != nil {
			if *got == nil {
				return nil, fmt.Errorf("%w: no reject has the id %d", ErrNotFound, id)
			}
			d.Reject = p.h.shown(**got)
		}
		return d, nil
	}
	q := rejectQuery{code: d.Code, source: d.Source, resolved: d.Resolved}
	if text := r.FormValue("before"); text != "" {
		var err error
		if q.before, err = strconv.ParseInt(text, 10, 64); err != nil || q.before < 1 {
			return nil, fmt.Errorf("%w: before is %q, must be the id of a reject", ErrArgument, text)
		}
	}
	if d.Within != "" {
		within, err := time.ParseDuration(d.Within)
		if err != nil || within <= 0 {
			return nil, fmt.Errorf("%w: within is %q, must be a duration such as 1h", ErrArgument, d.Within)
		}
		q.since = d.At.Add(-within)
	}
	list := ask(p, p.postgres, "the rejects", fmt.Sprintf("%d %q", q.before, []string{q.code, q.source, d.Within, strconv.FormatBool(q.resolved)}),
		func(ctx context.Context) (rejectsPage, error) { return p.ledger.readRejects(ctx, q) })
	await(ctx, p.codes, list)
	if codes := take(&d.Common, p.codes); codes != nil {
		d.Codes = *codes
	}
	if page := take(&d.Common, list); page != nil {
		d.Next = page.next
		for _, x := range page.rejects {
			d.Rejects = append(d.Rejects, *p.h.shown(x))
		}
	}
	return d, nil
}

// shown prepares a reject to be shown.
func (h *Handler) shown(row rejectRow) *Reject {
	r := row.Reject
	r.Payload = h.payload(row.Begin, row.Length)
	r.Code, r.Reason, r.Key = visible(r.Code), visible(r.Reason), visible(r.Key)
	return &r
}
