package staging

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A table may change while programs run: another version of the program has started, or someone has
// altered the target. What this program knows of the columns is compared under a lock before each
// COPY and each promotion. A difference is an [ErrDrift]: a COPY in the binary format would
// otherwise write the bytes of one type into a column of another.

// columnType is the type of a column as the catalogue numbers it. Its text depends on the session:
// on quote_all_identifiers and on the search path.
type columnType struct {
	oid       uint32
	modifier  int32
	collation uint32 // 0: the type's own
}

// typeOf reads the type of a column.
func typeOf(row record) columnType {
	return columnType{uint32(row.int("type_oid")), int32(row.int("typmod")), uint32(row.int("collation_oid"))}
}

// foundColumn is a column as the catalogue has it now.
type foundColumn struct {
	name, sqlType string
	typ           columnType
	notNull       bool
	filled        bool // has a default, an identity or a generated value
	always        bool // takes no value: GENERATED ALWAYS
}

// widens is true if the column holds every value of a known one.
func (f *foundColumn) widens(c *column) bool {
	return f.typ.collation == c.typ.collation && widens(c.sqlType, f.sqlType)
}

// foundColumns reads the answer of one of the shape statements.
func foundColumns(r result, table string) (out []foundColumn) {
	for row := range r.each() {
		if row.text("of") == table {
			out = append(out, foundColumn{row.text("name"), row.text("type"), typeOf(row), row.bool("not_null"), row.bool("filled"), row.bool("always")})
		}
	}
	return out
}

// missing compares the columns that this program writes with those of a table. wider accepts types
// that hold every value of the known ones: a statement converts them, and a COPY does not.
func (t *table) missing(found []foundColumn, wider bool) (drifts []Drift) {
	for i := range t.cols {
		c := &t.cols[i]
		k := slices.IndexFunc(found, func(f foundColumn) bool { return f.name == c.name })
		switch {
		case k < 0:
			drifts = append(drifts, Drift{Column: c.name, Expected: c.sqlType})
		case found[k].typ != c.typ && (!wider || !found[k].widens(c)):
			drifts = append(drifts, typeDrift(c, found[k].sqlType, found[k].typ.oid))
		case found[k].always:
			drifts = append(drifts, Drift{Column: c.name, Expected: c.sqlType, Found: found[k].sqlType + " GENERATED ALWAYS"})
		}
	}
	return drifts
}

// typeDrift is the drift of a column that has another type than c.
func typeDrift(c *column, found string, oid uint32) Drift {
	d := Drift{Column: c.name, Expected: c.sqlType + c.collate, Found: found}
	if d.Found == d.Expected {
		d.Found += fmt.Sprintf(", another type of this name (OID %d instead of %d)", oid, c.typ.oid)
	}
	return d
}

// checkStage compares the staging table with what this program copies. The staging table is locked.
// A column that another version of the program has added is no difference: it has the target's
// default.
func (t *table) checkStage(ctx context.Context, q *pgx.Conn, s side, digest string) error {
	if known := t.lane[s.lane()].digest[s%2].Load(); known != nil && *known == digest {
		return nil
	}
	r, err := sendOne(ctx, q, t.sql.side[s].shape.with(nil))
	if err != nil {
		return err
	}
	found := foundColumns(r, "staging")
	drifts := t.missing(found, false)
	if !slices.ContainsFunc(found, func(f foundColumn) bool { return f.name == colRecord && f.typ.oid == pgtype.Int8OID }) {
		drifts = append(drifts, Drift{Column: colRecord, Expected: "bigint"})
	}
	if len(drifts) > 0 {
		return &DriftError{Table: t.staging[s], Drifts: drifts}
	}
	t.lane[s.lane()].digest[s%2].Store(&digest)
	return nil
}

// checkFields compares the fields of the staging table's row type with what this program copies. A
// transaction of the caller's may have an old snapshot, in which the catalogue is as it was. The
// fields are those that the COPY will meet.
func (t *table) checkFields(m *pgtype.Map, s side, fields []pgconn.FieldDescription) error {
	var drifts []Drift
	compare := func(c *column, oid uint32) {
		i := slices.IndexFunc(fields, func(f pgconn.FieldDescription) bool { return f.Name == c.name })
		switch {
		case i < 0:
			drifts = append(drifts, Drift{Column: c.name, Expected: c.sqlType})
		case fields[i].DataTypeOID != oid:
			found := fmt.Sprintf("a type with the OID %d", fields[i].DataTypeOID)
			if known, ok := m.TypeForOID(fields[i].DataTypeOID); ok {
				found = known.Name
			}
			drifts = append(drifts, typeDrift(c, found, fields[i].DataTypeOID))
		}
	}
	for i := range t.cols {
		compare(&t.cols[i], t.cols[i].oid) // of a domain, Postgres describes the base type
	}
	compare(&column{name: colRecord, sqlType: "bigint"}, pgtype.Int8OID)
	if len(drifts) > 0 {
		return &DriftError{Table: t.staging[s], Drifts: drifts}
	}
	return nil
}

// checkPromote compares the staging table and the target with what this program promotes. Both are
// locked. Columns of either may have become wider.
func (t *table) checkPromote(s side, r result) error {
	staged, target := foundColumns(r, "staging"), foundColumns(r, "target")
	drifts := t.missing(staged, true)
	for _, f := range staged {
		if f.name != colRecord && !slices.Contains(t.colNames, f.name) { // it would be lost
			drifts = append(drifts, Drift{Column: f.name, Found: f.sqlType + ", a column of another version of this program"})
		}
	}
	if len(drifts) > 0 {
		return &DriftError{Table: t.staging[s], Drifts: drifts}
	}
	drifts = t.missing(target, true)
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
	t, err := companions(ctx, pool, target, nil)
	if err != nil {
		return nil, err
	}
	conn, err := t.begin(ctx, durably)
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
	// In one message with the commit, for the reason that promotion.empty gives.
	return batches, t.commit(ctx, q, "DELETE FROM "+t.epoch+"; INSERT INTO "+t.epoch+" DEFAULT VALUES; "+truncate)
}
