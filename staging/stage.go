package staging

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

// lastYear is the last whole year that a timestamp of Postgres holds.
const lastYear = 294_275

// checkBatch fills in Root and Sealed. A batch has at least the given number of records.
func checkBatch(b *Batch, least int) error {
	id, ok := parseUUID(b.ID)
	if !ok {
		return fmt.Errorf("%w: Batch.ID is %q, must be a UUID", ErrLoad, b.ID)
	}
	if b.Root == "" {
		b.Root = b.ID
	}
	if _, ok := parseUUID(b.Root); !ok {
		return fmt.Errorf("%w: Batch.Root is %q, must be a UUID or empty", ErrLoad, b.Root)
	}
	if b.Records < least || b.Offset < 0 || b.Records > 1<<30 || b.Offset > 1<<30 {
		return fmt.Errorf("%w: Batch.Records is %d, Offset %d, must be %d to 2^30, and 0 to 2^30", ErrLoad, b.Records, b.Offset, least)
	}
	if b.Sealed.IsZero() {
		if id[6]>>4 != 7 {
			return fmt.Errorf("%w: Batch.Sealed is zero, and Batch.ID %q has no time in it", ErrLoad, b.ID)
		}
		ms := int64(id[0])<<40 | int64(id[1])<<32 | int64(id[2])<<24 | int64(id[3])<<16 | int64(id[4])<<8 | int64(id[5])
		b.Sealed = time.UnixMilli(ms)
	}
	if y := b.Sealed.UTC().Year(); y < 1 || y > lastYear {
		return fmt.Errorf("%w: Batch.Sealed is %v, must be in the years 1 to %d", ErrLoad, b.Sealed, lastYear)
	}
	b.Worker = plain(b.Worker)
	return nil
}

// check returns an error about what is wrong with a load, before anything is written.
func (l *Load[T]) check(spans []span) error {
	if err := checkBatch(&l.Batch, 1); err != nil {
		return err
	}
	if l.Pos != nil && len(l.Pos) != len(l.Rows) {
		return fmt.Errorf("%w: %d rows and %d positions", ErrLoad, len(l.Rows), len(l.Pos))
	}
	kept := len(l.Rows)
	if l.Pos != nil {
		kept = len(spans)
		if kept > 0 && (spans[0].pos < 0 || int(spans[kept-1].pos) >= l.Batch.Records) {
			return fmt.Errorf("%w: a row has position %d or %d in a batch of %d records", ErrLoad, spans[0].pos, spans[kept-1].pos, l.Batch.Records)
		}
	}
	most := l.Batch.Records // the sum of greater numbers could overflow
	if l.Duplicates < 0 || l.Filtered < 0 || l.Duplicates > most || l.Filtered > most || kept+l.Duplicates+l.Filtered+len(l.Rejects) != l.Batch.Records {
		return fmt.Errorf("%w: batch %s: %d records are not %d kept + %d duplicates + %d filtered + %d rejected",
			ErrLoad, l.Batch.ID, l.Batch.Records, kept, l.Duplicates, l.Filtered, len(l.Rejects))
	}
	for _, s := range l.Stages {
		if min(s.Duplicates, s.Filtered, s.Rejected) < 0 || max(s.Duplicates, s.Filtered, s.Rejected) > most {
			return fmt.Errorf("%w: batch %s: stage %q dropped %d duplicates, %d filtered and %d rejected, must be 0 to %d, the records of the batch",
				ErrLoad, l.Batch.ID, s.Stage, s.Duplicates, s.Filtered, s.Rejected, most)
		}
	}
	if len(l.Rejects) > 0 {
		taken := make(map[int32]struct{}, len(l.Rejects))
		for _, r := range l.Rejects {
			_, twice := taken[r.Pos]
			if twice || r.Pos < 0 || int(r.Pos) >= l.Batch.Records {
				return fmt.Errorf("%w: batch %s: a reject has position %d, must be 0 to %d, each once", ErrLoad, l.Batch.ID, r.Pos, l.Batch.Records-1)
			}
			taken[r.Pos] = struct{}{}
		}
		for _, s := range spans {
			if _, both := taken[s.pos]; both {
				return fmt.Errorf("%w: batch %s: record %d has rows and is rejected", ErrLoad, l.Batch.ID, s.pos)
			}
		}
		if l.Pos == nil {
			for p := range taken {
				if int(p) < kept {
					return fmt.Errorf("%w: batch %s: record %d has a row (Pos is nil) and is rejected", ErrLoad, l.Batch.ID, p)
				}
			}
		}
	}
	return nil
}

