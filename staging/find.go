package staging

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// FoundKey is what a target holds under one key. See [Table.FindKey].
type FoundKey struct {
	Rows     []FoundRow
	MoreRows bool // there are more than MaxFound
	// Rejects are the rejected records and rows, latest first, also those that are resolved.
	Rejects     []StoredReject
	MoreRejects bool // there are more than MaxFound
	// Limits name what was not searched, and why.
	Limits []string
}

// FoundRow is a row of the target.
type FoundRow struct {
	Key  string // the text of the column Config.ID
	JSON string // the whole row
}

// MaxFound bounds the rows and the rejects that FindKey returns.
const MaxFound = 100

// FoundBatch is a batch as its registry or the ledger describes it.
type FoundBatch struct {
	ID, Root                                      string
	Offset                                        int
	Records, Kept, Duplicates, Filtered, Rejected int
	Fate                                          Fate // FateStaged, FatePromoted or FateVoid
	Attempt                                       int64
	Worker                                        string
	Sealed, Staged, Committed                     time.Time // zero if not staged, not committed
}

// Holds reports whether the batch holds the record at a place of a root batch.
func (b FoundBatch) Holds(root string, place int) bool {
	return b.Root == root && b.Offset <= place && place < b.Offset+b.Records
}

// FoundBatches is the result of [Table.FindBatches].
type FoundBatches struct {
	Batches []FoundBatch
	// Limits name what was not searched, and why.
	Limits []string
}

// SealedBatches is the result of [Table.FindSealed].
type SealedBatches struct {
	IDs  []string
	More bool // there are more than the limit
	// Floor is the time before which the ledger was pruned; zero: never.
	Floor time.Time
}

// Finder finds records and batches of a target by its name, without the type of its rows. It has
// the same methods as a [Table]. This type is concurrency safe.
type Finder struct{ t *table }

