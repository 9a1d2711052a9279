package ops

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
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

// RejectFilter selects rejects. Zero fields do not filter, but resolved rejects are left out.
type RejectFilter struct {
	IDs      []int64
	Code     string
	Key      string
	Resolved bool
	After    int64
	Limit    int
}

// Rejects reads the rejects of a table, oldest first.
func Rejects(ctx context.Context, pool *pgxpool.Pool, table string, f RejectFilter) ([]Reject, error) {
	name, err := rejectsTable(ctx, pool, table)
	if err != nil {
		return nil, err
	}
	rows, err := pool.Query(ctx, `SELECT id, batch::text, place, source, key, code, reason, coalesce(bytes, convert_to(coalesce(payload, row::text), 'UTF8')), rejected_at, resolved_at
		FROM `+name+`
		WHERE (@ids::int8[] IS NULL OR id = ANY(@ids)) AND (@code = '' OR code = @code) AND (@key = '' OR key = @key)
			AND (@resolved OR resolved_at IS NULL) AND id > @after
		ORDER BY id LIMIT @limit`, pgx.NamedArgs{
		"ids": f.IDs, "code": f.Code, "key": f.Key, "resolved": f.Resolved, "after": f.After, "limit": f.Limit,
	})
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Reject, err error) {
		err = row.Scan(&r.ID, &r.Batch, &r.Place, &r.Source, &r.Key, &r.Code, &r.Reason, &r.Raw, &r.At, &r.Resolved)
		r.Payload = Payload(r.Raw)
		return r, err
	})
}

// RejectCodes counts the open rejects of a table by code.
func RejectCodes(ctx context.Context, pool *pgxpool.Pool, table string) (map[string]int64, error) {
	if _, err := rejectsTable(ctx, pool, table); err != nil {
		return nil, err
	}
	list, err := staging.CodeCounts(ctx, pool, table)
	counts := make(map[string]int64)
	for _, c := range list {
		if c.Open > 0 {
			counts[c.Code] = c.Open
		}
	}
	return counts, err
}

// Resolve marks rejects as resolved. It returns how many were open.
func Resolve(ctx context.Context, pool *pgxpool.Pool, table string, ids ...int64) (int, error) {
	if _, err := rejectsTable(ctx, pool, table); err != nil {
		return 0, err
	}
	return staging.ResolveRejects(ctx, pool, table, ids...)
}

func rejectsTable(ctx context.Context, pool *pgxpool.Pool, table string) (string, error) {
	name, found, err := relation(ctx, pool, table+"_rejects")
	if err == nil && !found {
		err = fmt.Errorf("%w: the database %s has no table %s", ErrNoTable, pool.Config().ConnConfig.Database, name)
	}
	return name, err
}
