package staging

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"
)

// which is the condition on the rows that this promotion takes, with the numbers of the batches in
// it: numbers need no quotes.
func (p *promotion) which() string {
	which := everyRow
	if !p.every {
		which = batchOf("s.") + " = ANY('" + array(p.numbers()) + "'::int8[])"
	}
	if p.postponed > 0 {
		which += " AND s." + colRecord + " >= 0"
	}
	return which
}

func (p *promotion) numbers() []int32 {
	nos := make([]int32, 0, len(p.take))
	for no := range p.take {
		nos = append(nos, no)
	}
	slices.Sort(nos)
	return nos
}

// insertWork brings rows into the target.
func (p *promotion) insertWork() *work {
	run := func(merged statement) func(context.Context, string) (int64, error) {
		return func(ctx context.Context, condition string) (int64, error) {
			return p.checkAgain(ctx, condition, func() (int64, error) { return p.exec(ctx, merged.where(condition).with(nil)) })
		}
	}
	judged := p.sql().insert
	if !p.inOrder {
		judged, _ = p.inserts()
	}
	return &work{
		source: "insert",
		judged: run(judged),
		run: func(ctx context.Context, condition string) (int64, error) {
			merged, _ := p.inserts() // guarded may be found out later
			return run(merged)(ctx, condition)
		},
		plain: func(ctx context.Context, condition string) (int64, error) {
			return p.checkAgain(ctx, condition, func() (int64, error) {
				_, plain := p.inserts()
				return p.execPlain(ctx, plain.where(condition).with(nil))
			})
		},
		judge:        p.sql().judgeInsert,
		judgeThenRun: len(p.t.cfg.Merges) > 0,
		blame:        p.blameMerge,
		done: func(spans []recordSpan, n int64) {
			p.written += n
			if p.byBatch {
				p.wroteBy[int32(spans[0].first>>32)] += n
			}
		},
	}
}

// insert writes the rows into the target.
func (p *promotion) insert(ctx context.Context) error {
	if p.expect-p.refused <= 0 {
		return nil
	}
	if err := p.chooseOrder(ctx); err != nil {
		return err
	}
	if !p.beforeRow {
		return p.insertRows(ctx)
	}
	if p.t.drops.Load() == 0 {
		if done, err := p.insertWatched(ctx); done || err != nil {
			return err
		}
	}
	return p.insertSuppressed(ctx, p.insertWork())
}

// insertRows writes the rows into the target: with one statement, where nothing is known that
// refuses rows that the checks before did not find; otherwise in parts, so that a refusal costs one
// part and not all.
func (p *promotion) insertRows(ctx context.Context) error {
	t, w := p.t, p.insertWork()
	if !p.byBatch && !p.guarded && t.guard.Load() == 0 && !p.searches() {
		done, err := p.insertAtOnce(ctx, w)
		if err != nil {
			return err
		}
		if done {
			return p.insertLater(ctx, w)
		}
		t.guard.Store(lookFor)
	}
	if err := p.takeTurnAlone(ctx); err != nil {
		return err
	}
	if err := t.at("in parts"); err != nil {
		return err
	}
	batches, err := p.spans(ctx)
	if err != nil {
		return err
	}
	var pieces [][]recordSpan
	if p.byBatch {
		for _, b := range batches {
			pieces = append(pieces, []recordSpan{b})
		}
	} else {
		pieces = group(batches, max((p.expect+parts-1)/parts, t.sizes.least))
	}
	for _, spans := range pieces {
		if err := p.descend(ctx, w, spans); err != nil {
			return err
		}
	}
	return p.insertLater(ctx, w)
}

// insertAtOnce writes all rows with one statement. It returns false if the server refused it
// because of a row.
func (p *promotion) insertAtOnce(ctx context.Context, w *work) (bool, error) {
	for {
		sql, err := p.chooseInsert(ctx)
		if err != nil {
			return false, err
		}
		n, err := p.try(ctx, func() (int64, error) {
			if err := p.shareTurn(ctx); err != nil {
				return 0, err
			}
			return p.exec(ctx, sql.with(nil))
		})
		switch {
		case err == nil:
			p.written = n
			return true, nil
		case p.blind && verdictOf(err) != verdictSurroundings: // perhaps for a row that would not have been inserted
			p.blind = false
			p.t.learn(1)
		case p.mayYield() && sqlState(err) == "23505": // another lane has written a key since the statement began
			p.yielding = true
		default:
			return false, p.mayBeData(ctx, w, err)
		}
	}
}

