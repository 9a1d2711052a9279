package staging

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A table may change while programs run: another version of the program has started, or someone has
// altered the target. What this program knows of the columns is compared under a lock before each
// COPY and each promotion. A difference is an [ErrDrift]: a COPY in the binary format would
// otherwise write the bytes of one type into a column of another.

// found is a column as the catalogue has it now.
type foundColumn struct {
	name, sqlType string
	notNull       bool
	filled        bool // has a default, an identity or a generated value
	always        bool // takes no value: GENERATED ALWAYS
}

// foundColumns reads the answer of one of the shape statements.
func foundColumns(r result, table string) (out []foundColumn) {
	for row := range r.each() {
		if row.text("of") == table {
			out = append(out, foundColumn{row.text("name"), row.text("type"), row.bool("not_null"), row.bool("filled"), row.bool("always")})
		}
	}
	return out
}

// missing compares the columns that this program writes with those of a table.
func (t *table) missing(found []foundColumn) (drifts []Drift) {
	for i := range t.cols {
		c := &t.cols[i]
		k := slices.IndexFunc(found, func(f foundColumn) bool { return f.name == c.name })
		switch {
		case k < 0:
			drifts = append(drifts, Drift{Column: c.name, Expected: c.sqlType})
		case found[k].sqlType != c.sqlType+c.collate:
			drifts = append(drifts, Drift{Column: c.name, Expected: c.sqlType + c.collate, Found: found[k].sqlType})
		case found[k].always:
			drifts = append(drifts, Drift{Column: c.name, Expected: c.sqlType, Found: found[k].sqlType + " GENERATED ALWAYS"})
		}
	}
	return drifts
}

// checkStage compares the staging table with what this program copies. The staging table is locked.
// A column that another version of the program has added is no difference: it has the target's
// default.
func (t *table) checkStage(ctx context.Context, q *pgx.Conn, s side, digest string) error {
	if known := t.digest[s].Load(); known != nil && *known == digest {
		return nil
	}
	r, err := sendOne(ctx, q, t.sql.side[s].shape.with(nil))
	if err != nil {
		return err
	}
	found := foundColumns(r, "staging")
	drifts := t.missing(found)
	if !slices.ContainsFunc(found, func(f foundColumn) bool { return f.name == colRecord && f.sqlType == "bigint" }) {
		drifts = append(drifts, Drift{Column: colRecord, Expected: "bigint"})
	}
	if len(drifts) > 0 {
		return &DriftError{Table: t.staging[s], Drifts: drifts}
	}
	t.digest[s].Store(&digest)
	return nil
}

// checkPromote compares the staging table and the target with what this program promotes. Both are
// locked.
func (t *table) checkPromote(s side, r result) error {
	staged, target := foundColumns(r, "staging"), foundColumns(r, "target")
	drifts := t.missing(staged)
	for _, f := range staged {
		if f.name != colRecord && !slices.Contains(t.colNames, f.name) { // it would be lost
			drifts = append(drifts, Drift{Column: f.name, Found: f.sqlType + ", a column of another version of this program"})
		}
	}
	if len(drifts) > 0 {
		return &DriftError{Table: t.staging[s], Drifts: drifts}
	}
	drifts = t.missing(target)
	for _, f := range target {
		if f.notNull && !f.filled && !slices.Contains(t.colNames, f.name) {
			drifts = append(drifts, Drift{Column: f.name, Found: f.sqlType + " NOT NULL without a default"})
		}
	}
	if len(drifts) > 0 {
		return &DriftError{Table: t.target, Drifts: drifts}
	}
	return nil
}

// DiscardStaged empties the staging tables of a target, and returns the ids of the batches that
// were in them. Use it when staged rows can no longer be promoted, because the target has changed
// its shape and no program with the old shape can run: New and Promote return [ErrDrift]. Nothing
// is lost: the batches are still in the queue that they came from, [Table.Fates] returns
// FateUnknown for them, and the changed epoch makes a pipeline redeliver them at once.
// DiscardStaged waits for active workers and promoters, for at most [DefaultLockTimeout].
func DiscardStaged(ctx context.Context, pool *pgxpool.Pool, target string) (batches []string, err error) {
	t, err := beside(ctx, pool, target, nil)
	if err != nil {
		return nil, err
	}
	conn, err := t.begin(ctx, true)
	if err != nil {
		return nil, t.explain("discarding what is staged for "+target, err)
	}
	defer conn.Release()
	defer t.rollback(conn.Conn())
	if batches, err = t.discard(ctx, conn.Conn()); err != nil {
		return nil, t.explain("discarding what is staged for "+target, err)
	}
	return batches, nil
}

func (t *table) discard(ctx context.Context, q *pgx.Conn) (batches []string, err error) {
	truncate := ""
	for s := range t.sql.side {
		sql := &t.sql.side[s]
		res, err := send(ctx, q, sql.lock.with(nil), sql.batches.with(nil))
		if err != nil {
			return nil, err
		}
		batches = append(batches, res[1].texts("id")...)
		truncate += sql.truncate.text + "; "
	}
	// In one message with the commit, for the reason that promotion.finish gives.
	return batches, commit(ctx, q, "DELETE FROM "+t.epoch+"; INSERT INTO "+t.epoch+" DEFAULT VALUES; "+truncate)
}
