package staging

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Stats describes what waits for promotion, and whether promotions succeed.
type Stats struct {
	Batches int64     // staged and not promoted
	Records int64     // of these batches
	Rows    int64     // of these batches
	Oldest  time.Time // when the oldest of these batches was sealed; zero if there is none
	// Promoting is true while a promotion locks a side. The batches of that side are not counted.
	Promoting bool
	// Foreign counts staged batches that Promote of this table or group leaves: those of a group, of
	// another group, or of one table alone. A group counts them in each of its tables. While one is
	// left in a side, a promotion deletes its rows there and cannot truncate the side. Then the tables
	// grow, because autovacuum is off in them. Promote such batches with their own program, or use
	// [DiscardStaged].
	Foreign int64

	FailingSince time.Time // when promotions began to fail; zero if the last one succeeded
	Failures     int64     // failed promotions since then
	Failure      string    // the last error
}

// Stuck returns nil if the last promotion succeeded. Otherwise the error wraps [ErrStuck], and
// states since when promotions have been failing and why. Nothing is lost: the batches are staged.
func (s Stats) Stuck() error {
	if s.FailingSince.IsZero() {
		return nil
	}
	return fmt.Errorf("%w since %s (%d times, %d batches wait): %s", ErrStuck, s.FailingSince.UTC().Format(time.RFC3339), s.Failures, s.Batches, s.Failure)
}

// statsWait is how long Stats waits for a side that a promotion holds: longer than a promotion
// waits for it at a time.
const statsWait = 2 * lockSlice

// Stats counts what is staged. It reads two small tables and the control row. It does not wait for
// a promotion.
func (t *table) Stats(ctx context.Context) (Stats, error) { return t.statsBy(ctx, "") }

// statsBy counts what the group of a leader has staged, or everything without a leader.
func (t *table) statsBy(ctx context.Context, leader string) (Stats, error) {
	c, err := acquire(ctx, t.pool)
	if err != nil {
		return Stats{}, fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	var s Stats
	count := func(side side) error {
		err := t.statsOf(ctx, c.Conn(), &s, t.ofRegistry(side, "staged").with(args{"leader": leader}))
		if sqlState(err) == lockNotAvailable {
			s.Promoting = true
			return nil
		}
		return err
	}
	missing, err := eachSide(0, len(t.lane), count)
	if err != nil {
		return Stats{}, t.explain("counting what is staged", err)
	}
	r, err := t.inOwn(ctx, c.Conn(), reads, t.sql.failures.with(nil))
	if err != nil {
		return Stats{}, t.explain("reading "+t.control, err)
	}
	row, err := t.controlRow(r)
	if err != nil {
		return Stats{}, err
	}
	if err := t.gone(row.text("open"), missing); err != nil {
		return Stats{}, err
	}
	missing, err = eachSide(len(t.lane), len(row.text("open")), count) // lanes that are newer than this program
	if err != nil {
		return Stats{}, t.explain("counting what is staged", err)
	}
	if err := t.gone(row.text("open"), missing); err != nil {
		return Stats{}, err
	}
	s.Failures, s.Failure = row.int("failures"), row.text("failure")
	s.FailingSince = row.micros("failing_since")
	return s, nil
}

// statsOf adds one side.
func (t *table) statsOf(ctx context.Context, q *pgx.Conn, s *Stats, count call) error {
	defer t.rollback(q)
	res, err := send(ctx, q, append(t.reading(statsWait), count, do("commit"))...)
	if err != nil {
		return err
	}
	row := res[len(res)-2].row(0)
	s.Batches, s.Records, s.Rows = s.Batches+row.int("batches"), s.Records+row.int("records"), s.Rows+row.int("rows")
	s.Foreign += row.int("foreign_batches")
	if oldest := row.micros("oldest"); !oldest.IsZero() && (s.Oldest.IsZero() || oldest.Before(s.Oldest)) {
		s.Oldest = oldest
	}
	return nil
}

// noteWait bounds what a failed promotion spends on noting its failure.
const noteWait = 5 * time.Second

// noteOutcome records that a promotion has failed and why, or that one has succeeded after
// failures, for [Table.Stats] of every program. An error of its own is ignored.
func (t *table) noteOutcome(ctx context.Context, lane int, outcome error) {
	note := t.sql.lane[lane].noteSuccess.with(nil)
	switch {
	case outcome == nil && !t.lane[lane].failing.Load():
		return
	case outcome != nil && ctx.Err() != nil: // the caller has stopped it
		return
	case outcome != nil:
		note = t.sql.lane[lane].noteFailure.with(args{"failure": cutReason(plain(outcome.Error()))})
	}
	ctx, cancel := context.WithTimeout(ctx, noteWait)
	defer cancel()
	if _, err := t.exec(ctx, writes, note); err == nil {
		t.lane[lane].failing.Store(outcome != nil)
	}
}
