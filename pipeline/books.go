package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Books account for every record, in each store alone and between the two.
type Books struct {
	// At is when the books were read.
	At       time.Time
	Redis    queue.Stats
	Postgres staging.Books
	// Unacked is the number of records that are committed in Postgres and still in flight in Redis.
	// Their acknowledgement is on its way.
	Unacked int64
	// Rejects counts all rejects of the table by code, most open ones first. Nil: the table has no
	// method CodeCounts.
	Rejects []staging.CodeCount
	// Tables are the books of each table: one, or those of every member of a staging.TableGroup. They
	// are read a moment after Postgres. Nil: the table has neither BooksByTable nor Name.
	Tables []staging.TableBooks
	// Stages are the stages of the chain in their order: how many records came to each, and what it
	// dropped as duplicates, filtered and rejected. They are summed in the ledger, a moment after
	// Postgres, over the batches committed since the given time: batches in flight are not in them,
	// and no batch is in them twice. Rejects that the stages do not have were found when the rows were
	// staged. A chain that judges copies ([CopiesJudged]) drops them at its end, under the name
	// "copies". Nil: the table has no method StageCounts.
	Stages []staging.StageCount
	// Recent is what Postgres has committed in the last minute, per second. The minute is that of the
	// server's clock, by which the ledger is stamped, if the table has the method Clock. The age of
	// the oldest record in flight is Redis.OldestAge, by the clock of Redis.
	Recent Throughput
	// Stalls are the steps that fail again and again, as the programs report them through
	// Flow.Signals, and batches that no promoter promotes. See [Books.Stuck].
	Stalls []Stall
	// Quiet reports that the two stores can be compared: no worker held a batch, nothing moved
	// while the books were read, and the whole ledger was summed. The comparison needs a table that
	// only this queue feeds, and a ledger that had no rejects replayed into it.
	Quiet bool
}

// Books reads the books of both stores. The sums of each store are exact at any time. The stores
// are compared only if nothing moved in the meantime ([Books.Quiet]).
func (f Flow[T]) Books(ctx context.Context) (Books, error) {
	return f.BooksSince(ctx, time.Time{})
}

// BooksSince is [Flow.Books] with the sums of Postgres over the batches committed since a time
// only, which costs less with a large ledger. The two stores are then not compared, unless since is
// the zero time. The books of Redis are always whole.
func (f Flow[T]) BooksSince(ctx context.Context, since time.Time) (Books, error) {
	f, err := f.validate()
	if err != nil {
		return Books{}, err
	}
	before, err := f.Queue.Stats(ctx)
	if err != nil {
		return Books{}, queueBooksError(err)
	}
	committed, err := f.Table.BooksSince(ctx, since)
	if err != nil {
		return Books{}, tableBooksError(err)
	}
	handed, err := f.Queue.HandedOff(ctx)
	if err != nil {
		return Books{}, queueBooksError(err)
	}
	ids := make([]string, len(handed))
	for i, h := range handed {
		ids[i] = h.ID
	}
	fates, err := f.Table.Fates(ctx, ids)
	if err != nil {
		return Books{}, tableBooksError(err)
	}
	b := Books{At: time.Now()}
	for i, fate := range fates {
		if fate == staging.FatePromoted {
			b.Unacked += int64(handed[i].Records)
		}
	}
	if b.Stalls, err = f.stalls(ctx, handed, fates, before.At); err != nil {
		return Books{}, err
	}
	if b.Postgres, err = f.Table.BooksSince(ctx, since); err != nil {
		return Books{}, tableBooksError(err)
	}
	if b.Redis, err = f.Queue.Stats(ctx); err != nil {
		return Books{}, queueBooksError(err)
	}
	if err := f.details(ctx, &b, since); err != nil {
		return Books{}, tableBooksError(err)
	}
	still := before.Taken == b.Redis.Taken && before.Acked == b.Redis.Acked && before.HandedOff == b.Redis.HandedOff && committed == b.Postgres
	b.Quiet = still && b.Redis.LeasedBatches == 0 && b.Redis.WaitingBatches == 0 && since.IsZero() && !b.Postgres.Pruned
	return b, nil
}

// recent is the span of Books.Recent.
const recent = time.Minute

// rejectCounter is a Table that counts its rejects by code.
type rejectCounter interface {
	CodeCounts(ctx context.Context) ([]staging.CodeCount, error)
}

// Optional methods of a Table, for the details of the books. *[staging.TableGroup] has all of them,
// *[staging.Table] all but BooksByTable.
type (
	tableCounter interface {
		BooksByTable(ctx context.Context, since time.Time) ([]staging.TableBooks, error)
	}
	stageCounter interface {
		StageCounts(ctx context.Context, since time.Time) ([]staging.StageCount, error)
	}
	clocked interface {
		Clock(ctx context.Context) (time.Time, error)
	}
)

// details adds what the books do not have to balance.
func (f Flow[T]) details(ctx context.Context, b *Books, since time.Time) (err error) {
	if t, ok := f.Table.(rejectCounter); ok {
		if b.Rejects, err = t.CodeCounts(ctx); err != nil {
			return err
		}
		slices.SortStableFunc(b.Rejects, func(a, b staging.CodeCount) int { return cmp.Compare(b.Open, a.Open) })
	}
	if t, ok := f.Table.(stageCounter); ok {
		if b.Stages, err = t.StageCounts(ctx, since); err != nil {
			return err
		}
	}
	switch t := f.Table.(type) {
	case tableCounter:
		if b.Tables, err = t.BooksByTable(ctx, since); err != nil {
			return err
		}
	case interface{ Name() string }:
		b.Tables = []staging.TableBooks{{Table: t.Name(), Books: b.Postgres}}
	}
	now := b.At
	if t, ok := f.Table.(clocked); ok {
		if now, err = t.Clock(ctx); err != nil {
			return err
		}
	}
	last, err := f.Table.BooksSince(ctx, now.Add(-recent))
	if err != nil {
		return err
	}
	perSecond := func(n int64) float64 { return float64(n) / recent.Seconds() }
	b.Recent = Throughput{Accounted: perSecond(last.Records), Rows: perSecond(last.Rows)}
	return nil
}

