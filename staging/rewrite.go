package staging

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DefaultRewriteRows is the default of Rewrite.Rows.
const DefaultRewriteRows = 10_000

// A Rewrite is the bulk path: one query streams a table, a function transforms its rows batch by
// batch, and COPY writes them into another table or back into the same one. It holds at most three
// batches in memory. Each batch is one transaction that also records the progress, so a Rewrite
// that was stopped or killed continues where it was, and writes no batch twice.
type Rewrite[In, Out any] struct {
	Name   string // of the job; its progress is stored under this name
	Source string // SELECT …, without ORDER BY and parameters; trusted text
	Key    string // a column of Source: unique, not NULL; the order of the work
	// Scan reads a row of Source; default pgx.RowToStructByName.
	Scan pgx.RowToFunc[In]
	// Transform turns rows of the source into rows of the target; it may return more or fewer.
	Transform func(context.Context, []In) ([]Out, error)
	Rows      int                   // of one transaction; default 10,000
	After     string                // begin after this key; "": from the beginning
	UpTo      string                // end with this key; "": at the end
	Progress  func(RewriteProgress) // called after each commit; may be nil
	Restart   bool                  // forget the progress under this name
}

// RewriteProgress is the progress of a Rewrite, over all its runs.
type RewriteProgress struct {
	Last    string // the last finished key
	Read    int64
	Written int64 // rows written into the target; conflicts may have skipped some
	Done    bool
}

// read is a batch on its way from the query to the transaction.
type read[In any] struct {
	rows []In
	last string
	err  error
}

// Run does the work, from where the last run under this name ended. It uses two connections of the
// table's pool. Several runs under one name share the work: one of them does each batch. The
// table's conflict policy decides what happens to existing rows: ConflictReplace writes a table
// back over itself. Rules and merges do not run. Nothing is entered into the ledger, because this
// is not a batch of a queue.
func (r Rewrite[In, Out]) Run(ctx context.Context, t *Table[Out]) (RewriteProgress, error) {
	if r.Name == "" || r.Source == "" || r.Key == "" || r.Transform == nil || r.Rows < 0 {
		return RewriteProgress{}, fmt.Errorf("%w: Rewrite needs Name, Source, Key and Transform, and Rows (%d) must not be negative", ErrConfig, r.Rows)
	}
	if t == nil {
		return RewriteProgress{}, fmt.Errorf("%w: the table of Rewrite is nil, must come from New", ErrConfig)
	}
	if n := t.pool.Config().MaxConns; n < 2 {
		return RewriteProgress{}, fmt.Errorf("%w: the pool has %d connection: a Rewrite needs 2", ErrConfig, n)
	}
	if r.Rows == 0 {
		r.Rows = DefaultRewriteRows
	}
	if r.Scan == nil {
		r.Scan = pgx.RowToStructByName[In]
	}
	p, err := r.run(ctx, t)
	if err != nil {
		return p, t.explain(fmt.Sprintf("rewrite %q", r.Name), err)
	}
	return p, nil
}

// errOvertaken ends an attempt: another run under the same name has taken the next step.
var errOvertaken = errors.New("another run has taken this step")

func (r Rewrite[In, Out]) run(ctx context.Context, t *Table[Out]) (RewriteProgress, error) {
	w, err := acquire(ctx, t.pool)
	if err != nil {
		return RewriteProgress{}, err
	}
	defer w.Release()
	q := w.Conn()
	if err := t.rewriteTable(ctx, q); err != nil {
		return RewriteProgress{}, err
	}
	if r.Restart {
		if _, err := t.inOwn(ctx, q, writes, t.rewriteSQL("rewrite_forget").with(args{"name": r.Name})); err != nil {
			return RewriteProgress{}, err
		}
	}
	for {
		p, err := r.progress(ctx, t, q)
		if err != nil || p.Done {
			return p, err
		}
		err = r.attempt(ctx, t, q, &p)
		switch {
		case err == nil:
			return p, nil
		case ctx.Err() != nil:
			return p, errors.Join(ctx.Err(), err)
		case errors.Is(err, errOvertaken), sqlState(err) == lockNotAvailable, sqlState(err) == deadlockDetected:
			continue // from where the other run is
		}
		return p, err
	}
}

// rewriteTable creates the table of progress where it is missing.
func (t *table) rewriteTable(ctx context.Context, q *pgx.Conn) error {
	defer t.rollback(q)
	if err := t.lockInstall(ctx, q); err != nil {
		return err
	}
	found, err := find(ctx, q, t.name.With("_rewrites"))
	if err != nil {
		return err
	}
	if found == nil && t.cfg.NoCreate {
		return fmt.Errorf("%w: %s (Config.NoCreate is set: apply the schema that SQL returns)", ErrMissing, t.rewrites)
	}
	if found == nil {
		if _, err := sendOne(ctx, q, t.rewriteSQL("rewrite_table").with(nil)); err != nil {
			return err
		}
	}
	return t.commit(ctx, q, "")
}

func (t *table) rewriteSQL(name string) statement {
	return fill(name, pieces{"rewrites": t.rewrites})
}

// progress reads how far all runs have come.
func (r Rewrite[In, Out]) progress(ctx context.Context, t *Table[Out], q *pgx.Conn) (p RewriteProgress, err error) {
	res, err := t.inOwn(ctx, q, reads, t.rewriteSQL("rewrite_read").with(args{"name": r.Name}))
	if err != nil {
		return p, err
	}
	for row := range res.each() {
		p = RewriteProgress{Last: row.text("last"), Read: row.int("read"), Written: row.int("written"), Done: row.bool("done")}
	}
	return p, nil
}