// NewFinder returns a Finder. id is the column that holds the record's id ([Config].ID); "" takes
// the column of the primary key, if that is one column. NewFinder never closes the pool.
func NewFinder(ctx context.Context, pool *pgxpool.Pool, target, id string) (*Finder, error) {
	t, err := companions(ctx, pool, target, func(t *table, q *pgx.Conn) error {
		missing, err := t.missingTables(ctx, q)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return fmt.Errorf("%w: %s", ErrMissing, strings.Join(missing, ", "))
		}
		if t.cfg.ID = id; id != "" {
			return nil
		}
		r, err := sendOne(ctx, q, fill("primary_key", pieces{"target_text": literal(t.target)}).with(nil))
		if err != nil {
			return t.explain("reading the primary key of "+target, err)
		}
		if ids := r.texts("id"); len(ids) == 1 {
			t.cfg.ID = ids[0]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Finder{t}, nil
}

// Name returns the target's quoted name with its schema.
func (f *Finder) Name() string { return f.t.target }

// FindKey does what [Table.FindKey] does.
func (f *Finder) FindKey(ctx context.Context, key string) (FoundKey, error) {
	return f.t.FindKey(ctx, key)
}

// FindBatches does what [Table.FindBatches] does.
func (f *Finder) FindBatches(ctx context.Context, ids ...string) (FoundBatches, error) {
	return f.t.FindBatches(ctx, ids...)
}

// FindSealed does what [Table.FindSealed] does.
func (f *Finder) FindSealed(ctx context.Context, from, to time.Time, limit int) (SealedBatches, error) {
	return f.t.FindSealed(ctx, from, to, limit)
}

// FindKey returns the rows of the target whose column Config.ID has the value of key, and the
// rejects with that key, as it is given or as Postgres prints it. Rows have the key that a trigger
// of the target has given them, rejects the one that was staged. It uses indexes only. A column
// without an index, and a table that the role may not read, are left out and named in Limits. A key
// that is not a value of the column's type has no rows.
func (t *table) FindKey(ctx context.Context, key string) (found FoundKey, err error) {
	if ok, _ := textOK(key); !ok {
		return found, fmt.Errorf("%w: the key %q is not text, must be UTF-8 without NUL", ErrLoad, key)
	}
	conn, err := t.begin(ctx, reads)
	if err != nil {
		return found, t.explain("finding a key", err)
	}
	defer conn.Release()
	q := conn.Conn()
	defer t.rollback(q)
	r, err := sendOne(ctx, q, t.sql.findID.with(args{"id": t.cfg.ID}))
	if err != nil {
		return found, t.explain("finding a key", err)
	}
	row := r.row(0)
	switch {
	case t.cfg.ID == "":
		found.Limits = append(found.Limits, "rows of "+t.target+": no single column is the id of a record")
	case row.null("type"):
		return found, fmt.Errorf("%w: the id column is %q, must be a column of %s", ErrConfig, t.cfg.ID, t.target)
	case !row.bool("readable"):
		found.Limits = append(found.Limits, "rows of "+t.target+": this role may not read them")
	case !row.bool("indexed"):
		found.Limits = append(found.Limits, fmt.Sprintf("rows of %s: no index leads with the id column %q", t.target, t.cfg.ID))
	default:
		if found.Rows, err = t.findRows(ctx, q, key, row); err != nil {
			return found, t.explain("finding a key", err)
		}
	}
	if !row.bool("rejects_indexed") {
		found.Limits = append(found.Limits, fmt.Sprintf("rejects: no index on the key: CREATE INDEX ON %s USING hash (key) WHERE key <> ''", t.rejects))
	} else {
		keys, err := t.formsOf(ctx, q, key, row)
		if err == nil {
			err = t.findRejects(ctx, q, keys, &found)
		}
		if err != nil {
			return found, t.explain("finding a key", err)
		}
	}
	if found.MoreRows = len(found.Rows) > MaxFound; found.MoreRows {
		found.Rows = found.Rows[:MaxFound]
	}
	return found, nil
}

// findRows looks a key up in the target.
func (t *table) findRows(ctx context.Context, q *pgx.Conn, key string, id record) (rows []FoundRow, err error) {
	r, ok, err := t.withKey(ctx, q, "find_rows", id, args{"key": key, "limit": text(MaxFound + 1)})
	if err != nil || !ok {
		return nil, err
	}
	for row := range r.each() {
		rows = append(rows, FoundRow{row.text("key"), row.text("row")})
	}
	return rows, nil
}

// formsOf returns the texts under which a reject may have the key.
func (t *table) formsOf(ctx context.Context, q *pgx.Conn, key string, id record) ([]string, error) {
	forms := []string{key}
	if t.cfg.ID == "" {
		return forms, nil
	}
	r, ok, err := t.withKey(ctx, q, "find_forms", id, args{"key": key})
	if err != nil || !ok {
		return forms, err
	}
	for _, form := range []string{"printed", "stored"} {
		if row := r.row(0); !row.null(form) {
			forms = append(forms, row.text(form))
		}
	}
	return forms, nil
}

// withKey runs a statement that reads a key as a value of the id's column. It returns false if the
// key is no such value. A savepoint keeps the transaction then.
func (t *table) withKey(ctx context.Context, q *pgx.Conn, name string, id record, a args) (r result, ok bool, err error) {
	c, err := typeOfColumn(ctx, q, uint32(id.int("type_oid")))
	if err != nil {
		return r, false, err
	}
	p := t.commonPieces()
	p["id"], p["id_type"], p["id_full"], p["equals"] = quote(t.cfg.ID), id.text("type"), id.text("full_type"), c.compare.equal
	res, err := send(ctx, q, do("SAVEPOINT hr_find"), fill(name, p).with(a))
	switch state := sqlState(err); {
	case strings.HasPrefix(state, "22"), strings.HasPrefix(state, "23"):
		_, err := sendOne(ctx, q, do("ROLLBACK TO SAVEPOINT hr_find"))
		return r, false, err
	case err != nil:
		return r, false, err
	}
	return res[1], true, nil
}

func (t *table) findRejects(ctx context.Context, q *pgx.Conn, keys []string, found *FoundKey) error {
	rows, err := q.Query(ctx, t.sql.findRejects.text, unnamed(q, namesText(keys), text(MaxFound+1))...)
	if err != nil {
		return err
	}
	found.Rejects, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (StoredReject, error) {
		x, err := pgx.RowToStructByName[rejectRow](row)
		s := x.stored()
		s.Table = t.target
		return s, err
	})
	if found.MoreRejects = len(found.Rejects) > MaxFound; found.MoreRejects {
		found.Rejects = found.Rejects[:MaxFound]
	}
	return err
}

// maxFoundBatches bounds the batches that FindBatches returns.
const maxFoundBatches = 10_000

// FindBatches describes those of the given batches that are staged or in the ledger, and the parts
// of those that were split, in the order of their offsets. It uses indexes only, and does not wait
// for a promotion: Limits names a side that a promotion holds. It reads the registries first, then
// the ledger.
func (t *table) FindBatches(ctx context.Context, ids ...string) (found FoundBatches, err error) {
	if len(ids) == 0 {
		return found, nil
	}
	for _, id := range ids {
		if _, ok := parseUUID(id); !ok {
			return found, fmt.Errorf("%w: batch id %q, must be a UUID", ErrLoad, id)
		}
	}
	conn, err := acquire(ctx, t.pool)
	if err != nil {
		return found, fmt.Errorf("staging: %w", err)
	}
	defer conn.Release()
	q := conn.Conn()
	staged := map[string]FoundBatch{}
	from := func(s side) error {
		r, err := t.registeredAt(ctx, q, t.ofRegistry(s, "find_registered"), ids, statsWait)
		if errors.Is(err, pgschema.ErrStandby) {
			found.Limits = append(found.Limits, "batches in "+t.name.With("_staging_"+s.String()).String()+": a standby does not have it")
			return nil
		}
		if sqlState(err) == lockNotAvailable {
			found.Limits = append(found.Limits, "batches in "+t.name.With("_staging_"+s.String()).String()+": a promotion holds it")
			return nil
		}
		if err != nil {
			return err
		}
		for row := range r.each() {
			b := foundBatch(row)
			staged[b.ID] = b
		}
		return nil
	}
	// Lanes that are newer than this program are read when it meets them in the control table, and
	// then the ledger again.
	var committed []FoundBatch
	for read, lanes := 0, len(t.lane); read < lanes; {
		missing, err := eachSide(read, lanes, from)
		if err != nil {
			return found, t.explain("finding batches", err)
		}
		open := ""
		if committed, open, err = t.committed(ctx, q, ids); err != nil {
			return found, t.explain("finding batches", err)
		}
		if err := t.gone(open, missing); err != nil {
			return found, err
		}
		read, lanes = lanes, max(lanes, len(open))
	}
	for _, b := range committed {
		delete(staged, b.ID) // promoted since the registry was read
		found.Batches = append(found.Batches, b)
	}
	if len(found.Batches) > maxFoundBatches {
		found.Batches = found.Batches[:maxFoundBatches]
		found.Limits = append(found.Limits, fmt.Sprintf("the ledger: more than %d parts of a split batch", maxFoundBatches))
	}
	for _, id := range ids {
		u, _ := parseUUID(id)
		if b, ok := staged[formatUUID(u)]; ok {
			found.Batches = append(found.Batches, b)
			delete(staged, b.ID)
		}
	}
	return found, nil
}

// committed reads what the ledger has of batches, and of the parts of those that were split, and
// the open sides.
func (t *table) committed(ctx context.Context, q *pgx.Conn, ids []string) (batches []FoundBatch, open string, err error) {
	defer t.rollback(q)
	calls := append(t.beginning(reads), t.sql.findCommitted.with(args{"ids": array(ids), "limit": text(maxFoundBatches + 1)}), t.sql.readControl.with(nil), do("commit"))
	res, err := send(ctx, q, calls...)
	if err != nil {
		return nil, "", err
	}
	res = res[len(res)-3:]
	for row := range res[0].each() {
		batches = append(batches, foundBatch(row))
	}
	open, err = t.openSides(res[1])
	return batches, open, err
}

// registeredAt reads the registry of one side. It waits for a promotion for up to the given time.
func (t *table) registeredAt(ctx context.Context, q *pgx.Conn, s statement, ids []string, wait time.Duration) (result, error) {
	defer t.rollback(q)
	res, err := send(ctx, q, append(t.reading(wait), s.with(args{"ids": array(ids)}), do("commit"))...)
	if err != nil {
		return result{}, err
	}
	return res[len(res)-2], nil
}

func foundBatch(row record) FoundBatch {
	n := func(column string) int { return int(row.int(column)) }
	b := FoundBatch{
		ID: row.text("id"), Root: row.text("root"), Offset: n("root_offset"), Records: n("records"), Kept: n("kept"), Duplicates: n("duplicates"),
		Filtered: n("filtered"), Rejected: n("rejected"), Attempt: row.int("attempt"), Worker: row.text("worker"),
		Sealed: row.micros("sealed"), Staged: row.micros("staged"), Committed: row.micros("committed"),
	}
	switch row.text("kind") {
	case "promoted":
		b.Fate = FatePromoted
	case "void":
		b.Fate = FateVoid
	default:
		b.Fate = FateStaged
	}
	return b
}

// FindSealed lists the ids of up to limit batches in the ledger that were sealed between two times,
// youngest first. An id carries the time of the client that sealed the batch, so the primary key
// has them in this order.
func (t *table) FindSealed(ctx context.Context, from, to time.Time, limit int) (found SealedBatches, err error) {
	if limit < 1 {
		return found, fmt.Errorf("%w: the limit of FindSealed is %d, must be positive", ErrConfig, limit)
	}
	conn, err := acquire(ctx, t.pool)
	if err != nil {
		return found, fmt.Errorf("staging: %w", err)
	}
	defer conn.Release()
	defer t.rollback(conn.Conn())
	res, err := send(ctx, conn.Conn(), append(t.beginning(reads), t.sql.findFloor.with(nil), t.sql.findSealed.with(args{
		"first": uuidAt(from, 0), "last": uuidAt(to, 0xff), "limit": text(min(limit, math.MaxInt-1) + 1),
	}), do("commit"))...)
	if err != nil {
		return found, t.explain("finding batches", err)
	}
	control, err := t.controlRow(res[len(res)-3])
	if err != nil {
		return found, err
	}
	found.Floor = control.micros("floor")
	found.IDs = res[len(res)-2].texts("id")
	if found.More = len(found.IDs) > limit; found.More {
		found.IDs = found.IDs[:limit]
	}
	return found, nil
}

// uuidAt is the first or last UUIDv7 of a time: all other bits have the given value.
func uuidAt(at time.Time, rest byte) string {
	var u [16]byte
	const last = 1<<48 - 1
	ms := int64(0)
	switch {
	case at.After(time.UnixMilli(last)):
		ms = last
	case at.After(time.UnixMilli(0)):
		ms = at.UnixMilli()
	}
	binary.BigEndian.PutUint64(u[:8], uint64(ms)<<16)
	for i := 6; i < len(u); i++ {
		u[i] = rest
	}
	return formatUUID(u)
}