// stalls returns what the programs report, and the oldest batch that should have been promoted long
// ago. now is the time by the clock of the queue; zero: it has the clock of this program.
func (f Flow[T]) stalls(ctx context.Context, handed []queue.HandedOff, fates []staging.Fate, now time.Time) (out []Stall, err error) {
	if f.Signals != nil {
		if out, err = f.Signals.reported(ctx); err != nil {
			return nil, err
		}
	}
	if now.IsZero() {
		now = time.Now()
	}
	waiting := Stall{Step: "waiting for promotion", Reason: "no promoter runs, or its promotions fail"}
	for i, h := range handed {
		if fates[i] != staging.FatePromoted && now.Sub(h.Since) > StuckAfter && (waiting.Batch == "" || h.Since.Before(waiting.Since)) {
			waiting.Batch, waiting.Since = h.ID, h.Since
		}
	}
	if waiting.Batch != "" {
		out = append(out, waiting)
	}
	return out, nil
}

func queueBooksError(err error) error {
	return fmt.Errorf("pipeline: could not read the books of the queue: %w", err)
}

func tableBooksError(err error) error {
	return fmt.Errorf("pipeline: could not read the books of the table: %w", err)
}

// BookLine is one equation of the books.
type BookLine struct {
	Name        string
	Left, Right int64
	Sum         string // the equation with its figures
}

// Imbalance is the difference between the two sides, 0 if the line balances.
func (l BookLine) Imbalance() int64 { return l.Left - l.Right }

// Lines returns the equations of the books.
func (b Books) Lines() []BookLine {
	r, p := b.Redis, b.Postgres
	redis := fmt.Sprintf("taken %d = acked %d + in flight %d + dead %d + discarded %d", r.Taken, r.Acked, r.InFlight, r.Dead, r.Discarded)
	if r.Lost != 0 { // only after a repair
		redis += fmt.Sprintf(" + lost %d", r.Lost)
	}
	lines := []BookLine{
		{"Redis", r.Taken, r.Acked + r.InFlight + r.Dead + r.Discarded + r.Lost, redis},
		{"Postgres", p.Records, p.Kept + p.Duplicates + p.Filtered + p.Rejected,
			fmt.Sprintf("records %d = kept %d + duplicates %d + filtered %d + rejected %d", p.Records, p.Kept, p.Duplicates, p.Filtered, p.Rejected)},
		{"rows", p.Staged, p.Rows + p.Conflicts + p.RejectedByRule,
			fmt.Sprintf("rows of the kept %d = promoted %d + conflicts %d + rejected by a rule %d", p.Staged, p.Rows, p.Conflicts, p.RejectedByRule)},
	}
	if b.Quiet {
		lines = append(lines, BookLine{"between", p.Records, r.Acked + b.Unacked,
			fmt.Sprintf("committed %d = acked %d + committed and not yet acked %d", p.Records, r.Acked, b.Unacked)})
	}
	return lines
}

// Balanced returns nil if every line of the books balances. Otherwise the error wraps
// [ErrImbalance] and names each line that does not, with the difference.
func (b Books) Balanced() error {
	var off []string
	for _, l := range b.Lines() {
		if l.Imbalance() != 0 {
			off = append(off, fmt.Sprintf("%s is off by %d: %s", l.Name, l.Imbalance(), l.Sum))
		}
	}
	if len(off) > 0 {
		return fmt.Errorf("%w: %s", ErrImbalance, strings.Join(off, "; "))
	}
	return nil
}

// Throughput holds the rates of a pipeline between two readings of its books, per second.
type Throughput struct {
	Taken     float64 // records leased for the first time; not in Books.Recent
	Accounted float64 // records acknowledged or buried; in Books.Recent those committed
	Rows      float64 // rows promoted
}

// Throughput returns the rates since an earlier reading. Both must sum the same part of the ledger.
func (b Books) Throughput(earlier Books) Throughput {
	seconds := b.At.Sub(earlier.At).Seconds()
	if seconds <= 0 {
		return Throughput{}
	}
	done := func(b Books) int64 { return b.Redis.Acked + b.Redis.Dead + b.Redis.Discarded }
	return Throughput{
		Taken:     float64(b.Redis.Taken-earlier.Redis.Taken) / seconds,
		Accounted: float64(done(b)-done(earlier)) / seconds,
		Rows:      float64(b.Postgres.Rows-earlier.Postgres.Rows) / seconds,
	}
}

// Stuck returns nil if the pipeline makes progress. Otherwise nothing is lost, but a step fails
// again and again: the error wraps [ErrStuck] and names the step, the time since when it fails, and
// the reason. The report of a program that was killed meanwhile stays for up to ten minutes: see
// [Stall].Reported.
func (b Books) Stuck() error {
	if len(b.Stalls) == 0 {
		return nil
	}
	texts := make([]string, len(b.Stalls))
	for i, s := range b.Stalls {
		texts[i] = s.String()
	}
	return fmt.Errorf("%w: %s", ErrStuck, strings.Join(texts, "; "))
}
