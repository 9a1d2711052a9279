package staging

import (
	"context"
	"slices"
	"time"
)

// FindKey is [Table.FindKey] over all tables, each by its own Config.ID. MaxFound bounds what it
// returns of each table.
func (g *TableGroup[R]) FindKey(ctx context.Context, key string) (FoundKey, error) {
	var out FoundKey
	if err := g.Check(ctx); err != nil {
		return out, err
	}
	for i, t := range g.tables {
		found, err := t.FindKey(ctx, key)
		if err != nil {
			return out, err
		}
		for _, r := range found.Rejects {
			r.ID, r.Table = rejectID(r.ID, i), g.views[i].names.target
			out.Rejects = append(out.Rejects, r)
		}
		out.Rows = append(out.Rows, found.Rows...)
		out.MoreRows, out.MoreRejects = out.MoreRows || found.MoreRows, out.MoreRejects || found.MoreRejects
		out.Limits = append(out.Limits, found.Limits...)
	}
	slices.SortStableFunc(out.Rejects, func(a, b StoredReject) int { return b.At.Compare(a.At) })
	return out, nil
}

// FindBatches is [Table.FindBatches] of the leader. Its registry and its ledger have the counts of
// the records.
func (g *TableGroup[R]) FindBatches(ctx context.Context, ids ...string) (FoundBatches, error) {
	if err := g.Check(ctx); err != nil {
		return FoundBatches{}, err
	}
	return g.lead().FindBatches(ctx, ids...)
}

// FindSealed is [Table.FindSealed] of the leader.
func (g *TableGroup[R]) FindSealed(ctx context.Context, from, to time.Time, limit int) (SealedBatches, error) {
	if err := g.Check(ctx); err != nil {
		return SealedBatches{}, err
	}
	return g.lead().FindSealed(ctx, from, to, limit)
}