// Stage writes a batch into staging. It is idempotent by batch id: the Outcome states where the
// batch is. An error leaves nothing behind, unless it wraps [ErrUnknown]: then call Stage again. A
// call takes four round trips, two of them the COPY.
func (t *Table[T]) Stage(ctx context.Context, l Load[T]) (Outcome, error) {
	spans, order := l.records()
	if err := l.check(spans); err != nil {
		return 0, err
	}
	how := t.cutOffs.manner(ctx, l.Batch.ID)
	for try := 0; ; try++ {
		var out Outcome
		err := retryIdle(ctx, t.pool, func() (err error) {
			out, err = t.stageOnce(ctx, &l, spans, order, try, how)
			return err
		})
		t.cutOffs.learn(ctx, l.Batch.ID, err)
		switch {
		case err == nil:
			return out, nil
		case try >= 5 || ctx.Err() != nil:
		case errors.Is(err, errRetry), len(t.lane) > 1 && sqlState(err) == undefinedTable: // the open side was the other one, or the lane is retired
			continue
		case !how.careful && isData(err):
			how.careful = true
			continue
		case sqlState(err) == deadlockDetected || sqlState(err) == serializationFailure:
			continue
		case errors.Is(err, ErrUnknown) && !errors.Is(err, ErrNotDurable) && try == 0:
			continue // the registry or the ledger knows how the commit ended
		}
		if errors.Is(err, ErrTooOld) || errors.Is(err, ErrConfig) || errors.Is(err, ErrLoad) || errors.Is(err, ErrDrift) {
			return 0, err
		}
		doing := "staging batch " + l.Batch.ID
		return 0, t.explain(doing, err)
	}
}

var errRetry = errors.New("read the hint again")

func (t *Table[T]) stageOnce(ctx context.Context, l *Load[T], spans []span, order []int, try int, how copyHow) (Outcome, error) {
	c, err := pgschema.Acquire(ctx, t.pool)
	if err != nil {
		return 0, err
	}
	defer c.Release()
	q := c.Conn()
	if try > 0 {
		control, err := t.inOwn(ctx, q, reads, t.sql.readControl.with(nil))
		if err != nil {
			return 0, err
		}
		open, err := t.openSides(control)
		if err != nil {
			return 0, err
		}
		t.setHint(open)
	}
	defer t.rollback(q)
	// The first try does not wait. A locked side is the one that a promoter works on: the hint is
	// old.
	out, err := t.stageIn(ctx, q, l, spans, order, stageHow{begin: true, nowait: try == 0, copyHow: how})
	if err == nil && out != OutcomeStaged {
		err = t.confirmOutcome(ctx, q, out)
	}
	if err != nil || out != OutcomeStaged {
		return out, err
	}
	if err := t.at("before commit"); err != nil {
		return 0, err
	}
	if err := t.commit(ctx, q, ""); err != nil {
		return 0, err
	}
	return OutcomeStaged, t.at("after commit")
}

// setHint remembers which side of each lane is open, and how many lanes take batches.
func (t *table) setHint(open string) {
	t.used.Store(int32(usedLanes(open)))
	for l := range t.lane {
		t.lane[l].hint.Store(int32(sideOf(open, l)))
	}
}

type stageHow struct {
	begin, nowait bool
	copyHow
}

// stageIn does the work inside a transaction, which it begins if asked to. After any outcome but
// OutcomeStaged the caller must roll back.
func (t *Table[T]) stageIn(ctx context.Context, q *pgx.Conn, l *Load[T], spans []span, order []int, how stageHow) (Outcome, error) {
	lane := t.laneOf(l.Batch.ID)
	s := side(t.lane[lane].hint.Load())
	kept := len(spans)
	if l.Pos == nil {
		kept = len(l.Rows)
	}
	sql := &t.sql.side[s]
	var run []call
	if how.begin {
		run = append(append(run, t.beginning(writes)...), untilDeadline(ctx))
	}
	lock := do(sql.stageLock.text)
	if how.nowait {
		lock.sql += " NOWAIT"
	}
	run = append(run, lock) // first: a change of the columns that held the lock is done when the columns are read
	looked := len(run)
	b := &l.Batch
	run = append(run, sql.stageLook.with(args{"id": b.ID, "sealed": timeText(b.Sealed)}))
	if !how.begin {
		run = append(run, sql.stageFields.with(nil))
	}
	run = append(run, sql.stageRegister.with(b.entry(counts{kept: kept, dups: l.Duplicates, filtered: l.Filtered, rejected: len(l.Rejects), rows: len(l.Rows)}, "", stagesText(l.Stages))))
	res, err := send(ctx, q, run...)
	if err != nil {
		if how.nowait && len(res) < looked && sqlState(err) == lockNotAvailable {
			return 0, errRetry
		}
		return 0, err
	}
	registered := res[len(res)-1]
	seen, err := t.controlRow(res[looked])
	if err != nil {
		return 0, err
	}
	t.setHint(seen.text("open"))
	switch {
	case seen.text("kind") == "void":
		return OutcomeAlreadyVoid, nil
	case !seen.null("kind"):
		return OutcomeAlreadyPromoted, nil
	case seen.bool("too_old"):
		return 0, fmt.Errorf("%w: batch %s was sealed at %v", ErrTooOld, b.ID, b.Sealed)
	case len(registered.Rows) == 0: // it is in the registry, or in the ledger since a moment ago
		return OutcomeAlreadyStaged, nil
	case retired(seen.text("open"), lane):
		return 0, errRetry
	}
	if how.begin {
		err = t.checkStage(ctx, q, s, seen.text("digest"))
	} else {
		err = t.checkFields(q.TypeMap(), s, res[looked+1].FieldDescriptions)
	}
	if err != nil {
		return 0, err
	}
	no := int32(registered.row(0).int("no"))
	if err := t.at("before copy"); err != nil {
		return 0, err
	}
	found, err := t.copyAll(ctx, q, s, l, spans, order, kept, no, how.copyHow)
	if err != nil {
		return 0, err
	}
	if rejects := append(l.Rejects[:len(l.Rejects):len(l.Rejects)], found...); len(rejects) > 0 {
		if err := t.copyRejects(ctx, q, s, no, rejects); err != nil {
			return 0, err
		}
	}
	return OutcomeStaged, t.at("after copy")
}

