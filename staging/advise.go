package staging

import (
	"context"
	"slices"
)

// Advice is one thing that makes promotions slow and that an administrator can change.
type Advice struct {
	// Code is for programs and stable: "collation", "unanalyzed", "autovacuum", "max_wal_size" or
	// "shared_buffers".
	Code string
	Text string // for people, with the figure where one was measured
}

// Advise looks for what makes promotions into the target slow: a key that sorts by the C library, a
// target that was never analyzed or that autovacuum leaves alone, and settings of the server that
// are too small for it. If nothing is wrong, it returns none. It reads the catalogue, with one
// query. New does not call it; a promoter of package pipeline logs it when it starts.
func (t *table) Advise(ctx context.Context) ([]Advice, error) {
	conn, err := acquire(ctx, t.pool)
	if err != nil {
		return nil, t.explain("looking for advice on "+t.target, err)
	}
	defer conn.Release()
	r, err := t.inOwn(ctx, conn.Conn(), reads, t.sql.advise.with(nil))
	if err != nil {
		return nil, t.explain("looking for advice on "+t.target, err)
	}
	var out []Advice
	for row := range r.each() {
		out = append(out, Advice{Code: row.text("code"), Text: row.text("text")})
	}
	return out, nil
}

// Advise is [Table.Advise] for all tables of the group. What holds for several of them comes once.
func (g *TableGroup[R]) Advise(ctx context.Context) ([]Advice, error) {
	if err := g.Check(ctx); err != nil {
		return nil, err
	}
	var out []Advice
	for _, t := range g.tables {
		advice, err := t.Advise(ctx)
		if err != nil {
			return nil, err
		}
		for _, a := range advice {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out, nil
}
