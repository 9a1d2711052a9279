package staging

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DefaultRewriteRows is how many rows of a Rewrite are in one transaction.
const DefaultRewriteRows = 10_000

// A Rewrite is the bulk path: one query streams a table, a function transforms its rows batch by
// batch, and COPY writes them into another table or back into the same one. It holds three batches
// in memory at most. Each batch is one transaction that also notes how far it has come, so that a
// Rewrite that was stopped or killed goes on where it was, and writes no batch twice.
type Rewrite[In, Out any] struct {
	Name   string // of the job: its progress is kept under this name
	Source string // SELECT …, without ORDER BY and parameters; trusted text
	Key    string // a column of Source: unique, not NULL; the order of the work
	// Scan reads a row of Source; default pgx.RowToStructByName.
	Scan pgx.RowToFunc[In]
	// Transform makes rows of the target of rows of the source; it may return more or fewer.
	Transform func(context.Context, []In) ([]Out, error)
	Rows      int                   // of one transaction; default 10,000
	After     string                // begin behind this key; "": from the beginning
	UpTo      string                // end with this key; "": at the end
	Progress  func(RewriteProgress) // called after each commit; may be nil
	Restart   bool                  // forget what was done under this name
}

// RewriteProgress is how far a Rewrite has come, over all its runs.
type RewriteProgress struct {
	Last    string // the last key that is done
	Read    int64
	Written int64 // rows that the target took: a conflict may have skipped some
	Done    bool
}

// read is a batch on its way from the query to the transaction.
type read[In any] struct {
	rows []In
	last string
	err  error
}

// Run does the work, from where the last run under this name ended. It uses two connections of the
// table's pool. The table's conflict policy decides what happens to rows that are there: Replace
// writes a table back over itself. Rules and Merge do not run, and nothing is entered into the
// ledger: this is not a batch of a queue.
func (r Rewrite[In, Out]) Run(ctx context.Context, t *Table[Out]) (RewriteProgress, error) {
	var p RewriteProgress
	fail := func(err error) (RewriteProgress, error) { return p, t.explain(fmt.Sprintf("rewrite %q", r.Name), err) }
	if r.Name == "" || r.Source == "" || r.Key == "" || r.Transform == nil || r.Rows < 0 {
		return p, fmt.Errorf("%w: Rewrite needs Name, Source, Key and Transform, and Rows (%d) must not be negative", ErrConfig, r.Rows)
	}
	if n := t.pool.Config().MaxConns; n < 2 {
		return p, fmt.Errorf("%w: the pool has %d connection: a Rewrite needs 2", ErrConfig, n)
	}
	if r.Rows == 0 {
		r.Rows = DefaultRewriteRows
	}
	if r.Scan == nil {
		r.Scan = pgx.RowToStructByName[In]
	}
	progress := pgx.Identifier{t.schema, derived(t.table, "_rewrites")}.Sanitize()
	w, err := t.pool.Acquire(ctx)
	if err != nil {
		return fail(err)
	}
	defer w.Release()
	q := w.Conn()
	defer t.rollback(q)
	if err := t.lockInstall(ctx, q); err != nil {
		return p, err
	}
	if _, err := q.Exec(ctx, "CREATE TABLE IF NOT EXISTS "+progress+" (name text PRIMARY KEY, last text, read bigint NOT NULL DEFAULT 0, written bigint NOT NULL DEFAULT 0, done boolean NOT NULL DEFAULT false, at timestamptz NOT NULL DEFAULT now()); COMMIT"); err != nil {
		return fail(err)
	}
	if r.Restart {
		if _, err := sendOne(ctx, q, do("DELETE FROM "+progress+" WHERE name = $1::text", r.Name)); err != nil {
			return fail(err)
		}
	}
	var last *string
	err = q.QueryRow(ctx, "SELECT last, read, written, done FROM "+progress+" WHERE name = $1::text", r.Name).Scan(&last, &p.Read, &p.Written, &p.Done)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fail(err)
	}
	if p.Done {
		p.Last = *last
		return p, nil
	}
	after := r.After
	if last != nil {
		p.Last, after = *last, *last
	}
	inner, cancel := context.WithCancel(ctx)
	batches := make(chan read[In], 1)
	go func() {
		defer close(batches)
		if err := r.stream(inner, t, after, batches); err != nil {
			select {
			case batches <- read[In]{err: err}:
			case <-inner.Done():
			}
		}
	}()
	defer func() { // the reader's connection goes back before Run returns
		cancel()
		for range batches { //nolint:revive // drained
		}
	}()
	for b := range batches {
		if b.err != nil {
			return fail(b.err)
		}
		rows, err := r.Transform(ctx, b.rows)
		if err != nil {
			return fail(err)
		}
		n, err := t.rewriteBatch(ctx, q, rows, progress, r.Name, b.last, len(b.rows))
		if err != nil {
			return fail(err)
		}
		p.Last, p.Read, p.Written = b.last, p.Read+int64(len(b.rows)), p.Written+n
		if r.Progress != nil {
			r.Progress(p)
		}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if _, err := sendOne(ctx, q, do("INSERT INTO "+progress+" (name, last, done) VALUES ($1::text, $2::text, true) ON CONFLICT (name) DO UPDATE SET done = true, at = now()", r.Name, p.Last)); err != nil {
		return fail(err)
	}
	p.Done = true
	return p, nil
}

