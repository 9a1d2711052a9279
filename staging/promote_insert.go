package staging

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"
)

// which is the condition on rows, with the numbers of the batches in it: numbers are not text to be quoted.
func (p *promotion[T]) which() string {
	if p.every {
		return everyRow
	}
	return batchOf("s.") + " = ANY('" + array(p.numbers()) + "'::int8[])"
}

func (p *promotion[T]) numbers() []int32 {
	nos := make([]int32, 0, len(p.take))
	for no := range p.take {
		nos = append(nos, no)
	}
	slices.Sort(nos)
	return nos
}

// insertAll writes all rows with one statement.
func (p *promotion[T]) insertAll(ctx context.Context) error {
	if p.expect == 0 {
		return nil
	}
	sql, err := p.chooseInsert(ctx)
	if err != nil {
		return err
	}
	n, err := p.exec(ctx, sql.with(nil))
	if err != nil {
		return err
	}
	p.out.Rows = int(n)
	if n == p.expect {
		return nil
	}
	if len(p.t.cfg.Key) == 0 || n > p.expect { // a trigger that swallows rows, or a rule of the old kind
		return fmt.Errorf("staging: %d rows were to be inserted into %s and %d were: does it have a trigger or rule that drops rows?", p.expect, p.t.target, n)
	}
	if p.t.cfg.Conflict == ConflictFail {
		return p.conflict(ctx)
	}
	r, err := sendOne(ctx, p.q, p.t.sql.side[p.s].conflicts.where(p.which()).with(nil))
	if err != nil {
		return err
	}
	counts, err := countsOf(r)
	if err != nil {
		return err
	}
	for no, c := range counts {
		p.take[no].conflicts = c
		p.out.Conflicts += int(c)
	}
	if int64(p.out.Conflicts) != p.expect-n {
		// A writer outside has changed the target between two of our statements. Row by row the count is exact.
		return errRecount
	}
	return nil
}

