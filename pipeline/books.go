package pipeline

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Books say what became of every record, each store by itself and one against the other.
type Books struct {
	Redis    queue.Stats
	Postgres staging.Books
	// Unacked is the number of records that are committed in Postgres and still in flight in Redis: their acknowledgement is on its way.
	Unacked int64
	// Quiet says that the two stores can be compared: no batch was with a worker and nothing moved while the books were read, and all of the
	// ledger was summed. It takes a table that only this queue feeds, and a ledger that was neither pruned nor had rejects replayed into it.
	Quiet bool
}

// Books reads the books of both stores; since bounds the part of the ledger that is summed (zero: all of it). Each store's own
// sum is exact at any time. The comparison between them is made when nothing moved meanwhile ([Books.Quiet]).
func (f Flow[T]) Books(ctx context.Context, since time.Time) (Books, error) {
	if err := f.check(); err != nil {
		return Books{}, err
	}
	before, err := f.Queue.Stats(ctx)
	if err != nil {
		return Books{}, fmt.Errorf("pipeline: the queue's books: %w", err)
	}
	committed, err := f.Table.Books(ctx, since)
	if err != nil {
		return Books{}, fmt.Errorf("pipeline: the table's books: %w", err)
	}
	handed, err := f.Queue.HandedOff(ctx)
	if err != nil {
		return Books{}, fmt.Errorf("pipeline: the queue's books: %w", err)
	}
	ids := make([]string, len(handed))
	for i, h := range handed {
		ids[i] = h.ID
	}
	fates, err := f.Table.Fates(ctx, ids)
	if err != nil {
		return Books{}, fmt.Errorf("pipeline: the table's books: %w", err)
	}
	b := Books{}
	for i, fate := range fates {
		if fate == staging.FatePromoted {
			b.Unacked += int64(handed[i].Records)
		}
	}
	if b.Postgres, err = f.Table.Books(ctx, since); err != nil {
		return Books{}, fmt.Errorf("pipeline: the table's books: %w", err)
	}
	if b.Redis, err = f.Queue.Stats(ctx); err != nil {
		return Books{}, fmt.Errorf("pipeline: the queue's books: %w", err)
	}
	b.Quiet = before.Taken == b.Redis.Taken && before.Acked == b.Redis.Acked && before.HandedOff == b.Redis.HandedOff && committed == b.Postgres &&
		b.Redis.LeasedBatches == 0 && b.Redis.WaitingBatches == 0 && since.IsZero()
	return b, nil
}

// Line is one sum of the books.
type Line struct {
	Name        string
	Left, Right int64
	Sum         string // the right side, written out
}

// Off is by how much the line is off: 0.
func (l Line) Imbalance() int64 { return l.Left - l.Right }

// Lines are the sums of the books.
func (b Books) Lines() []Line {
	r, p := b.Redis, b.Postgres
	lines := []Line{
		{"Redis", r.Taken, r.Acked + r.InFlight + r.Dead + r.Discarded,
			fmt.Sprintf("taken %d = acked %d + in flight %d + dead %d + dropped %d", r.Taken, r.Acked, r.InFlight, r.Dead, r.Discarded)},
		{"Postgres", p.Records, p.Kept + p.Duplicates + p.Filtered + p.Rejected,
			fmt.Sprintf("records %d = kept %d + duplicates %d + filtered %d + rejected %d", p.Records, p.Kept, p.Duplicates, p.Filtered, p.Rejected)},
		{"rows", p.Staged, p.Rows + p.Conflicts + p.RejectedByRule,
			fmt.Sprintf("rows of the kept %d = promoted %d + conflicts %d + rejected by a rule %d", p.Staged, p.Rows, p.Conflicts, p.RejectedByRule)},
	}
	if b.Quiet {
		lines = append(lines, Line{"between", p.Records, r.Acked + b.Unacked,
			fmt.Sprintf("committed %d = acked %d + committed and not yet acked %d", p.Records, r.Acked, b.Unacked)})
	}
	return lines
}

// Balanced is nil if every line of the books balances; otherwise it wraps [ErrUnbalanced] and names the lines that are off.
func (b Books) Balanced() error {
	for _, l := range b.Lines() {
		if l.Imbalance() != 0 {
			return fmt.Errorf("%w: %s is off by %d: %s", ErrUnbalanced, l.Name, l.Imbalance(), l.Sum)
		}
	}
	return nil
}
