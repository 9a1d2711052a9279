package console

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

//go:embed ledger.sql
var ledgerSQL string

// Bounds of what one page reads of a table.
const (
	batchPage     = 50
	rejectPage    = 50
	rejectsLooked = 20_000 // ids that a page of rejects, or a count by code, looks at
)

// unprepared is how the console runs its statements. It prepares none: behind a pooler that does
// not follow those, the server's connection would not have it.
const unprepared = pgx.QueryExecModeExec

// ledger reads what package staging keeps about a table, by its name.
type ledger struct {
	notCalled
	pool       *pgxpool.Pool
	name       pgschema.Name
	statements map[string]string

	opening chan struct{}   // guards the fields below
	opened  *staging.Ledger // nil: not opened yet
	at      time.Time       // when it was opened
}

// notCalled has the methods of a table that the books do not call.
type notCalled struct{ pipeline.Table[struct{}] }

// openAge is how long an opened ledger is used before it is opened again: a program may be upgraded
// while the console runs.
const openAge = time.Minute

// open returns the ledger of package staging. The table may come into being while the console runs.
func (l *ledger) open(ctx context.Context) (*staging.Ledger, error) {
	select {
	case l.opening <- struct{}{}:
		defer func() { <-l.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l.opened != nil && time.Since(l.at) < openAge {
		return l.opened, nil
	}
	opened, err := staging.OpenLedger(ctx, l.pool, l.name.String())
	switch {
	case errors.Is(err, staging.ErrNoTarget), errors.Is(err, staging.ErrMissing):
		return nil, fmt.Errorf("%w: %w", ErrNoTable, err)
	case err != nil:
		return nil, err
	}
	l.opened, l.at = opened, time.Now()
	return opened, nil
}

func newLedger(pool *pgxpool.Pool, table string) (*ledger, error) {
	name, err := pgschema.ParseName(table)
	if err != nil {
		return nil, err
	}
	l := &ledger{pool: pool, name: name, statements: map[string]string{}, opening: make(chan struct{}, 1)}
	filled := pgschema.Fill(ledgerSQL, "ledger", name.With("_ledger").String(), "rejects", name.With("_rejects").String())
	for _, part := range strings.Split(filled, "-- name: ")[1:] {
		id, sql, _ := strings.Cut(part, "\n")
		l.statements[id] = strings.TrimRight(sql, "; \n")
	}
	return l, nil
}

// undefined is the SQLSTATE of a statement about a table that does not exist.
const undefined = "42P01"

// explain names what was being read.
func (l *ledger) explain(doing string, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == undefined {
		return fmt.Errorf("%w: %s", ErrNoTable, l.name)
	}
	return fmt.Errorf("console: %s: %w", doing, err)
}

// rows runs a statement and collects its rows by the names of their columns.
func rows[V any](ctx context.Context, l *ledger, doing, statement string, args pgx.NamedArgs) ([]V, error) {
	r, err := l.pool.Query(ctx, l.statements[statement], unprepared, args)
	if err == nil {
		var out []V
		if out, err = pgx.CollectRows(r, pgx.RowToStructByName[V]); err == nil {
			return out, nil
		}
	}
	return nil, l.explain(doing, err)
}

// size is how many bytes the ledger has.
func (l *ledger) size(ctx context.Context) (bytes int64, err error) {
	err = l.pool.QueryRow(ctx, l.statements["size"], unprepared, pgx.NamedArgs{"ledger": l.name.With("_ledger").String()}).Scan(&bytes)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, fmt.Errorf("%w: %s", ErrNoTable, l.name)
	case err != nil:
		return 0, l.explain("size of the ledger", err)
	}
	return bytes, nil
}

// before sums the part of the ledger that was committed before a time.
func (l *ledger) before(ctx context.Context, until time.Time) (staging.Books, error) {
	opened, err := l.open(ctx)
	if err != nil {
		return staging.Books{}, err
	}
	return opened.BooksBetween(ctx, time.Time{}, until)
}

// BooksSince is a method of pipeline.Table.
func (l *ledger) BooksSince(ctx context.Context, since time.Time) (staging.Books, error) {
	opened, err := l.open(ctx)
	if err != nil {
		return staging.Books{}, err
	}
	return opened.BooksSince(ctx, since)
}

// Fates is a method of pipeline.Table. It reads the ledger alone: a batch that is only staged is
// unknown here.
func (l *ledger) Fates(ctx context.Context, ids []string) ([]staging.Fate, error) {
	opened, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	return opened.Fates(ctx, ids)
}

// Clock returns the time by which the ledger is stamped. The books use it.
func (l *ledger) Clock(ctx context.Context) (time.Time, error) {
	opened, err := l.open(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return opened.Clock(ctx)
}

// StageCounts sums what the stages of the chain did. The books use it.
func (l *ledger) StageCounts(ctx context.Context, since time.Time) ([]staging.StageCount, error) {
	opened, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	return opened.StageCounts(ctx, since)
}

// Minute is what was committed in one minute.
type Minute struct {
	Minute     time.Time `json:"minute"`
	Batches    int64     `json:"batches"`
	Rows       int64     `json:"rows"`
	Kept       int64     `json:"kept"`
	Duplicates int64     `json:"duplicates"`
	Filtered   int64     `json:"filtered"`
	Rejected   int64     `json:"rejected"`
	// Median and Longest are the seconds from the seal to the commit.
	Median  float64 `json:"median_seconds"`
	Longest float64 `json:"longest_seconds"`
}

func (l *ledger) readMinutes(ctx context.Context) ([]Minute, error) {
	return rows[Minute](ctx, l, "throughput", "minutes", nil)
}

// LedgerEntry is a batch in the ledger.
type LedgerEntry struct {
	ID             string     `json:"id"`
	Kind           string     `json:"kind"`
	Root           string     `json:"root"`
	Offset         int64      `json:"offset" db:"offset_in_root"`
	Records        int64      `json:"records"`
	Kept           int64      `json:"kept"`
	Duplicates     int64      `json:"duplicates"`
	Filtered       int64      `json:"filtered"`
	Rejected       int64      `json:"rejected"`
	Staged         int64      `json:"staged"`
	Rows           int64      `json:"rows" db:"promoted"`
	Conflicts      int64      `json:"conflicts"`
	RejectedByRule int64      `json:"rejected_by_rule" db:"ruled"`
	Attempt        int64      `json:"attempt"`
	Worker         string     `json:"worker"`
	SealedAt       time.Time  `json:"sealed_at"`
	StagedAt       *time.Time `json:"staged_at"`
	Committed      time.Time  `json:"committed_at" db:"committed_at"`
}

// Took is the time from the seal to the commit.
func (e LedgerEntry) Took() time.Duration { return e.Committed.Sub(e.SealedAt) }

// Balanced reports whether the entry accounts for each of its records and rows.
func (e LedgerEntry) Balanced() bool {
	return e.Kind == "void" || e.Records == e.Kept+e.Duplicates+e.Filtered+e.Rejected && e.Staged == e.Rows+e.Conflicts+e.RejectedByRule
}

// readBatches reads a page of the ledger, newest first. before is an id; "" begins with the newest.
func (l *ledger) readBatches(ctx context.Context, before, kind string) ([]LedgerEntry, error) {
	if before == "" {
		before = newestID(time.Now())
	}
	return rows[LedgerEntry](ctx, l, "ledger", "batches", pgx.NamedArgs{"before": before, "kind": kind, "limit": batchPage})
}

// newestID is an id after all UUIDv7 that were made until a day from now. The random ids of
// corrections are mostly after it, too.
func newestID(now time.Time) string {
	ms := now.Add(24 * time.Hour).UnixMilli()
	return fmt.Sprintf("%08x-%04x-7fff-bfff-ffffffffffff", ms>>16, ms&0xffff)
}

// readBatch reads one batch of the ledger; nil: it has none of that id.
func (l *ledger) readBatch(ctx context.Context, id string) (*LedgerEntry, error) {
	found, err := rows[LedgerEntry](ctx, l, "ledger", "batch", pgx.NamedArgs{"id": id})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// Reject is a rejected record or row.
type Reject struct {
	ID       int64      `json:"id"`
	Batch    string     `json:"batch"`
	Place    int64      `json:"place"`
	Source   string     `json:"source"` // as in staging.StoredReject
	Key      string     `json:"key"`
	Code     string     `json:"code"`
	Reason   string     `json:"reason"`
	At       time.Time  `json:"at" db:"rejected_at"`
	Resolved *time.Time `json:"resolved_at,omitempty" db:"resolved_at"`
	Whole    bool       `json:"whole"` // every row of the record was rejected
	Payload  Payload    `json:"payload" db:"-"`
}

// rejectRow is a row of the rejects table. Its Payload is empty: see [Handler.shown].
type rejectRow struct {
	Reject
	Length int64  // of the whole payload
	Begin  []byte // of the payload
}

// rejectQuery asks for a page of rejects.
type rejectQuery struct {
	before   int64 // an id; 0 begins with the newest
	code     string
	source   string
	since    time.Time
	resolved bool // also those that are resolved
}

// rejectsPage is a page of rejects, newest first.
type rejectsPage struct {
	rejects []rejectRow
	next    int64 // before of the next page; 0 at the end
}

// readRejects reads a page of rejects. It looks at no more than rejectsLooked ids.
func (l *ledger) readRejects(ctx context.Context, q rejectQuery) (out rejectsPage, err error) {
	if q.before == 0 {
		if err := l.pool.QueryRow(ctx, l.statements["last_reject"], unprepared).Scan(&q.before); err != nil {
			return out, l.explain("rejects", err)
		}
		q.before++
	}
	args := pgx.NamedArgs{"before": q.before, "looked": rejectsLooked, "code": q.code, "source": q.source, "resolved": q.resolved,
		"bytes": listBytes, "limit": rejectPage, "since": nil}
	if !q.since.IsZero() {
		args["since"] = q.since
	}
	if out.rejects, err = rows[rejectRow](ctx, l, "rejects", "rejects", args); err != nil {
		return out, err
	}
	switch {
	case len(out.rejects) == rejectPage:
		out.next = out.rejects[rejectPage-1].ID
	case q.before > rejectsLooked:
		out.next = q.before - rejectsLooked
	}
	return out, nil
}

func (l *ledger) rejectsOf(ctx context.Context, batch string) ([]rejectRow, error) {
	return rows[rejectRow](ctx, l, "rejects", "rejects_of_batch", pgx.NamedArgs{"batch": batch, "bytes": listBytes, "limit": rejectPage})
}

// readReject reads one reject with up to so many bytes of its payload; nil: there is none of that
// id.
func (l *ledger) readReject(ctx context.Context, id int64, bytes int) (*rejectRow, error) {
	found, err := rows[rejectRow](ctx, l, "rejects", "reject", pgx.NamedArgs{"id": id, "bytes": min(bytes, math.MaxInt32)})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// CodeCount counts the open rejects of one code and source.
type CodeCount struct {
	Code   string    `json:"code"`
	Source string    `json:"source"`
	Open   int64     `json:"open"`
	Last   time.Time `json:"last"`
}

// readCodes counts the open rejects by code, among the newest ones.
func (l *ledger) readCodes(ctx context.Context) ([]CodeCount, error) {
	return rows[CodeCount](ctx, l, "rejects by code", "codes", pgx.NamedArgs{"looked": rejectsLooked})
}

// Staged is what waits for promotion.
type Staged struct {
	Batches int64      `json:"batches"`
	Records int64      `json:"records"`
	Rows    int64      `json:"rows"`
	Oldest  *time.Time `json:"oldest,omitempty"`
	// Promoting reports that a promotion holds a side. Its batches are not counted.
	Promoting bool `json:"promoting"`
	// FailingSince is since when no promotion has succeeded; nil if the last one did.
	FailingSince *time.Time `json:"failing_since,omitempty"`
	Failures     int64      `json:"failures"`
	Failure      string     `json:"failure,omitempty"`
}

// readStaged counts what is staged.
func (l *ledger) readStaged(ctx context.Context) (s Staged, err error) {
	opened, err := l.open(ctx)
	if err != nil {
		return s, err
	}
	found, err := opened.Stats(ctx)
	if err != nil {
		return s, err
	}
	s = Staged{
		Batches: found.Batches, Records: found.Records, Rows: found.Rows, Promoting: found.Promoting,
		Failures: found.Failures, Failure: oneLine(found.Failure),
	}
	if !found.Oldest.IsZero() {
		s.Oldest = &found.Oldest
	}
	if !found.FailingSince.IsZero() {
		s.FailingSince = &found.FailingSince
	}
	return s, nil
}

// resolve marks rejects as resolved, in every table of their group. It returns how many were open.
func (l *ledger) resolve(ctx context.Context, ids ...int64) (int64, error) {
	opened, err := l.open(ctx)
	if err != nil {
		return 0, err
	}
	n, err := opened.Resolve(ctx, ids...)
	return int64(n), err
}

// resubmit pushes the record of a reject and resolves the reject. It returns false if it was not
// open.
func (l *ledger) resubmit(ctx context.Context, id int64, push func(context.Context) error) (bool, error) {
	opened, err := l.open(ctx)
	if err != nil {
		return false, err
	}
	return opened.Resubmit(ctx, id, push)
}

func isNoTable(err error) bool { return errors.Is(err, ErrNoTable) }

// openRejects returns the ids of the open rejects that a filter selects, of one part of the table.
func (l *ledger) openRejects(ctx context.Context, before int64, code, source string) ([]int64, error) {
	r, err := l.pool.Query(ctx, l.statements["open_rejects"], unprepared, pgx.NamedArgs{"before": before, "looked": rejectsLooked, "code": code, "source": source})
	if err != nil {
		return nil, l.explain("rejects", err)
	}
	ids, err := pgx.CollectRows(r, pgx.RowTo[int64])
	if err != nil {
		return nil, l.explain("rejects", err)
	}
	return ids, nil
}