// chooseInsert decides how rows are left out whose key the target has. Where keys rise with time
// the target has next to none between the least and the greatest staged key, and a merge with this
// part of the index costs nothing. Otherwise each key is looked up alone, which is a tenth of the
// promotion; where none was found in a while, not even that: the index refuses what it has, and the
// promotion starts again, looking. A trigger that runs before the insert would see rows that are
// not to be inserted, so with one every promotion looks. So it does with child tables: the index
// does not have their keys.
func (p *promotion) chooseInsert(ctx context.Context) (statement, error) {
	t := p.t
	looking, fresh := t.sql.side[p.s].insert.where(p.which()), t.sql.side[p.s].insertNew
	if fresh.text == "" {
		return looking, nil
	}
	if p.yielding {
		return t.sql.side[p.s].insertYield.where(p.which()), t.at("yielding")
	}
	near, err := p.near(ctx)
	switch {
	case err != nil:
		return statement{}, err
	case near != "":
		return fresh.where(p.which() + " AND NOT EXISTS (SELECT FROM " + near + " AND " + t.keyEquals("hr_there.", "s.") + ")"), t.at("near")
	case t.look.Load() > 0:
		return looking, t.at("looking")
	}
	if p.beforeRow || p.children {
		return looking, t.at("looking")
	}
	p.blind = true
	return fresh.where(p.which()), t.at("blind")
}

// fewRows is the least number of rows of the target that chooseInsert counts.
const fewRows = 100

// near is the part of the target between the least and the greatest staged key, if it has few rows.
// They are counted, up to a small part of the staged ones: the planner's estimate of a range means
// nothing on a table that was never analyzed, as every table is at first, or that has grown since.
// Random keys would then read the whole target in each promotion.
func (p *promotion) near(ctx context.Context) (string, error) {
	if p.lo == "" || p.hi == "" {
		return "", nil
	}
	between := p.t.between(p.lo, p.hi)
	few := max(fewRows, p.expect/64)
	r, err := sendOne(ctx, p.q, fill("rows_near", pieces{
		"target": p.t.target, "between": between, "lead": "hr_there." + quote(p.t.lead.name), "limit": text(few + 1),
	}).with(nil))
	if err != nil || r.row(0).int("n") > few {
		return "", err
	}
	return p.t.target + " hr_there WHERE " + between, nil
}

// lookFor is how many promotions of rows look for each key after one that met a key twice. A blind
// insert that is refused leaves up to all of its rows dead in the target, for vacuum.
const lookFor = 100

// learn counts the promotions without a conflict since the last one.
func (t *table) learn(conflicts int) {
	if conflicts > 0 {
		t.look.Store(lookFor)
	} else if n := t.look.Load(); n > 0 {
		t.look.CompareAndSwap(n, n-1)
	}
}

// spread asks for the least and the greatest staged key, by the column that leads the key's index,
// once: in the first row. It asks for none if the type has no known order or a key is too long for
// an index: such a key may be as long as a record. They are printed as JSON prints them, which
// reads back whatever the session's DateStyle.
func (t *table) spread() string {
	if t.cfg.Conflict != ConflictSkip || baseName(t.lead) == "" {
		return ""
	}
	k := quote(t.lead.name)
	if t.lead.kind == kUUID { // min knows no uuid in older servers; as text it sorts the same
		k += `::text COLLATE "C"`
	}
	const once = ", CASE WHEN row_number() OVER () = 1 AND octet_length((%[1]s)::text) < 2700 THEN pg_catalog.to_json(%[1]s) #>> '{}' END AS %[2]s"
	return fmt.Sprintf(once, "pg_catalog.min(pg_catalog.min("+k+")) OVER ()", "least") + fmt.Sprintf(once, "pg_catalog.max(pg_catalog.max("+k+")) OVER ()", "greatest")
}

// baseName is the type in which the column's values are compared; a domain could bring a collation
// that is not the column's. Types without a known order have none.
func baseName(c *column) string {
	if c == nil {
		return ""
	}
	switch {
	case c.kind == kUUID:
		return "uuid"
	case c.oid == pgtype.TextOID, c.oid == pgtype.VarcharOID:
		return "text"
	case c.kind >= kInt2 && c.kind <= kInt8:
		return "int8"
	case c.kind == kTimestamptz:
		return "timestamptz"
	case c.kind == kTimestamp:
		return "timestamp"
	case c.kind == kDate:
		return "date"
	case c.kind == kNumeric:
		return "numeric"
	}
	return ""
}

// between is the condition that spread is for.
func (t *table) between(lo, hi string) string {
	k, typ := "hr_there."+quote(t.lead.name), "::"+baseName(t.lead)
	return k + " OPERATOR(pg_catalog.>=) " + literal(lo) + typ + " AND " + k + " OPERATOR(pg_catalog.<=) " + literal(hi) + typ
}

// execPlain runs the insert without merges and returns how many rows it wrote.
func (p *promotion) execPlain(ctx context.Context, c call) (int64, error) {
	r, err := p.sendInsert(ctx, c)
	if err != nil {
		return 0, err
	}
	return r.affected(), nil
}

