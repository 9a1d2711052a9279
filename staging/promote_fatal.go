package staging

import (
	"context"
	"errors"

	"github.com/headrace/headrace/internal/pgschema"
)

// A record may end the session that inserts it: a trigger terminates its own backend, or an
// extension ends it with FATAL. That looks like an outage, and no savepoint survives it. So after
// some promotions in a row that have lost their connection between the locks and the commit, the
// staged records are tried on connections of their own, in parts, and rolled back. A record that
// ends its session alone, twice, while the target accepts others, is rejected in the promotions
// that follow. Lanes have no trial: its records do not come in the order in which promotions of
// several lanes wait for each other.

// lostBeforeTrial is how many promotions in a row lose their connection before records are tried.
const lostBeforeTrial = 2

// fatalRecords are the records of each side that end the session, with their error.
type fatalRecords map[side]map[int64]error

// trial looks for records that end the session.
type trial struct {
	t        *table
	s        side
	accepted int // records or parts
	suspects []recordSpan
	fatal    map[int64]error
}

// lost takes in a promotion whose connection ended before the commit. From the second one on, the
// next has half as many rows: the trial of a long backlog must end within its time, too.
func (c *pace) lost(bound int64) {
	if c.losses.Add(1) >= lostBeforeTrial {
		c.bound.Store(bound)
	}
}

// findFatal tries the first staged records of all sides, about as many rows of each as a promotion
// takes. It finds none where the target accepts none.
func (t *table) findFatal(ctx context.Context, limit int64) (fatalRecords, error) {
	found := fatalRecords{}
	for s := range t.sql.side {
		x := &trial{t: t, s: side(s), fatal: map[int64]error{}}
		if err := x.run(ctx, limit); err != nil {
			return nil, err
		}
		if len(x.fatal) > 0 {
			found[x.s] = x.fatal
		}
	}
	return found, nil
}

func (x *trial) run(ctx context.Context, limit int64) error {
	spans, err := x.spans(ctx)
	if err != nil || len(spans) == 0 {
		return err
	}
	n, rows := 1, spans[0].rows
	for n < len(spans) && rows+spans[n].rows <= limit {
		rows += spans[n].rows
		n++
	}
	spans = spans[:n]
	for _, part := range group(spans, x.t.sizes.least) {
		if err := x.part(ctx, part); err != nil {
			return err
		}
	}
	for _, s := range x.suspects {
		if x.accepted == 0 {
			return nil // the target accepts nothing: the records are not at fault
		}
		if _, _, err := x.insert(ctx, "false"); err != nil {
			return err
		}
		lost, refusal, err := x.insert(ctx, s.condition())
		if err != nil {
			return err
		}
		if lost {
			x.fatal[s.first] = refusal
		}
	}
	return nil
}

// spans lists the staged records, without those of batches that were promoted before.
func (x *trial) spans(ctx context.Context) (out []recordSpan, err error) {
	c, err := acquire(ctx, x.t.pool)
	if err != nil {
		return nil, err
	}
	defer c.Release()
	r, err := x.t.inOwn(ctx, c.Conn(), reads, x.t.sql.side[x.s].spans.where(batchOf("s.")+" IN (SELECT r.no FROM "+x.t.registry[x.s]+" r)").with(nil))
	switch {
	case isGone(err, x.s.lane()):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return spansOf(r), nil
}

// part tries some records, and goes down to those that end the session.
func (x *trial) part(ctx context.Context, spans []recordSpan) error {
	whole := hull(spans)
	lost, refusal, err := x.insert(ctx, whole.condition())
	switch {
	case err != nil:
		return err
	case refusal == nil:
		x.accepted++
		return nil
	case whole.single():
		if lost {
			x.suspects = append(x.suspects, whole)
		}
		return nil
	}
	for _, part := range split(spans) {
		if err := x.part(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// insert inserts the records of a condition, other than those that a rule rejects, on a connection
// of its own, and rolls back. refusal is the server's error about them; lost is true if it ended
// the session. err is another fault.
func (x *trial) insert(ctx context.Context, condition string) (lost bool, refusal, err error) {
	c, err := acquire(ctx, x.t.pool)
	if err != nil {
		return false, nil, err
	}
	defer c.Release()
	q := c.Conn()
	defer x.t.rollback(q)
	if _, err := send(ctx, q, x.t.beginning(writes)...); err != nil {
		return false, nil, err
	}
	if len(x.t.rules) > 0 {
		verdict, _, _ := x.t.ruleCases()
		condition = "(" + condition + ") AND (" + verdict + ") IS NULL"
	}
	_, err = send(ctx, q, x.t.sql.side[x.s].insertPlain.where(condition).with(nil), checkAtOnce)
	switch {
	case err == nil:
		return false, nil, nil
	case ctx.Err() != nil:
		return false, nil, ctx.Err()
	case q.IsClosed():
		return true, err, nil
	case verdictOf(err) == verdictSurroundings:
		return false, nil, err
	}
	return false, err, nil
}

// rejectFatal rejects the records of this promotion that end the session.
func (p *promotion) rejectFatal(ctx context.Context) error {
	fatal := p.fatal[p.s]
	p.fatal = nil
	for record, refusal := range fatal {
		code, reason := refusalOf(refusal)
		if sqlState(refusal) == "" {
			code = codeSQL + "08006" // connection_failure
		}
		n, err := p.rejectRows(ctx, p.of(hull([]recordSpan{{first: record, last: record, lastPage: lastPage}})),
			rejection{record, true, "insert", code, cutReason("the record ends the session: " + plain(reason))})
		if err != nil {
			return err
		}
		p.refused += n
	}
	return nil
}

// endsSession is true for a promotion that has lost its connection, other than in its commit.
func (p *progress) endsSession(ctx context.Context, err error) bool {
	return err != nil && p.locked && p.q != nil && p.q.IsClosed() && ctx.Err() == nil && !errors.Is(err, ErrUnknown) && !staleSession(err) && !tookTooLong(err) &&
		!errors.As(err, new(*pgschema.UnconnectedError))
}
