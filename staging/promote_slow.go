package staging

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// A record may take the server for ever, or more temporary files than are allowed: a trigger,
// a constraint or the expression of an index does not come to an end with its values. Fewer rows do
// not help then. So after some promotions in a row that took too long, the next ones look for such
// records. They insert in parts, limit the time of each statement, and go down to the records that
// exceed the limit alone. Each of these is tried again after all others. One that is still too slow
// is rejected, unless the target accepts no other record: then the surroundings are slow.

// pace is what the promotions of a target have learned about their own cost.
type pace struct {
	bound  atomic.Int64 // rows of one promotion, learned from those that took too long; 0: no bound
	cutOff atomic.Int32 // promotions in a row that took too long
	search atomic.Int32 // promotions that go on looking for slow records
	losses atomic.Int32 // promotions in a row that lost their connection
}

const (
	cutOffBeforeSearch = 2
	leastSearchTimeout = 8 * time.Second // of a promotion that looks for slow records: a busy server delays any statement
	mostPartTime       = 2 * time.Second
	mostRecordTime     = 10 * time.Second
	slowOthersTried    = 8  // as othersTried
	mostSlowFirst      = 16 // slow records before the first statement that is not: then all are taken for slow
)

// statementTimes limit the statements of a promotion that looks for slow records. Zero: it does
// not.
type statementTimes struct{ part, record time.Duration }

// statementTimes returns the limits of the next promotion. timeout is that of the promotion; 0:
// only ctx bounds it.
func (c *pace) statementTimes(ctx context.Context, timeout time.Duration) statementTimes {
	if c.cutOff.Load() < cutOffBeforeSearch && c.search.Load() == 0 {
		return statementTimes{}
	}
	if timeout == 0 {
		timeout = time.Minute
		if deadline, ok := ctx.Deadline(); ok {
			timeout = time.Until(deadline)
		}
	}
	if timeout < leastSearchTimeout {
		return statementTimes{}
	}
	return statementTimes{part: min(timeout/32, mostPartTime), record: min(timeout/8, mostRecordTime)}
}

// tookTooLong takes in a promotion that changed nothing because it took too long, or too much of
// the server. bound is the number of rows for the next one.
func (c *pace) tookTooLong(bound int64, err error) {
	c.bound.Store(bound)
	if code := sqlState(err); code == "" || isSlow(err) {
		c.cutOff.Add(1)
	}
}

// isSlow is true for the limits that one record can exceed: of time, and of temporary files.
// Memory, locks and the disk are also used up by what the promotion has written before the record.
func isSlow(err error) bool {
	code := sqlState(err)
	return (code == queryCanceled || code == "53400") && tookTooLong(err)
}

// passed takes in a promotion that has done its work in some of its timeout. The next one may take
// more rows, if these were fewer than usual. slow is true if it has rejected slow records: others
// may follow.
func (c *pace) passed(took, timeout time.Duration, slow bool) {
	switch b := c.bound.Load(); {
	case b == 0:
	case timeout == 0: // the server's limits are not known
		c.bound.Store(b + b/8 + 1)
	case took < timeout/4:
		c.bound.Store(b * 2)
	}
	c.cutOff.Store(0)
	c.losses.Store(0)
	if slow {
		c.search.Store(lookFor)
	} else if n := c.search.Load(); n > 0 {
		c.search.CompareAndSwap(n, n-1)
	}
}

// giveTime ends the search for slow records: they are not at fault. The next promotion has all the
// time that it is given.
func (c *pace) giveTime() {
	c.cutOff.Store(0)
	c.search.Store(0)
}

// errAllSlow is the error of a promotion that has found nothing but slow records.
var errAllSlow = errors.New("staging: every record takes too long, or too much of the server")

// allSlow wraps the error of a record, but not for errors.As: its SQLSTATE is not the promotion's.
func allSlow(refusal error) error { return fmt.Errorf("%w: %v", errAllSlow, refusal) } //nolint:errorlint // see above

// searches is true for a promotion that looks for slow records.
func (p *promotion) searches() bool { return p.times.record > 0 }

// tooSlow is true if such a promotion has met its limit.
func (p *promotion) tooSlow(ctx context.Context, err error) bool {
	return p.searches() && isSlow(err) && ctx.Err() == nil && !p.q.IsClosed()
}

// limited runs statements as try does. A promotion that looks for slow records limits the time of
// each. Waiting for a lock has a shorter limit: it is no fault of the rows.
func (p *promotion) limited(ctx context.Context, limit time.Duration, run func() (int64, error)) (int64, error) {
	if !p.searches() {
		return p.try(ctx, run)
	}
	return p.try(ctx, func() (int64, error) {
		if _, err := sendOne(ctx, p.q, ownTimes.with(args{"lock_timeout": millis(min(limit/2, p.t.rowTimeout())), "statement_timeout": millis(limit)})); err != nil {
			return 0, err
		}
		n, err := run()
		if err == nil {
			p.inTime++
			_, err = sendOne(ctx, p.q, ownTimes.with(args{"lock_timeout": millis(p.t.rowTimeout()), "statement_timeout": "0"}))
		}
		return n, err
	})
}

// partTime is the limit for a part, or for a record alone.
func (p *promotion) partTime(s recordSpan) time.Duration {
	if s.single() {
		return p.times.record
	}
	return p.times.part
}

// slowRecord takes in a record that is too slow alone: it is tried again after the others, and then
// rejected.
func (p *promotion) slowRecord(ctx context.Context, w *work, s recordSpan, refusal error) error {
	if !p.lastTry {
		p.late = append(p.late, s)
		if p.inTime == 0 && len(p.late) >= mostSlowFirst {
			return allSlow(refusal)
		}
		return nil
	}
	if err := w.blame(ctx, p.of(s), refusal); err != nil {
		return err
	}
	p.slow = true
	return p.rejectOne(ctx, w, s, refusal)
}

// retryLate tries the records again that were too slow.
func (p *promotion) retryLate(ctx context.Context, w *work) error {
	late := p.late
	p.late, p.lastTry = nil, true
	defer func() { p.lastTry = false }()
	for _, s := range late {
		var err error
		if p.suppressed(w) {
			err = p.insertEach(ctx, w, s)
		} else {
			err = p.descend(ctx, w, []recordSpan{s})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// slowReason completes the reason of a reject.
func (p *promotion) slowReason(reason string) string {
	return fmt.Sprintf("%s (this record alone, tried twice for up to %v)", reason, p.times.record.Round(time.Millisecond))
}