// sendInsert runs an insert. A trigger may have deferred constraints (SET CONSTRAINTS): they are
// checked here, not in the commit, where nothing tells which row has broken one.
func (p *promotion) sendInsert(ctx context.Context, c call) (result, error) {
	if !p.triggers {
		return sendOne(ctx, p.q, c)
	}
	out, err := send(ctx, p.q, c, checkAtOnce)
	if err != nil {
		return result{}, err
	}
	return out[0], nil
}

// exec runs the insert with its merges and returns how many rows the insert wrote.
func (p *promotion) exec(ctx context.Context, c call) (int64, error) {
	if len(p.t.cfg.Merges) == 0 {
		return p.execPlain(ctx, c)
	}
	r, err := p.sendInsert(ctx, c)
	if err != nil {
		return 0, err
	}
	return r.row(0).int("n"), nil
}

// insertName names the statement that brings rows into the target under the table's conflict
// policy. The rows come sorted by key, so that the key's index is walked once and in order. Rows
// that are there already are left out before the insert, or looked for when it is refused
// (chooseInsert): the plain insert is the fastest, and a conflict with a concurrent writer makes
// the promotion start again, carefully.
func (t *table) insertName(of string) string {
	switch {
	case len(t.cfg.Key) == 0 && of == "try":
		return "try_insert_plain"
	case len(t.cfg.Key) == 0:
		return "insert_" + of + "_plain"
	case of == "array":
		return "insert_array_keyed"
	case of == "try" && t.cfg.Conflict == ConflictReplace:
		return "try_insert_replace"
	case of == "try":
		return "try_insert_absent"
	case t.cfg.Conflict == ConflictReplace:
		return "insert_all_replace"
	case t.cfg.Conflict == ConflictFail:
		return "insert_all_fail"
	}
	return "insert_all_skip"
}

// newestFirst orders rows of one key: the one that counts comes first. Of those that are equal by
// Newer, it is the one that onConflict would keep if they came one by one: the first. A row without
// a value there is replaced by any other, so of these it is the last.
func (t *table) newestFirst() string {
	record := "s." + colRecord
	switch {
	case t.cfg.Conflict != ConflictReplace:
		return record
	case t.cfg.Newer == "":
		return record + " DESC"
	}
	newer := "s." + quote(t.cfg.Newer)
	return newer + " DESC NULLS LAST, CASE WHEN " + newer + " IS NOT DISTINCT FROM NULL THEN ~" + record + " ELSE " + record + " END"
}

// onConflict is what happens to a row whose key is in the target.
func (t *table) onConflict() string {
	switch {
	case len(t.cfg.Key) == 0 || t.cfg.Conflict == ConflictFail:
		return ""
	case t.cfg.Conflict == ConflictSkip:
		return "ON CONFLICT (" + list("", t.cfg.Key) + ") DO NOTHING"
	}
	on := "ON CONFLICT (" + list("", t.cfg.Key) + ") DO "
	var set []string
	for _, c := range t.colNames {
		if !slices.Contains(t.cfg.Key, c) || t.respells(c) {
			set = append(set, quote(c)+" = EXCLUDED."+quote(c))
		}
	}
	if len(set) == 0 {
		return on + "NOTHING"
	}
	on += "UPDATE SET " + strings.Join(set, ", ")
	var when []string
	if n := quote(t.cfg.Newer); t.cfg.Newer != "" {
		when = append(when, "(old."+n+" IS NOT DISTINCT FROM NULL OR EXCLUDED."+n+" "+t.compares(t.cfg.Newer).greater+" old."+n+")")
	}
	if t.cfg.ReplaceIf != "" {
		when = append(when, "("+t.cfg.ReplaceIf+"\n)")
	}
	if len(when) > 0 {
		on += " WHERE " + strings.Join(when, " AND ")
	}
	return on
}

// respells is true for a column of the key whose equal values may be different texts. The row that
// replaces another one brings its spelling, as it does within one promotion.
func (t *table) respells(name string) bool {
	for i := range t.cols {
		if c := &t.cols[i]; c.name == name {
			return c.identity == "" && c.spells()
		}
	}
	return false
}

func (t *table) keyEquals(a, b string) string {
	var eq []string
	for _, k := range t.cfg.Key {
		eq = append(eq, a+quote(k)+" "+t.compares(k).equal+" "+b+quote(k))
	}
	return strings.Join(eq, " AND ")
}

// compares returns the operators of a column. One that no T fills is compared as Postgres' own
// types are.
func (t *table) compares(name string) comparison {
	for i := range t.cols {
		if t.cols[i].name == name {
			return t.cols[i].compare
		}
	}
	return comparison{atMost: "<=", equal: "=", greater: ">"}
}
