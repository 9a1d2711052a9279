package staging

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// choice is the side that a promotion takes.
type choice struct {
	s     side // noSide: nothing is staged
	more  bool // the other side, or another lane, holds batches too
	epoch string
}

// choose finds the side to promote. In a lane it is the sealed side if that is not empty, otherwise
// the open one, which it seals first in a transaction of its own. A worker with an old hint may
// still copy into the sealed side. The next promotion finds those rows.
func (l *laneTarget) choose(ctx context.Context, q *pgx.Conn) (choice, error) {
	if l.lane < 0 && len(l.table.lane) > 1 {
		return l.chooseFree(ctx, q)
	}
	lane := max(l.lane, 0)
	f, err := l.readLane(ctx, q, lane, false)
	if err != nil {
		return choice{s: noSide}, err
	}
	return l.seal(ctx, q, f)
}

// fullSides are the sides of a lane that hold batches.
type fullSides struct {
	open  side
	full  [2]bool // the open side, the sealed one
	epoch string
}

// readLane reads which sides of a lane hold batches. It waits for a promoter at work there, or
// fails at once with 55P03.
func (t *table) readLane(ctx context.Context, q *pgx.Conn, lane int, nowait bool) (f fullSides, err error) {
	sql := &t.sql.lane[lane]
	run := t.beginning(reads)
	if nowait {
		run = append(run, sql.share.with(nil))
	}
	res, err := send(ctx, q, append(run, sql.fullSides.with(args{"leader": ""}), t.sql.readEpoch.with(nil), do("commit"))...)
	if isGone(err, lane) {
		return t.readGone(ctx, q, lane)
	}
	if err != nil {
		return f, err
	}
	res = res[len(res)-3:]
	row, err := t.controlRow(res[0])
	if err != nil {
		return f, err
	}
	if err := t.outgrown(row.text("open")); err != nil {
		return f, err
	}
	t.lane[lane].failing.Store(row.bool("failing"))
	f.open = sideOf(row.text("open"), lane)
	f.full = [2]bool{row.bool("full_a"), row.bool("full_b")}
	if f.open%2 == sideB {
		f.full[0], f.full[1] = f.full[1], f.full[0]
	}
	if e := res[1].texts("epoch"); len(e) > 0 {
		f.epoch = e[0]
		return f, nil
	}
	f.epoch, err = t.mark(ctx, q)
	return f, err
}

// readGone is readLane for a lane whose tables are not there.
func (t *table) readGone(ctx context.Context, q *pgx.Conn, lane int) (f fullSides, err error) {
	t.rollback(q)
	r, err := t.inOwn(ctx, q, reads, t.sql.readControl.with(nil))
	if err != nil {
		return f, err
	}
	open, err := t.openSides(r)
	if err != nil {
		return f, err
	}
	if err := t.gone(open, []int{lane}); err != nil {
		return f, err
	}
	t.lane[lane].failing.Store(false)
	f.open = side(2 * lane)
	f.epoch, err = t.mark(ctx, q)
	return f, err
}

// seal returns the side of a lane to promote, and opens the other one.
func (t *table) seal(ctx context.Context, q *pgx.Conn, f fullSides) (choice, error) {
	switch {
	case f.full[1]:
		return choice{f.open.other(), f.full[0], f.epoch}, nil
	case !f.full[0]:
		return choice{noSide, false, f.epoch}, nil
	}
	to := f.open.other()
	t.lane[to.lane()].hint.Store(int32(to))
	if _, err := t.inOwn(ctx, q, writes, t.sql.lane[to.lane()].flip.with(args{"to": to.letter(), "from": f.open.letter()})); err != nil {
		return choice{s: noSide}, err
	}
	return choice{f.open, false, f.epoch}, t.at("after flip")
}

// chooseFree finds a lane that holds batches and where no promoter is at work. If all that hold
// batches have one, it waits for up to Config.LockTimeout.
func (l *laneTarget) chooseFree(ctx context.Context, q *pgx.Conn) (choice, error) {
	pause := firstPause
	for deadline := time.Now().Add(l.cfg.LockTimeout); ; {
		var found []fullSides
		var epoch string
		var busy error
		for _, lane := range l.idlest() {
			f, err := l.readLane(ctx, q, lane, true)
			switch {
			case sqlState(err) == lockNotAvailable:
				busy, l.last = err, lane // where the promotion fails, if it does
				l.rollback(q)
			case err != nil:
				l.last = lane
				return choice{s: noSide}, err
			case f.full[0] || f.full[1]:
				found = append(found, f)
			default:
				epoch = f.epoch
				if l.table.lane[lane].failing.Load() { // what failed there is gone
					if _, err := l.inOwn(ctx, q, writes, l.sql.lane[lane].noteSuccess.with(nil)); err != nil {
						return choice{s: noSide}, err
					}
					l.table.lane[lane].failing.Store(false)
				}
			}
		}
		switch {
		case len(found) > 0:
			c, err := l.seal(ctx, q, found[0])
			c.more = c.more || len(found) > 1
			return c, err
		case busy == nil:
			return choice{s: noSide, epoch: epoch}, nil
		case time.Until(deadline) <= 0:
			return choice{s: noSide}, busy
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return choice{s: noSide}, ctx.Err()
		}
		pause = min(pause*2, lastPause)
	}
}
