package ops

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/staging"
)

// Reject is a rejected record or row.
type Reject struct {
	ID       int64      `json:"id"`
	Batch    string     `json:"batch"`
	Place    int        `json:"place"`
	Source   string     `json:"source"`
	Key      string     `json:"key"`
	Code     string     `json:"code"`
	Reason   string     `json:"reason"`
	Raw      []byte     `json:"-"`
	Payload  any        `json:"payload"`
	At       time.Time  `json:"at"`
	Resolved *time.Time `json:"resolved,omitempty"`
}

// Rejects reads rejects, oldest first.
func (l *Ledger) Rejects(ctx context.Context, f staging.RejectFilter) ([]Reject, error) {
	list, err := l.Ledger.Rejects(ctx, f)
	if err != nil {
		return nil, err
	}
	out := make([]Reject, len(list))
	for i, r := range list {
		out[i] = Reject{
			ID: r.ID, Batch: r.Batch, Place: r.Place, Source: r.Source, Key: r.Key, Code: r.Code, Reason: r.Reason,
			Raw: r.Payload, Payload: Payload(r.Payload), At: r.At,
		}
		if !r.Resolved.IsZero() {
			out[i].Resolved = &r.Resolved
		}
	}
	return out, nil
}

// Reject reads one reject, open or resolved.
func (l *Ledger) Reject(ctx context.Context, id int64) (Reject, error) {
	list, err := l.Rejects(ctx, staging.RejectFilter{After: id - 1, Limit: 1, Resolved: true})
	if err != nil {
		return Reject{}, err
	}
	if len(list) == 0 || list[0].ID != id {
		return Reject{}, fmt.Errorf("no reject of %s has the id %d", l.table, id)
	}
	return list[0], nil
}

// OpenCodes counts the open rejects by code.
func (l *Ledger) OpenCodes(ctx context.Context) (map[string]int64, error) {
	list, err := l.CodeCounts(ctx)
	counts := make(map[string]int64)
	for _, c := range list {
		if c.Open > 0 {
			counts[c.Code] = c.Open
		}
	}
	return counts, err
}