// stream runs the query and hands its rows on in batches. The channel holds it up: memory is
// bounded by its length.
func (r Rewrite[In, Out]) stream(ctx context.Context, t *Table[Out], after string, out chan<- read[In]) error {
	c, err := t.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	key := "hr_source." + quote(r.Key)
	var typ string
	desc, err := c.Conn().PgConn().Prepare(ctx, "", "SELECT "+key+" FROM ("+r.Source+") hr_source", nil)
	if err != nil {
		return err
	}
	if err := c.QueryRow(ctx, "SELECT format_type($1::int8::oid, NULL)", int64(desc.Fields[0].DataTypeOID)).Scan(&typ); err != nil {
		return err
	}
	sql, sep := "SELECT hr_source.*, "+key+"::text AS hr_key FROM ("+r.Source+") hr_source", " WHERE "
	if after != "" {
		sql, sep = sql+sep+key+" > "+literal(after)+"::"+typ, " AND "
	}
	if r.UpTo != "" {
		sql += sep + key + " <= " + literal(r.UpTo) + "::" + typ
	}
	rows, err := c.Query(ctx, sql+" ORDER BY "+key)
	if err != nil {
		return err
	}
	defer rows.Close()
	h := &hideLast{Rows: rows}
	b := read[In]{rows: make([]In, 0, r.Rows)}
	send := func() error {
		select {
		case out <- b:
			b = read[In]{rows: make([]In, 0, r.Rows)}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for rows.Next() {
		v, err := r.Scan(h)
		if err != nil {
			return err
		}
		raw := rows.RawValues()
		if raw[len(raw)-1] == nil {
			return fmt.Errorf("the key %q is NULL", r.Key)
		}
		b.rows, b.last = append(b.rows, v), string(raw[len(raw)-1])
		if len(b.rows) == r.Rows {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if err := rows.Err(); err != nil || len(b.rows) == 0 {
		return err
	}
	return send()
}

// hideLast shows a row without its last column, the key that we have added.
type hideLast struct{ pgx.Rows }

func (h *hideLast) FieldDescriptions() []pgconn.FieldDescription {
	f := h.Rows.FieldDescriptions()
	return f[:len(f)-1]
}

func (h *hideLast) RawValues() [][]byte {
	v := h.Rows.RawValues()
	return v[:len(v)-1]
}

func (h *hideLast) Values() ([]any, error) {
	v, err := h.Rows.Values()
	if err != nil {
		return nil, err
	}
	return v[:len(v)-1], nil
}

func (h *hideLast) Scan(dest ...any) error {
	if len(dest) == 1 {
		if s, ok := dest[0].(pgx.RowScanner); ok {
			return s.ScanRow(h)
		}
	}
	return h.Rows.Scan(append(dest[:len(dest):len(dest)], nil)...)
}

// rewriteBatch writes one batch and its progress in one transaction.
func (t *Table[T]) rewriteBatch(ctx context.Context, q *pgx.Conn, rows []T, progress, name, last string, n int) (wrote int64, err error) {
	defer t.rollback(q)
	begin := append(t.beginning(true), do("CREATE TEMPORARY TABLE hr_aside (LIKE "+t.staging[sideA]+") ON COMMIT DROP"))
	if _, err := send(ctx, q, begin...); err != nil {
		return 0, err
	}
	if len(rows) > 0 {
		l := Load[T]{Rows: rows}
		var found []Reject
		e := t.newEncoder(&l, nil, nil, 0, len(rows), 1, q.TypeMap(), &found)
		if err := t.copyAside(ctx, q, e); err != nil {
			return 0, err
		}
		if len(found) > 0 {
			return 0, fmt.Errorf("%w: row %d behind key %s: %s: %s", ErrLoad, found[0].Pos, last, found[0].Code, found[0].Reason)
		}
		res, err := sendOne(ctx, q, t.sql.bulkInsert.with(args{"first": text(recordOf(1, 0)), "last": text(recordOf(1, int32(len(rows))))}))
		if err != nil {
			return 0, err
		}
		wrote = res.affected()
	}
	if _, err := sendOne(ctx, q, do("INSERT INTO "+progress+" AS w (name, last, read, written) VALUES ($1::text, $2::text, $3::int8, $4::int8) ON CONFLICT (name) DO UPDATE SET last = EXCLUDED.last, read = w.read + EXCLUDED.read, written = w.written + EXCLUDED.written, at = now()",
		name, last, text(n), text(wrote))); err != nil {
		return 0, err
	}
	return wrote, commit(ctx, q, "")
}

// copyAside fills the temporary table of this transaction.
func (t *Table[T]) copyAside(ctx context.Context, q *pgx.Conn, e *encoder[T]) error {
	return copyIn(ctx, q, "COPY pg_temp.hr_aside ("+list("", t.colNames)+", "+colRecord+") FROM STDIN BINARY", e)
}
