package staging

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A StoredReject is a row of the durable rejects table.
type StoredReject struct {
	ID     int64 // of the reject, for paging, Resolve and Replay
	Batch  string
	Reject        // Payload: the raw record, or the row as JSON under the names of its columns
	Table  string // the quoted target of the table that rejected it
	// Source is where it was rejected: "stage", before it was staged; "rule", by a rule; "insert", by
	// the target; "group", because a row of the same record in another table of the group was
	// rejected.
	Source string
	Whole  bool // every row of the record was rejected
	At     time.Time
	// Resolved is when the reject was corrected and replayed, or abandoned; zero: it is open.
	Resolved time.Time
}

// maxCode is the length of a code.
const maxCode = 64

var (
	wordPattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	sqlPattern  = regexp.MustCompile(`^` + codeSQL + `[0-9A-Z]{5}$`)
	notWord     = regexp.MustCompile(`[^a-z0-9]+`)
)

// codeWord makes a code of any text: a word of a to z, 0 to 9 and _, which begins with a letter. A
// code of Postgres keeps the capitals of its SQLSTATE.
func codeWord(code string) string {
	if wordPattern.MatchString(code) || sqlPattern.MatchString(code) {
		return code
	}
	w := strings.Trim(notWord.ReplaceAllString(strings.ToLower(code), "_"), "_")
	switch {
	case w == "":
		return CodeUnnamed
	case w[0] <= '9':
		w = "code_" + w
	}
	return w[:min(len(w), maxCode)]
}

// A RejectFilter selects rejects. Zero fields do not filter, except that resolved rejects are left
// out.
type RejectFilter struct {
	Code     string
	Batch    string
	Key      string
	Since    time.Time
	After    int64 // the ID of the last reject of the page before
	Limit    int   // default DefaultPage
	Resolved bool  // include resolved rejects
}

// DefaultPage is the default of RejectFilter.Limit.
const DefaultPage = 1000