// attempt does the work until it is done, or until another run overtakes this one.
func (r Rewrite[In, Out]) attempt(ctx context.Context, t *Table[Out], q *pgx.Conn, p *RewriteProgress) error {
	inner, cancel := context.WithCancel(ctx)
	batches := make(chan read[In], 1)
	after := r.After
	if p.Last != "" {
		after = p.Last
	}
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
			return b.err
		}
		rows, err := r.Transform(ctx, b.rows)
		if err != nil {
			return err
		}
		n, err := t.rewriteBatch(ctx, q, rows, rewriteStep{name: r.Name, previous: p.Last, last: b.last, read: len(b.rows)})
		if err != nil {
			return err
		}
		p.Last, p.Read, p.Written = b.last, p.Read+int64(len(b.rows)), p.Written+n
		if r.Progress != nil {
			r.Progress(*p)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	done, err := t.inOwn(ctx, q, durably, t.rewriteSQL("rewrite_done").with(args{"name": r.Name, "last": p.Last}))
	if err != nil {
		return err
	}
	if len(done.Rows) == 0 {
		return errOvertaken
	}
	p.Done = true
	return nil
}

// keyType is the type of the key with its modifier, without which character(9) would be
// character(1), and how its values are compared.
func (r Rewrite[In, Out]) keyType(ctx context.Context, q *pgx.Conn, key string) (string, comparison, error) {
	desc, err := q.PgConn().Prepare(ctx, "", "SELECT "+key+" FROM ("+r.Source+"\n) hr_source", nil)
	if err != nil {
		return "", comparison{}, err
	}
	f := desc.Fields[0]
	res, err := sendOne(ctx, q, do("SELECT format_type($1::int8::oid, $2::int4) AS type", text(int64(f.DataTypeOID)), text(f.TypeModifier)))
	if err != nil {
		return "", comparison{}, err
	}
	c, err := typeOfColumn(ctx, q, f.DataTypeOID)
	return res.row(0).text("type"), c.compare, err
}

// stream runs the query and hands its rows on in batches. The channel holds it up: memory is
// bounded by its length.
func (r Rewrite[In, Out]) stream(ctx context.Context, t *Table[Out], after string, out chan<- read[In]) error {
	c, err := t.begin(ctx, writes) // keys are printed and read in formats of our own
	if err != nil {
		return err
	}
	defer c.Release()
	defer t.rollback(c.Conn())
	key := "hr_source." + quote(r.Key)
	typ, compare, err := r.keyType(ctx, c.Conn(), key)
	if err != nil {
		return t.explainSQL(fmt.Sprintf("Rewrite.Source with the key %q", r.Key), err)
	}
	sql, sep := "SELECT hr_source.*, "+key+"::text AS hr_key FROM ("+r.Source+"\n) hr_source", " WHERE "
	if after != "" {
		sql, sep = sql+sep+key+" "+compare.greater+" "+literal(after)+"::"+typ, " AND "
	}
	if r.UpTo != "" {
		sql += sep + key + " " + compare.atMost + " " + literal(r.UpTo) + "::" + typ
	}
	rows, err := c.Query(ctx, sql+" ORDER BY "+key, unnamed(c.Conn())...)
	if err != nil {
		return err
	}
	defer rows.Close()
	h := &hideLast{Rows: rows}
	room := min(r.Rows, DefaultRewriteRows) // Rows may be more than fits into memory
	b := read[In]{rows: make([]In, 0, room)}
	send := func() error {
		select {
		case out <- b:
			b = read[In]{rows: make([]In, 0, room)}
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
		// A batch goes only when the next key differs: a later run would begin after that of the batch,
		// and pass over rows that share it.
		next := string(raw[len(raw)-1])
		if len(b.rows) > 0 && next == b.last {
			return fmt.Errorf("%w: Rewrite.Key is %q, must be unique: Source has the value %.200q twice", ErrConfig, r.Key, next)
		}
		if len(b.rows) == r.Rows {
			if err := send(); err != nil {
				return err
			}
		}
		b.rows, b.last = append(b.rows, v), next
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

// rewriteStep is one batch of a Rewrite: from one key to the next.
type rewriteStep struct {
	name, previous, last string
	read                 int
}

// rewriteBatch writes one batch and its progress in one transaction. It takes the step first, so
// that of two runs one waits for the other and then does nothing.
func (t *Table[T]) rewriteBatch(ctx context.Context, q *pgx.Conn, rows []T, step rewriteStep) (wrote int64, err error) {
	defer t.rollback(q)
	claim := t.rewriteSQL("rewrite_claim").with(args{"name": step.name, "last": step.last, "previous": step.previous, "read": text(step.read)})
	res, err := send(ctx, q, append(t.beginning(durably), claim)...)
	if err != nil {
		return 0, err
	}
	if len(res[len(res)-1].Rows) == 0 {
		return 0, errOvertaken
	}
	if len(rows) > 0 {
		l := Load[T]{Rows: rows}
		var found []Reject
		wrote, err = t.insertArray(ctx, q, t.newEncoder(&l, nil, nil, 0, len(rows), 1, q.TypeMap(), &found), t.sql.bulkInsert, nil)
		if len(found) > 0 {
			return 0, fmt.Errorf("%w: row %d after key %s: %s: %s", ErrLoad, found[0].Pos, step.last, found[0].Code, found[0].Reason)
		}
		if err != nil {
			return 0, err
		}
		if _, err := sendOne(ctx, q, t.rewriteSQL("rewrite_wrote").with(args{"name": step.name, "written": text(wrote)})); err != nil {
			return 0, err
		}
	}
	return wrote, t.commitDurably(ctx, q, "")
}