// chooseInsert decides how rows are left out whose key the target has. Where keys rise with time the target has next to
// none between the least and the greatest staged key, and a merge with this part of the index costs nothing. Otherwise
// each key is looked up by itself, which is a tenth of the promotion; where none was found in a while, not even that: the
// index refuses what it has, and the promotion starts again, looking. A trigger that runs before the insert would see rows
// that are not to be inserted, so with one every promotion looks.
func (p *promotion[T]) chooseInsert(ctx context.Context) (statement, error) {
	t := p.t
	looking, fresh := t.sql.side[p.s].insert.where(p.which()), t.sql.side[p.s].insertNew
	if fresh.text == "" {
		return looking, nil
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
	r, err := sendOne(ctx, p.q, t.sql.hasTriggers.with(nil))
	if err != nil {
		return statement{}, err
	}
	if r.row(0).bool("found") {
		return looking, t.at("looking")
	}
	p.blind = true
	return fresh.where(p.which()), t.at("blind")
}

// near is the part of the target between the least and the greatest staged key, if it has fewer rows there than are
// staged, by the planner's estimate. Were that wrong, the insert would be slower, no more.
func (p *promotion[T]) near(ctx context.Context) (string, error) {
	if p.lo == "" || p.hi == "" {
		return "", nil
	}
	near := p.t.target + " hr_there WHERE " + p.t.between(p.lo, p.hi)
	r, err := sendOne(ctx, p.q, do("EXPLAIN (FORMAT JSON) SELECT FROM "+near))
	if err != nil {
		return "", err
	}
	var plan []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal(r.Rows[0][0], &plan); err != nil {
		return "", fmt.Errorf("staging: the plan of a query cannot be read: %w", err)
	}
	if len(plan) != 1 || plan[0].Plan.Rows > float64(p.expect) {
		return "", nil
	}
	return near, nil
}

// lookFor is how many promotions of rows look for each key after one that met a key twice. A blind insert that is refused
// leaves up to all of its rows dead in the target, for vacuum.
const lookFor = 100

// refused says whether the server refused the statement itself, whatever for, and did not fail at it: by a lock, a lost
// connection, a full disk. What a blind insert is refused for may be a row that would not have been inserted.
func refused(err error) bool {
	code := sqlState(err)
	return errors.Is(err, errRecount) || len(code) == 5 && !slices.Contains([]string{"08", "40", "53", "55", "57", "58", "XX"}, code[:2])
}

// learn counts the promotions without a conflict since the last one.
func (t *Table[T]) learn(conflicts int) {
	if conflicts > 0 {
		t.look.Store(lookFor)
	} else if n := t.look.Load(); n > 0 {
		t.look.CompareAndSwap(n, n-1)
	}
}

// spread asks for the least and the greatest staged key, by the column that leads the key's index, once: in the first row. A
// type without a known order has none, and a key that is too long for an index neither: it may be as long as a record. They
// are printed as JSON prints them, which reads back whatever the session's DateStyle.
func (t *Table[T]) spread() string {
	if t.cfg.Conflict != ConflictSkip || baseName(t.lead) == "" {
		return ""
	}
	k := quote(t.lead.name)
	if t.lead.kind == kUUID { // min knows no uuid in older servers; as text it sorts the same
		k += `::text COLLATE "C"`
	}
	const once = ", CASE WHEN row_number() OVER () = 1 AND octet_length((%[1]s)::text) < 2700 THEN to_json(%[1]s) #>> '{}' END AS %[2]s"
	return fmt.Sprintf(once, "min(min("+k+")) OVER ()", "least") + fmt.Sprintf(once, "max(max("+k+")) OVER ()", "greatest")
}

// baseName is the type in which the column's values are compared; a domain could bring a collation that is not the
// column's. Types without a known order have none.
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
func (t *Table[T]) between(lo, hi string) string {
	k, typ := "hr_there."+quote(t.lead.name), "::"+baseName(t.lead)
	return k + " >= " + literal(lo) + typ + " AND " + k + " <= " + literal(hi) + typ
}

var errRecount = errors.New("conflicts do not add up")

// conflict names one of the keys that stand twice in this promotion.
func (p *promotion[T]) conflict(ctx context.Context) error {
	return fmt.Errorf("%w: two staged rows have one key (%s)", ErrConflict, list("", p.t.cfg.Key))
}

// exec runs the insert and says how many rows it wrote. With merges that is an answer, without them the tag.
func (p *promotion[T]) exec(ctx context.Context, c call) (int64, error) {
	r, err := sendOne(ctx, p.q, c)
	if err != nil {
		return 0, err
	}
	if len(p.t.cfg.Merges) > 0 {
		return r.row(0).int("n"), nil
	}
	return r.affected(), nil
}

// insertName names the statement that brings rows into the target under the table's conflict policy. The rows come sorted
// by key, so that the key's index is walked once and in order. Rows that are there already are left out before the insert,
// or looked for when it is refused (chooseInsert): the plain insert is the fastest, and a conflict with a concurrent writer
// makes the promotion start again, carefully.
func (t *Table[T]) insertName(of string) string {
	switch {
	case len(t.cfg.Key) == 0:
		return "insert_" + of + "_plain"
	case of == "bit":
		return "insert_bit_keyed"
	case t.cfg.Conflict == ConflictReplace:
		return "insert_all_replace"
	case t.cfg.Conflict == ConflictFail:
		return "insert_all_fail"
	}
	return "insert_all_skip"
}

// newestFirst orders rows of one key: the one that counts comes first.
func (t *Table[T]) newestFirst() string {
	newest := "s." + colRecord
	if t.cfg.Conflict != ConflictReplace {
		return newest
	}
	newest += " DESC"
	if t.cfg.Newer != "" {
		newest = "s." + quote(t.cfg.Newer) + " DESC NULLS LAST, " + newest
	}
	return newest
}

// onConflict is what happens to a row whose key is in the target.
func (t *Table[T]) onConflict() string {
	switch {
	case len(t.cfg.Key) == 0 || t.cfg.Conflict == ConflictFail:
		return ""
	case t.cfg.Conflict == ConflictSkip:
		return "ON CONFLICT DO NOTHING" // whatever the index
	}
	on := "ON CONFLICT (" + list("", t.cfg.Key) + ") DO "
	var set []string
	for _, c := range t.colNames {
		if !slices.Contains(t.cfg.Key, c) {
			set = append(set, quote(c)+" = EXCLUDED."+quote(c))
		}
	}
	if len(set) == 0 {
		return on + "NOTHING"
	}
	on += "UPDATE SET " + strings.Join(set, ", ")
	var when []string
	if n := quote(t.cfg.Newer); t.cfg.Newer != "" {
		when = append(when, "(old."+n+" IS NULL OR EXCLUDED."+n+" > old."+n+")")
	}
	if t.cfg.ReplaceIf != "" {
		when = append(when, "("+t.cfg.ReplaceIf+"\n)")
	}
	if len(when) > 0 {
		on += " WHERE " + strings.Join(when, " AND ")
	}
	return on
}

func (t *Table[T]) keyEquals(a, b string) string {
	var eq []string
	for _, k := range t.cfg.Key {
		eq = append(eq, a+quote(k)+" = "+b+quote(k))
	}
	return strings.Join(eq, " AND ")
}

// merged puts the user's merges behind the insert. Without any, the insert stays plain: RETURNING costs.
func (t *Table[T]) merged(insert statement) statement {
	if len(t.cfg.Merges) == 0 {
		return insert
	}
	var b strings.Builder
	b.WriteString("WITH promoted AS (" + insert.text + " RETURNING *)")
	for _, m := range t.cfg.Merges {
		b.WriteString(", " + quote(m.Name) + " AS (" + m.SQL + "\n)")
	}
	b.WriteString(" SELECT count(*) AS n FROM promoted")
	insert.text = b.String()
	return insert
}
