package matview

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

var (
	//go:embed rollup_rebuild.sql
	rebuildSQL string
	//go:embed rollup_fill.sql
	fillSQL string
	//go:embed rollup_check.sql
	checkSQL string
)

// DefaultDifferences is the limit of [Rollup.Check] if its limit is 0.
const DefaultDifferences = 100

const maxDifferences = 1_000_000

// Difference is one group in which the roll-up and the recomputation differ. The values are as
// Postgres prints them, NULL as "NULL".
type Difference struct {
	// Table is the table of distinct values in which the difference is, "" for the roll-up itself.
	Table string
	// Group has the values of the key columns, for a table of distinct values also the value.
	Group []string
	// Have has the roll-up's measures, nil if it lacks the group. A sketch is printed as the number
	// of its bits.
	Have []string
	// Want holds the recomputed measures, nil if the group should not exist.
	Want []string
}

// String formats like `(2026-01-01, Books): have (3, 29.97), want (4, 39.96)`.
func (d Difference) String() string {
	list := func(v []string) string {
		if v == nil {
			return "none"
		}
		return "(" + strings.Join(v, ", ") + ")"
	}
	s := fmt.Sprintf("(%s): have %s, want %s", strings.Join(d.Group, ", "), list(d.Have), list(d.Want))
	if d.Table != "" {
		s = d.Table + " " + s
	}
	return s
}

// contents is one of the roll-up's tables, with the query that recomputes it.
type contents struct {
	table
	name      string // "" for the roll-up itself
	query     string
	before    string                    // a statement that must run before query when a roll-up is repaired
	check     func(limit string) string // the statement that finds differences, nil for the usual one
	checkKeys int                       // how many columns of check are the key
}

// contents lists the tables of distinct values, then the roll-up itself.
func (r Rollup) contents() []contents {
	var out []contents
	for _, v := range r.distinct() {
		out = append(out, v.contents())
	}
	return append(out, contents{table: r.table(), query: r.inOwnCollations(r.groups(ident(r.From) + " AS promoted"))})
}

// inOwnCollations gives the keys of a query the collations of the roll-up's columns: the table's
// may be others, and Postgres compares no rows of which one column has two collations.
func (r Rollup) inOwnCollations(query string) string {
	var list []string
	for _, c := range r.GroupBy {
		k := pgschema.Quote(c.Name)
		if isText(c.Type) {
			k += ` COLLATE "default" AS ` + k
		}
		list = append(list, k)
	}
	return "SELECT " + join(append(list, names(r.written(), "")...)) + " FROM (" + query + ") x"
}

// compared lists the columns that follow from the table. What the last promotion added to a value
// does not: a recomputation has 0 there, and nearly every row another number.
func (c contents) compared() []string {
	var out []string
	for _, q := range c.columns {
		if q != columnChange {
			out = append(out, q)
		}
	}
	return out
}

// Rebuild recomputes the roll-up from Rollup.From and returns how many rows it had to change. It is
// exact while promotions run. In a transaction of the caller's it needs READ COMMITTED. It also
// records the definition, which [Rollup.Create] compares with its own; a definition other than the
// recorded one needs the owner of the table.
//
// Readers never wait. Whether promotions wait depends on the roll-up:
//
//   - A correct one is only compared. Promotions do not wait.
//   - An empty one is filled by one query. A promotion into a group that the query has written
//     waits until Rebuild commits. With Rollup.Replaces every promotion waits.
//   - An incorrect one is repaired. Every promotion waits, for as long as an aggregation over the
//     whole table takes. Only the rows that differ are written.
//
// A promotion that waits longer than its own lock timeout fails with staging.ErrBusy. It has
// changed nothing and can be repeated.
func (r Rollup) Rebuild(ctx context.Context, db DB) (changed int64, err error) {
	if err := r.Validate(); err != nil {
		return 0, err
	}
	err = r.tx(ctx, db, "rebuild", func(tx pgx.Tx) error {
		var isolation string
		if err := tx.QueryRow(ctx, `SELECT current_setting('transaction_isolation')`).Scan(&isolation); err != nil {
			return err
		}
		if isolation != "read committed" {
			return fmt.Errorf("the transaction is %s: Rebuild must see what was committed while it waited, so it needs READ COMMITTED",
				strings.ToUpper(isolation))
		}
		if err := r.checkVisible(ctx, tx); err != nil {
			return err
		}
		// Two that fill at once would both add.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "headrace/rebuild/"+r.Table); err != nil {
			return &contextError{"wait for another process that rebuilds roll-up " + r.Table, err}
		}
		record, err := r.record(ctx, tx)
		if err != nil {
			return err
		}
		if err := r.checkUse(ctx, tx, fills); err != nil {
			return err
		}
		if changed, err = r.rebuild(ctx, tx); err != nil {
			return err
		}
		return record()
	})
	return changed, err
}