// counts are those of a batch in a registry.
type counts struct{ kept, dups, filtered, rejected, rows int }

// entry is the batch in a registry. tables are those of the group that stages it.
func (b *Batch) entry(n counts, tables, stages string) args {
	return args{
		"id": b.ID, "root": b.Root, "offset": text(b.Offset), "records": text(b.Records), "kept": text(n.kept), "duplicates": text(n.dups),
		"filtered": text(n.filtered), "rejected": text(n.rejected), "rows": text(n.rows), "attempt": text(b.Attempt), "worker": b.Worker,
		"sealed": timeText(b.Sealed), "tables": tables, "stages": stages,
	}
}

// copyAll copies the rows. It returns the records that the encoder or Postgres could not take.
func (t *Table[T]) copyAll(ctx context.Context, q *pgx.Conn, s side, l *Load[T], spans []span, order []int, kept int, no int32, how copyHow) ([]Reject, error) {
	if kept == 0 {
		return nil, nil
	}
	var found []Reject
	e := t.newEncoder(l, spans, order, 0, kept, no, q.TypeMap(), &found)
	if t.hook != nil {
		e.halfway = func() error { return t.at("mid copy") }
	}
	var err error
	if how.careful || how.limit > 0 {
		e.limit, e.others = how.limit, how.others
		if err = t.carefully(ctx, q, s, e); err == nil {
			err = t.copyLate(ctx, q, s, e)
		}
		if err == nil && e.kept == 0 && e.missing != nil {
			err = fmt.Errorf("every record was refused, probably not because of the records: %w", e.missing)
		}
	} else {
		err = t.copyRows(ctx, q, s, e)
	}
	if err == nil && len(found) > 0 {
		_, err = sendOne(ctx, q, t.sql.side[s].stageRecount.with(args{"no": text(no), "kept": text(e.kept), "rows": text(e.rows), "refused": text(len(found))}))
	}
	return found, err
}

// StageTx is Stage inside the caller's transaction: the batch is staged when that transaction
// commits. The transaction keeps its own timeouts, and it holds a lock on the staging tables until
// it ends. Keep it short.
func (t *Table[T]) StageTx(ctx context.Context, tx pgx.Tx, l Load[T]) (Outcome, error) {
	if pgschema.IsNil(tx) {
		return 0, fmt.Errorf("%w: StageTx: tx is nil, must be a transaction", ErrConfig)
	}
	spans, order := l.records()
	if err := l.check(spans); err != nil {
		return 0, err
	}
	// The caller's transaction needs this one setting until its end: strings in Go are UTF-8.
	found, err := send(ctx, tx.Conn(), do("SET LOCAL client_encoding TO 'UTF8'"), t.sql.readControl.with(nil))
	if err != nil {
		return 0, t.explain("staging batch "+l.Batch.ID, err)
	}
	open, err := t.openSides(found[1])
	if err != nil {
		return 0, err
	}
	t.setHint(open)
	for _, careful := range []bool{false, true} {
		sp, err := tx.Begin(ctx) // a savepoint: what fails here leaves the caller's work alone
		if err != nil {
			return 0, err
		}
		out, err := t.stageIn(ctx, tx.Conn(), &l, spans, order, stageHow{copyHow: copyHow{careful: careful}})
		if err == nil && out == OutcomeStaged {
			return out, sp.Commit(ctx)
		}
		if rerr := sp.Rollback(ctx); rerr != nil {
			return 0, errors.Join(err, rerr)
		}
		if err == nil {
			return out, nil
		}
		if careful || !isData(err) {
			if errors.Is(err, ErrTooOld) || errors.Is(err, ErrConfig) || errors.Is(err, ErrDrift) {
				return 0, err
			}
			return 0, t.explain("staging batch "+l.Batch.ID, err)
		}
	}
	return 0, errRetry // not reached
}
