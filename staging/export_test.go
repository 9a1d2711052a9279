package staging

import (
	"context"
	"strings"
	"time"
)

// SetHook makes f run at the named points of Stage, Promote, Void and Fates.
func (t *table) SetHook(f func(point string) error) { t.hook = f }

// SetParts makes promotions insert in parts of at least so many rows, and judge refused parts of so
// many rows record by record. Without judge they are halved down to the record.
func (t *table) SetParts(least, judged int64, judge bool) {
	t.sizes = partSizes{least: least, judged: judged}
	t.noJudge.Store(!judge)
}

// SetMaxRow bounds a row instead of MaxRow.
func (t *table) SetMaxRow(bytes int) { t.maxRow = bytes }

// Staging returns the quoted names of the two staging tables, and of the two registries.
func (t *table) Staging() (staging, registry []string) { return t.staging, t.registry }

// Encode runs the encoder over a load, as COPY would, and returns how many bytes it made.
func (t *Table[T]) Encode(l *Load[T], buf []byte) (int, error) {
	var rejects []Reject
	e := t.newEncoder(l, nil, nil, 0, len(l.Rows), 1, nil, &rejects)
	total := 0
	for {
		n, err := e.Read(buf)
		total += n
		if err != nil {
			return total, e.err
		}
	}
}

// FindPlans returns how the server runs each statement of FindKey, FindBatches and FindSealed.
func (t *table) FindPlans(ctx context.Context, key, idType string, ids []string) ([]string, error) {
	conn, err := t.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	p := t.commonPieces()
	p["id"], p["id_type"], p["equals"] = quote(t.cfg.ID), idType, "="
	var plans []string
	for _, c := range []call{
		fill("find_rows", p).with(args{"key": key, "limit": "100"}),
		t.sql.findRejects.with(args{"keys": namesText([]string{key}), "limit": "100"}),
		t.ofRegistry(sideA, "find_registered").with(args{"ids": array(ids)}),
		t.sql.findCommitted.with(args{"ids": array(ids), "limit": "100"}),
		t.sql.findSealed.with(args{"first": ids[0], "last": ids[0], "limit": "100"}),
	} {
		c.sql = "EXPLAIN " + c.sql
		r, err := sendOne(ctx, conn.Conn(), c)
		if err != nil {
			return nil, err
		}
		plans = append(plans, strings.Join(r.texts("QUERY PLAN"), "\n"))
	}
	return plans, nil
}

// SetHook makes f run at the named points of the group's Stage, Promote and Fates.
func (g *TableGroup[R]) SetHook(f func(point string) error) { g.hook = f }

// CountsQuery is the statement of CodeCounts.
func (t *table) CountsQuery() string { return t.sql.rejectCounts.text }

// FormatUUID prints a uuid.
var FormatUUID = formatUUID

// LaneOf is the number of the lane, from 1 on, that a batch belongs to.
func (t *table) LaneOf(id string) int { return t.laneOf(id) + 1 }

// Bound is the number of rows that promotions have learned to take at once. 0: no bound.
func (t *table) Bound() int64 { return t.pace.bound.Load() }

// A busy machine may take longer to cancel a commit, and the outcome would be unknown.
func init() { commitGrace = time.Minute }

// SetCommitTimeout changes Config.CommitTimeout.
func (t *table) SetCommitTimeout(d time.Duration) { t.cfg.CommitTimeout = d }

// SearchSlow lets the next promotion look for slow records.
func (t *table) SearchSlow() { t.pace.search.Store(1) }

// SetLosses makes it look as if so many promotions in a row had lost their connection.
func (t *table) SetLosses(n int32) { t.pace.losses.Store(n) }

// Losses is the number of promotions in a row that have lost their connection.
func (t *table) Losses() int32 { return t.pace.losses.Load() }

// SetCutOff makes it look as if the COPY of a batch had been cut off so many times.
func (t *table) SetCutOff(id string, times int) { t.cutOffs.set(id, times) }

// SetCutOff makes it look as if the COPY of a batch had been cut off so many times.
func (g *TableGroup[R]) SetCutOff(id string, times int) { g.cutOffs.set(id, times) }

func (c *cutOffs) set(id string, times int) {
	if c.batch == nil {
		c.batch = map[string]cutOff{}
	}
	c.batch[id] = cutOff{times, c.staged}
}

// CutOffs is how many times the COPY of a batch was cut off.
func (t *table) CutOffs(id string) int { return t.cutOffs.batch[id].times }