// rebuild does as much of the work as is needed.
func (r Rollup) rebuild(ctx context.Context, tx pgx.Tx) (changed int64, err error) {
	if err := r.restoreTables(ctx, tx); err != nil {
		return 0, err
	}
	if changed, err = r.fill(ctx, tx); err != nil || changed > 0 {
		return changed, err
	}
	differences, err := r.compare(ctx, tx, 1)
	if err != nil || len(differences) == 0 {
		return 0, err
	}
	return r.repair(ctx, tx)
}

// fill merges the whole table into an empty roll-up, as one promotion of all its rows would. Its
// snapshot contains only promotions that are not yet merged into the roll-up. Promotions that run
// at the same time add to the same groups, in any order.
//
// Replaced rows do not add up like that. If a promotion replaces the row with a group's maximum
// during the fill, the fill brings the old maximum back, and neither of the two sees that the group
// is stale. So with Replaces, no promotion runs during a fill.
func (r Rollup) fill(ctx context.Context, tx pgx.Tx) (rows int64, err error) {
	var conditions []string
	for _, c := range r.contents() {
		conditions = append(conditions, "NOT EXISTS (SELECT FROM "+c.ident+")")
	}
	empty := strings.Join(conditions, " AND ")
	if r.Replaces {
		var isEmpty bool
		if err := tx.QueryRow(ctx, "SELECT "+empty).Scan(&isEmpty); err != nil || !isEmpty {
			return 0, err
		}
		if err := r.lock(ctx, tx); err != nil {
			return 0, err
		}
	}
	merges, err := r.Merges()
	if err != nil {
		return 0, err
	}
	var list []string
	for i, m := range merges {
		sql := m.SQL
		if i == len(merges)-1 {
			sql += " RETURNING 1"
		}
		list = append(list, pgschema.Quote(m.Name)+" AS ("+sql+")")
	}
	sql := trim(pgschema.Fill(fillSQL, "from", ident(r.From), "empty", empty, "merges", strings.Join(list, ", "),
		"main", pgschema.Quote(r.name())))
	err = tx.QueryRow(ctx, sql).Scan(&rows)
	return rows, err
}

// lock keeps promotions out until the transaction ends.
//
// It waits for a promotion that has merged already: the rows are in the snapshot that the next
// statement takes. A promotion that has not merged yet waits for the lock: neither its rows nor its
// merge are in that snapshot.
func (r Rollup) lock(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "LOCK TABLE "+ident(r.Table)+" IN SHARE ROW EXCLUSIVE MODE")
	return err
}

// repair recomputes everything under the lock, and rewrites what differs.
func (r Rollup) repair(ctx context.Context, tx pgx.Tx) (changed int64, err error) {
	if err := r.checkUse(ctx, tx, repairs); err != nil {
		return 0, err
	}
	if err := r.lock(ctx, tx); err != nil {
		return 0, err
	}
	for _, c := range r.contents() {
		if c.before != "" {
			if _, err := tx.Exec(ctx, c.before); err != nil {
				return 0, err
			}
		}
		action := ""
		if len(c.columns) > 0 {
			var set, have, want []string
			for _, q := range c.columns {
				set = append(set, q+" = excluded."+q)
			}
			for _, q := range c.compared() {
				have, want = append(have, "r."+q), append(want, "excluded."+q)
			}
			action = "UPDATE SET " + join(set) + " WHERE " + compared(join(have), "<>", join(want))
		}
		var rKeys []string
		for _, k := range c.keys {
			rKeys = append(rKeys, "r."+k)
		}
		all := append(c.keys[:len(c.keys):len(c.keys)], c.columns...)
		sql := trim(pgschema.Fill(rebuildSQL, "query", c.query, "table", c.ident, "keys", join(c.keys), "r_keys", join(rKeys),
			"upsert", c.upsert("SELECT "+join(all)+" FROM fresh", action)))
		var n int64
		if err := tx.QueryRow(ctx, sql).Scan(&n); err != nil {
			return 0, err
		}
		changed += n
	}
	return changed, nil
}

