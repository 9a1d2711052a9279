package staging

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Ledger gives access to the companion tables of a target: the ledger, the rejects, and what is
// staged. A program that operates pipelines opens it by the target's name and does not know the
// type of its rows. It creates nothing. To read, SELECT on the companion tables is enough
// ([RoleReader]). A *[Finder] finds single records. This type is concurrency safe.
type Ledger struct{ t *table }

// OpenLedger returns the Ledger of a target. The target must exist, and so must the tables that
// [New] creates for it: otherwise the error is [ErrNoTarget] or [ErrMissing]. OpenLedger never
// closes the pool.
func OpenLedger(ctx context.Context, pool *pgxpool.Pool, target string) (*Ledger, error) {
	t, err := companions(ctx, pool, target, func(t *table, q *pgx.Conn) error {
		missing, err := t.missingTables(ctx, q)
		if err == nil && len(missing) > 0 {
			err = fmt.Errorf("%w: %s", ErrMissing, strings.Join(missing, ", "))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Ledger{t}, nil
}

// Name returns the target's quoted name with its schema.
func (l *Ledger) Name() string { return l.t.target }

// Clock does what [Table.Clock] does.
func (l *Ledger) Clock(ctx context.Context) (time.Time, error) { return l.t.Clock(ctx) }

// Books does what [Table.Books] does.
func (l *Ledger) Books(ctx context.Context) (Books, error) { return l.t.Books(ctx) }

// BooksSince does what [Table.BooksSince] does.
func (l *Ledger) BooksSince(ctx context.Context, since time.Time) (Books, error) {
	return l.t.BooksSince(ctx, since)
}

// BooksBetween sums the ledger over the batches committed since a time and before another one.
func (l *Ledger) BooksBetween(ctx context.Context, since, before time.Time) (Books, error) {
	return l.t.booksBetween(ctx, boundText(since), boundText(before))
}

// StageCounts does what [Table.StageCounts] does.
func (l *Ledger) StageCounts(ctx context.Context, since time.Time) ([]StageCount, error) {
	return l.t.StageCounts(ctx, since)
}

// CodeCounts does what [Table.CodeCounts] does.
func (l *Ledger) CodeCounts(ctx context.Context) ([]CodeCount, error) { return l.t.CodeCounts(ctx) }

// Stats does what [Table.Stats] does. It counts the batches of groups, too.
func (l *Ledger) Stats(ctx context.Context) (Stats, error) { return l.t.Stats(ctx) }

// Fates returns FatePromoted or FateVoid for batches that are in the ledger, and FateUnknown for
// all others, in the order of ids. Unlike [Table.Fates] it does not read what is staged, so it does
// not wait for a promotion.
func (l *Ledger) Fates(ctx context.Context, ids []string) ([]Fate, error) {
	out := make([]Fate, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	plain := make([]string, len(ids))
	for i, id := range ids {
		u, ok := parseUUID(id)
		if !ok {
			return nil, fmt.Errorf("%w: batch id %q, must be a UUID", ErrLoad, id)
		}
		plain[i] = formatUUID(u)
	}
	conn, err := l.t.begin(ctx, reads)
	if err != nil {
		return nil, l.t.explain("reading the fates of batches", err)
	}
	defer conn.Release()
	defer l.t.rollback(conn.Conn())
	r, err := sendOne(ctx, conn.Conn(), l.t.sql.ledgerKinds.with(args{"ids": array(plain)}))
	if err != nil {
		return nil, l.t.explain("reading the fates of batches", err)
	}
	known := fatesOf(r)
	for i, id := range plain {
		out[i] = known[id]
	}
	return out, nil
}

// Rejects does what [Table.Rejects] does.
func (l *Ledger) Rejects(ctx context.Context, f RejectFilter) ([]StoredReject, error) {
	return l.t.Rejects(ctx, f)
}

// Resolve does what [Table.Resolve] does.
func (l *Ledger) Resolve(ctx context.Context, ids ...int64) (int, error) {
	return l.t.Resolve(ctx, ids...)
}

// Resubmit calls push, which pushes the record of a reject again, and resolves the reject as
// [Table.Resolve] does. It returns false, and does not call push, if the reject is not open. The
// reject is locked while push runs, so of two calls at once one pushes the record. If push fails,
// or the role may not resolve the reject, the reject stays open; in the second case push is not
// called. If the commit fails after push, the record may come twice: its dedup id or the target's
// key absorbs the second copy.
func (l *Ledger) Resubmit(ctx context.Context, id int64, push func(context.Context) error) (bool, error) {
	fail := func(err error) (bool, error) {
		return false, l.t.explain("resolving a reject", err)
	}
	c, err := l.t.begin(ctx, durably)
	if err != nil {
		return fail(err)
	}
	defer c.Release()
	defer l.t.rollback(c.Conn())
	n, err := l.t.resolve(ctx, c.Conn(), []int64{id})
	if err != nil {
		return fail(err)
	}
	if n == 0 {
		return false, nil
	}
	if err := push(ctx); err != nil {
		return false, err
	}
	if err := l.t.commit(ctx, c.Conn(), ""); err != nil {
		return fail(fmt.Errorf("the record is pushed, but the reject may still be open: %w", err))
	}
	return true, nil
}

// Prune does what [Table.Prune] does.
func (l *Ledger) Prune(ctx context.Context, before time.Time) (int, error) {
	return l.t.Prune(ctx, before)
}
