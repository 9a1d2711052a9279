package staging

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Void commits b as void, durably, or answers FatePromoted. After FateVoid no copy of b, however late, will be promoted.
// It waits for a promotion that is about to commit b, for at most Config.LockTimeout; an error leaves everything as it was.
func (t *Table[T]) Void(ctx context.Context, b Batch) (Fate, error) {
	if err := checkBatch(&b); err != nil {
		return 0, err
	}
	c, err := t.pool.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	defer t.rollback(c.Conn())
	f, err := t.void(ctx, c.Conn(), b)
	if err != nil {
		return 0, t.explain("voiding batch "+b.ID, err)
	}
	return f, nil
}

func (t *Table[T]) void(ctx context.Context, q *pgx.Conn, b Batch) (Fate, error) {
	if err := t.begin(ctx, q, true); err != nil {
		return 0, err
	}
	// The unique index waits for a promoter that has inserted the batch and not committed yet.
	if _, err := q.Exec(ctx, t.sql.void, b.ID, b.Root, b.Offset, b.Records, b.Attempt, b.Worker, b.Sealed); err != nil {
		return 0, err
	}
	if err := t.at("void inserted"); err != nil {
		return 0, err
	}
	var id, kind string
	if err := q.QueryRow(ctx, t.sql.kinds, []string{b.ID}).Scan(&id, &kind); err != nil {
		return 0, err
	}
	if err := commit(ctx, q); err != nil {
		return 0, err
	}
	return fateOf(kind), nil
}

// Fates says where batches are, in the order of ids. The registries are read first, then the ledger: a batch that is
// promoted in between is met in one of them.
func (t *Table[T]) Fates(ctx context.Context, ids []string) ([]Fate, error) {
	out := make([]Fate, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	for _, id := range ids {
		if _, ok := parseUUID(id); !ok {
			return nil, fmt.Errorf("staging: %w: batch id %q: must be a UUID", ErrLoad, id)
		}
	}
	known := make(map[string]Fate, len(ids))
	c, err := t.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	q := c.Conn()
	defer t.rollback(q)
	if err := t.begin(ctx, q, false); err != nil {
		return nil, t.explain("reading the fates of batches", err)
	}
	err = func() error {
		found, err := queryStrings(ctx, q, t.sql.registries, ids)
		if err != nil {
			return err
		}
		for _, id := range found {
			known[id] = FateStaged
		}
		if err := t.at("between registries and ledger"); err != nil {
			return err
		}
		rows, err := q.Query(ctx, t.sql.kinds, ids)
		if err != nil {
			return err
		}
		var id, kind string
		if _, err := pgx.ForEachRow(rows, []any{&id, &kind}, func() error {
			known[id] = fateOf(kind)
			return nil
		}); err != nil {
			return err
		}
		_, err = q.Exec(ctx, "commit")
		return err
	}()
	if err != nil {
		return nil, t.explain("reading the fates of batches", err)
	}
	for i, id := range ids {
		u, _ := parseUUID(id)
		out[i] = known[formatUUID(u)]
	}
	return out, nil
}

func formatUUID(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// Rejected reads, from the durable rejects table, the records of promoted batches whose claims may be given back:
// those of which every row was rejected. By batch id; Root and Place are filled.
func (t *Table[T]) Rejected(ctx context.Context, ids []string) (map[string][]Reject, error) {
	out := map[string][]Reject{}
	if len(ids) == 0 {
		return out, nil
	}
	rows, err := t.pool.Query(ctx, t.sql.rejected, ids)
	if err != nil {
		return nil, t.explain("reading rejects", err)
	}
	var batch string
	var r Reject
	var row *string
	_, err = pgx.ForEachRow(rows, []any{&batch, &r.Pos, &r.Key, &r.Code, &r.Reason, &r.Payload, &row, &r.Root, &r.Place}, func() error {
		x := r
		if row != nil {
			x.Payload = []byte(*row)
		} else {
			x.Payload = append([]byte(nil), r.Payload...)
		}
		out[batch] = append(out[batch], x)
		return nil
	})
	if err != nil {
		return nil, t.explain("reading rejects", err)
	}
	return out, nil
}

// Epoch returns the marker of the UNLOGGED tables; a new value says that a crash has emptied staging.
func (t *Table[T]) Epoch(ctx context.Context) (string, error) {
	c, err := t.pool.Acquire(ctx)
	if err != nil {
		return "", fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	e, err := t.mark(ctx, c.Conn())
	if err != nil {
		return "", t.explain("reading the epoch", err)
	}
	return e, nil
}

// mark reads the marker, and sets one if a crash has emptied its table.
func (t *Table[T]) mark(ctx context.Context, q *pgx.Conn) (epoch string, err error) {
	for range 3 {
		if err = q.QueryRow(ctx, t.sql.epoch).Scan(&epoch); err == nil || err != pgx.ErrNoRows {
			return epoch, err
		}
		if _, err = q.Exec(ctx, t.sql.setEpoch); err != nil {
			return "", err
		}
	}
	return "", err
}

// Books sums the ledger over the batches committed since.
func (t *Table[T]) Books(ctx context.Context, since time.Time) (Books, error) {
	var b Books
	err := t.pool.QueryRow(ctx, t.sql.books, since).Scan(&b.Batches, &b.Void, &b.Records, &b.Kept, &b.Duplicates, &b.Filtered, &b.Rejected,
		&b.Staged, &b.Rows, &b.Conflicts, &b.Ruled)
	if err != nil {
		return Books{}, t.explain("summing the ledger", err)
	}
	return b, nil
}

// Balanced says whether every record and every row is accounted for.
func (b Books) Balanced() bool {
	return b.Records == b.Kept+b.Duplicates+b.Filtered+b.Rejected && b.Staged == b.Rows+b.Conflicts+b.Ruled
}