// Check compares the roll-up, and its tables of distinct values, with a recomputation from
// Rollup.From, each in one snapshot. Promotions go on meanwhile. No differences means that they are
// equal. Otherwise it returns the first differences in the order of the key, at most limit (0:
// [DefaultDifferences]).
func (r Rollup) Check(ctx context.Context, db DB, limit int) (differences []Difference, err error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if limit < 0 || limit > maxDifferences {
		return nil, invalid("limit is %d, must be 0 to %d", limit, maxDifferences)
	}
	if limit == 0 {
		limit = DefaultDifferences
	}
	err = r.tx(ctx, db, "check", func(tx pgx.Tx) (err error) {
		if err := r.checkUse(ctx, tx, compares); err != nil {
			return err
		}
		if err := r.checkVisible(ctx, tx); err != nil {
			return err
		}
		if err := r.checkOwnSession(ctx, tx); err != nil {
			return err
		}
		differences, err = r.compare(ctx, tx, limit)
		return err
	})
	return differences, err
}

// compare returns the first differences.
func (r Rollup) compare(ctx context.Context, tx pgx.Tx, limit int) (differences []Difference, err error) {
	list := r.contents()
	slices.Reverse(list) // the roll-up itself first
	for _, c := range list {
		if left := limit - len(differences); left > 0 {
			found, err := r.differencesOf(ctx, tx, c, left)
			if err != nil {
				return nil, err
			}
			differences = append(differences, found[:min(len(found), left)]...)
		}
	}
	return differences, nil
}

func (r Rollup) differencesOf(ctx context.Context, tx pgx.Tx, c contents, limit int) ([]Difference, error) {
	// The limit is one more than two rows for each difference, so that the last one is whole.
	rows := fmt.Sprint(2*limit + 1)
	if c.check != nil {
		return readDifferences(ctx, tx, c.check(rows), c.name, c.checkKeys)
	}
	var texts []string
	columns := append(c.keys[:len(c.keys):len(c.keys)], c.compared()...)
	for _, q := range columns {
		text := q + "::text"
		if strings.HasSuffix(q, `_sketch"`) && c.name == "" {
			text = "bit_count(" + q + ")::text"
		}
		texts = append(texts, "coalesce("+text+", 'NULL')")
	}
	sql := pgschema.Fill(checkSQL, "columns", join(columns), "table", c.ident, "query", c.query, "texts", join(texts),
		"keys", join(c.keys), "live", c.live(r), "limit", rows)
	return readDifferences(ctx, tx, sql, c.name, len(c.keys))
}

// live leaves out values that no row has any more: the next promotion deletes them.
func (c contents) live(r Rollup) string {
	if c.name != "" && r.Replaces {
		return columnCount + " <> 0"
	}
	return "true"
}

// readDifferences joins the two rows of a group that both sides have. Postgres numbers the groups:
// two spellings may be one key.
func readDifferences(ctx context.Context, tx pgx.Tx, sql, table string, keys int) (out []Difference, err error) {
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	var (
		have        bool
		group, last int64
		values      []string
	)
	_, err = pgx.ForEachRow(rows, []any{&group, &have, &values}, func() error {
		if group != last {
			out = append(out, Difference{Table: table, Group: slices.Clone(values[:keys])})
			last = group
		}
		d, measures := &out[len(out)-1], slices.Clone(values[keys:])
		if have {
			d.Have = measures
		} else {
			d.Want = measures
		}
		return nil
	})
	return out, err
}

// rollupLockTimeout bounds the wait of Create and Rebuild for promotions under way.
const rollupLockTimeout = 30 * time.Second

// tx runs f in a transaction. A transaction of the caller's keeps its own settings.
func (r Rollup) tx(ctx context.Context, db DB, what string, f func(tx pgx.Tx) error) error {
	if pgschema.IsNil(db) {
		return invalid("the DB to %s roll-up %s is nil, must be a pool, a connection or a transaction", what, r.Table)
	}
	work := func(tx pgx.Tx) error {
		if err := refuseShadows(ctx, tx); err != nil {
			return err
		}
		if _, callers := db.(pgx.Tx); !callers {
			if _, err := tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE`); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, pgschema.Settings, "0", pgschema.Millis(rollupLockTimeout), pgschema.Millis(idleTimeout)); err != nil {
				return err
			}
		}
		return withFormats(ctx, tx, func() error { return f(tx) })
	}
	var err error
	if pool, ok := db.(*pgxpool.Pool); ok {
		err = beginOn(ctx, pool, ownTx, work)
	} else {
		err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { return work(unnamed(tx)) })
	}
	return explain(pgschema.NameStandby(ctx, db, err), "%s roll-up %s", what, r.Table)
}