// Rejects lists rejected records and rows, oldest first, page by page.
func (t *table) Rejects(ctx context.Context, f RejectFilter) ([]StoredReject, error) {
	if f.Limit == 0 {
		f.Limit = DefaultPage
	}
	if f.Limit < 0 {
		return nil, fmt.Errorf("%w: RejectFilter.Limit is %d, must not be negative", ErrConfig, f.Limit)
	}
	if _, ok := parseUUID(f.Batch); f.Batch != "" && !ok {
		return nil, fmt.Errorf("%w: RejectFilter.Batch is %q, must be a UUID", ErrConfig, f.Batch)
	}
	rows, err := t.query(ctx, t.sql.rejectsList.with(args{"after": text(f.After), "code": f.Code, "batch": f.Batch, "key": f.Key,
		"since": boundText(f.Since), "resolved": strconv.FormatBool(f.Resolved), "limit": text(f.Limit)}))
	if err != nil {
		return nil, t.explain("listing rejects", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (StoredReject, error) {
		x, err := pgx.RowToStructByName[rejectRow](row)
		s := x.stored()
		s.Table = t.target
		return s, err
	})
	if err != nil {
		return nil, t.explain("listing rejects", err)
	}
	return out, nil
}

// rejectRow is a row of the rejects table.
type rejectRow struct {
	ID       int64
	Batch    string
	Pos      int32
	Key      string
	Code     string
	Reason   string
	Payload  *string
	Bytes    []byte
	Row      *string
	Root     string
	Place    int
	Source   string
	Whole    bool
	At       time.Time  `db:"rejected_at"`
	Resolved *time.Time `db:"resolved_at"`
}

func (r rejectRow) stored() StoredReject {
	x := StoredReject{ID: r.ID, Batch: r.Batch, Source: r.Source, Whole: r.Whole, At: r.At,
		Reject: Reject{Pos: r.Pos, Key: r.Key, Code: r.Code, Reason: r.Reason, Payload: r.Bytes, Root: r.Root, Place: r.Place}}
	if r.Resolved != nil {
		x.Resolved = *r.Resolved
	}
	switch {
	case r.Row != nil:
		x.Payload = []byte(*r.Row)
	case r.Payload != nil:
		x.Payload = []byte(*r.Payload)
	}
	return x
}

// Resolve marks rejects as resolved: corrected and pushed into the queue again, or abandoned. It
// returns how many were unresolved. Push first, then resolve. A crash in between pushes the record
// twice, and its dedup id or the target's key absorbs the second copy. In the other order a crash
// loses the record. [Ledger.Resubmit] does both.
//
// A record that a [TableGroup] promoted is resolved in every table of that group, and those rejects
// count too. The role needs the privileges of [RolePromoter] in each of them.
func (t *table) Resolve(ctx context.Context, ids ...int64) (int, error) {
	c, err := t.begin(ctx, durably)
	if err != nil {
		return 0, t.explain("resolving rejects", err)
	}
	defer c.Release()
	defer t.rollback(c.Conn())
	n, err := t.resolve(ctx, c.Conn(), ids)
	if err == nil {
		err = t.commit(ctx, c.Conn(), "")
	}
	if err != nil {
		return 0, t.explain("resolving rejects", err)
	}
	return n, nil
}

// resolve resolves rejects, and returns how many were open.
func (t *table) resolve(ctx context.Context, q *pgx.Conn, ids []int64) (int, error) {
	r, err := sendOne(ctx, q, t.sql.rejectsPlaces.with(args{"ids": array(ids)}))
	if err != nil {
		return 0, err
	}
	var alone []int64
	shared := map[string][]recordKey{} // by table
	for row := range r.each() {
		tables := tablesOf(row.text("tables"))
		if len(tables) == 0 {
			alone = append(alone, row.int("id"))
		}
		for _, target := range tables {
			shared[target] = append(shared[target], recordKey{row.text("batch"), int32(row.int("pos"))})
		}
	}
	n, err := resolveRecords(ctx, q, shared)
	if err != nil || len(alone) == 0 {
		return n, err
	}
	r, err = sendOne(ctx, q, t.sql.resolveRejects.with(args{"ids": array(alone)}))
	if err != nil {
		return 0, err
	}
	return n + len(r.Rows), nil
}

// A Correction is the corrected rows of a reject.
type Correction[T any] struct {
	Reject int64 // StoredReject.ID
	Rows   []T   // one or more
}

// Replay writes corrected rows into the target and resolves their rejects, in one transaction. It
// enters them into the ledger as a batch of their own, so the books still balance. It ignores
// rejects that are already resolved, so a second call is harmless. ConflictSkip and ConflictReplace
// apply here too. Rules and merges run as well: a corrected row that breaks a rule fails the call
// with [ErrLoad].
//
// It fails with [ErrLoad] too for a record that a [TableGroup] promoted: such a record is in all
// tables of its group or in none, so [TableGroup.Replay] replays it.
func (t *Table[T]) Replay(ctx context.Context, fixed []Correction[T]) (PromoteResult, error) {
	fail := func(err error) (PromoteResult, error) {
		return PromoteResult{}, t.explain("replaying rejects into "+t.target, err)
	}
	ids := make([]int64, len(fixed))
	for i, c := range fixed {
		if len(c.Rows) == 0 {
			return PromoteResult{}, fmt.Errorf("%w: Correction %d has no rows: use Resolve to abandon a reject", ErrLoad, i)
		}
		ids[i] = c.Reject
	}
	conn, err := t.begin(ctx, durably)
	if err != nil {
		return fail(err)
	}
	defer conn.Release()
	q := conn.Conn()
	defer t.rollback(q)
	resolved, err := sendOne(ctx, q, t.sql.resolveRejects.with(args{"ids": array(ids)}))
	if err != nil {
		return fail(err)
	}
	open := map[int64]bool{}
	for row := range resolved.each() {
		if list := row.text("tables"); list != "" {
			return PromoteResult{}, fmt.Errorf("%w: reject %d is of a record of %s: replay it with TableGroup.Replay, or abandon it with Resolve",
				ErrLoad, row.int("id"), composition(list, t.target))
		}
		open[row.int("id")] = true
	}
	var l Load[T]
	for _, c := range fixed {
		if open[c.Reject] {
			for _, r := range c.Rows {
				l.Rows, l.Pos = append(l.Rows, r), append(l.Pos, int32(l.Batch.Records))
			}
			l.Batch.Records++
			delete(open, c.Reject)
		}
	}
	if l.Batch.Records == 0 {
		return PromoteResult{}, nil
	}
	p, err := t.replay(ctx, q, &l)
	if err != nil {
		return fail(err)
	}
	if err := t.commitDurably(ctx, q, ""); err != nil {
		return fail(err)
	}
	return p, nil
}

// replay writes corrected rows and enters them into the ledger.
func (t *Table[T]) replay(ctx context.Context, q *pgx.Conn, l *Load[T]) (PromoteResult, error) {
	spans, order := l.records()
	wrote, err := t.writeAside(ctx, q, l, spans, order)
	if err != nil {
		return PromoteResult{}, err
	}
	id := NewBatchID()
	n := len(spans)
	if _, err := sendOne(ctx, q, t.sql.ledgerReplay.with(replayed(id, n, n, len(l.Rows), wrote, ""))); err != nil {
		return PromoteResult{}, err
	}
	return PromoteResult{Batches: []PromotedBatch{{ID: id, Fate: FatePromoted}}, Records: n, Kept: n, Rows: wrote, Conflicts: len(l.Rows) - wrote}, nil
}

// replayed is the ledger's entry of corrected records.
func replayed(id string, records, kept, rows, written int, tables string) args {
	return args{"id": id, "tables": tables, "records": text(records), "kept": text(kept), "rows": text(rows), "written": text(written)}
}

// writeAside does what stage and promote do, without staging tables: nothing here outlives the
// transaction, and nothing has to outlive a crash. It returns how many rows it wrote.
func (t *Table[T]) writeAside(ctx context.Context, q *pgx.Conn, l *Load[T], spans []span, order []int) (int, error) {
	var found []Reject
	e := t.newEncoder(l, spans, order, 0, len(spans), 1, q.TypeMap(), &found)
	if _, err := sendOne(ctx, q, t.sql.lockTarget.with(nil)); err != nil {
		return 0, err
	}
	wrote, err := t.insertArray(ctx, q, e, t.sql.replayInsert, func(parameter []byte) error {
		if len(found) > 0 || len(t.rules) == 0 {
			return nil
		}
		r, err := sendOne(ctx, q, binaryCall(t.sql.brokenRules, parameter))
		if err != nil || len(r.Rows) == 0 {
			return err
		}
		broken := r.row(0)
		return fmt.Errorf("%w: %d corrected rows are rejected again: %s: %s", ErrLoad, broken.int("n"), broken.text("code"), broken.text("reason"))
	})
	if len(found) > 0 {
		return 0, fmt.Errorf("%w: correction %d: %s: %s", ErrLoad, found[0].Pos, found[0].Code, found[0].Reason)
	}
	if err == nil && int(wrote) < len(l.Rows) {
		err = t.noneDropped(ctx, q, t.newEncoder(l, spans, order, 0, len(spans), 1, q.TypeMap(), &found), len(l.Rows), int(wrote))
	}
	if err != nil {
		return 0, err
	}
	return int(wrote), t.afterMerges(ctx, q)
}

// Prune deletes ledger rows and resolved rejects that are older than before. It returns how many
// ledger rows it deleted. [Table.Books] keeps their sums.
//
// First it raises the floor to before, durably. If a batch that was sealed before the floor arrives
// later, Stage returns [ErrTooOld] and Promote sets it aside, because the ledger no longer records
// whether it was promoted. Ledger rows are kept for one more hour, in case clocks differ. Keep the
// ledger for longer than anything can be in flight.
//
// If before is later than the server's time, Prune returns [ErrConfig] and changes nothing: every
// batch in flight would become too old.
func (t *table) Prune(ctx context.Context, before time.Time) (int, error) {
	if before.Before(time.Time{}) {
		before = time.Time{} // the floor is a time that Go can read
	}
	n, err := t.exec(ctx, durably, do("UPDATE "+t.control+" SET floor = greatest(floor, $1::timestamptz) WHERE $1::timestamptz <= clock_timestamp()", boundText(before)))
	if err == nil && n == 0 {
		return 0, fmt.Errorf("%w: Prune before %v, must not be later than the server's time", ErrConfig, before.Format(time.RFC3339Nano))
	}
	if err != nil {
		return 0, t.explain("raising the floor", err)
	}
	total := 0
	for { // in pieces, so that no lock and no transaction is long
		n, err := t.exec(ctx, writes, t.sql.pruneLedger.with(args{"before": boundText(before.Add(-pruneMargin)), "limit": text(pruneAtOnce)}))
		if err != nil {
			return total, t.explain("pruning the ledger", err)
		}
		total += int(n)
		if n < pruneAtOnce {
			break
		}
	}
	if _, err := t.exec(ctx, writes, t.sql.pruneRejects.with(args{"before": boundText(before)})); err != nil {
		return total, t.explain("pruning resolved rejects", err)
	}
	return total, nil
}

// pruneAtOnce is how many ledger rows one statement deletes.
const pruneAtOnce = 10_000

// pruneMargin is how long ledger rows are kept below the floor, in case clocks differ.
const pruneMargin = time.Hour
