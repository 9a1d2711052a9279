package staging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A record may take the server for ever while it is copied: the CHECK of a domain does not come to
// an end with its value. The server does not notice that the program has given up, and the COPY
// keeps the lock that a promotion waits for. So the server ends the statements of a Stage a moment
// after the caller's deadline. A batch whose COPY was cut off twice is copied in parts. The time of
// each is limited, and Postgres names the line that it was at. A record that exceeds the limit
// alone is tried again after all others. If it is still too slow, it is rejected, unless the table
// takes no other record: then the surroundings are slow.

const (
	cutOffGrace       = time.Second
	cutOffsBeforeSlow = 2
	leastSlowTimeout  = 8 * time.Second // of a Stage that looks for slow records
	leastCopyTime     = time.Second     // a busy server delays any statement
	mostCopyTime      = 2 * time.Second
	mostSlowBytes     = 1 << 20 // a record that is larger may be slow because of the network
	mostCutOff        = 1000    // batches that are remembered
)

// cutOffs are the batches whose COPY was cut off by the caller's deadline.
type cutOffs struct {
	mu     sync.Mutex
	staged int64 // batches that were staged
	batch  map[string]cutOff
}

type cutOff struct {
	times  int
	staged int64 // when it was cut off first
}

// copyHow is how rows are copied.
type copyHow struct {
	careful bool          // records that Postgres refuses are looked for
	limit   time.Duration // of one COPY, where slow records are looked for; 0: they are not
	others  bool          // the table has taken other batches since this one was cut off
}

// manner returns how a batch is copied. Every second attempt looks for slow records: where the
// server is slow, the attempt between needs all of the time for one COPY.
func (c *cutOffs) manner(ctx context.Context, id string) (how copyHow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.batch[id]
	deadline, bounded := ctx.Deadline()
	if left := time.Until(deadline); ok && b.times >= cutOffsBeforeSlow && b.times%2 == 0 && (!bounded || left >= leastSlowTimeout) {
		how.limit, how.others = mostCopyTime, c.staged > b.staged
		if bounded {
			how.limit = min(max(left/16, leastCopyTime), mostCopyTime)
		}
	}
	return how
}

// learn takes in how a Stage has ended.
func (c *cutOffs) learn(ctx context.Context, id string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.staged++
		delete(c.batch, id)
		return
	}
	if !errors.Is(err, errAllSlow) && (!errors.Is(err, errInterrupted) || !errors.Is(ctx.Err(), context.DeadlineExceeded)) {
		return
	}
	b, ok := c.batch[id]
	if !ok {
		b.staged = c.staged
		for len(c.batch) >= mostCutOff {
			for other := range c.batch {
				delete(c.batch, other)
				break
			}
		}
	}
	if c.batch == nil {
		c.batch = map[string]cutOff{}
	}
	b.times++
	c.batch[id] = b
}

// untilDeadline makes the server end the transaction's statements a moment after the caller's
// deadline.
func untilDeadline(ctx context.Context) call {
	limit := "0"
	if deadline, ok := ctx.Deadline(); ok {
		limit = millis(min(max(time.Until(deadline), 0)+cutOffGrace, 24*time.Hour))
	}
	return do("SET LOCAL statement_timeout TO " + limit)
}

// startCopy begins what a COPY that is refused is rolled back to.
func (e *encoder[T]) startCopy(ctx context.Context, q *pgx.Conn) error {
	sql := "savepoint hr_copy"
	if e.limit > 0 {
		sql += "; SET LOCAL statement_timeout TO " + millis(e.limit)
	}
	_, err := q.Exec(ctx, sql)
	return err
}

// copyOne copies a record of which the server alone determines how long it takes: it is encoded
// before.
func (t *Table[T]) copyOne(ctx context.Context, q *pgx.Conn, s side, e *encoder[T]) (bytesSent int, err error) {
	rows, err := io.ReadAll(e)
	if err != nil {
		return 0, err
	}
	return len(rows), copyIn(ctx, q, t.sql.side[s].copyRows.text, bytes.NewReader(rows))
}

// slowRecord takes in a record that is too slow alone.
func (e *encoder[T]) slowRecord(i int, refusal error) error {
	if !e.lastTry {
		e.late = append(e.late, i)
		if e.kept == 0 && !e.others && len(e.late) >= mostSlowFirst {
			return allSlow(refusal)
		}
		return nil
	}
	s := e.span(i)
	code, reason := refusalOf(refusal)
	reason = fmt.Sprintf("%s (this record alone, copied twice for up to %v)", reason, e.limit.Round(time.Millisecond))
	*e.rejects = append(*e.rejects, e.t.reject(e.load, s.pos, e.rowOf(s.lo), code, cutReason(reason)))
	return nil
}

// copyLate tries the records again that were too slow, and lifts the limit.
func (t *Table[T]) copyLate(ctx context.Context, q *pgx.Conn, s side, e *encoder[T]) error {
	if len(e.late) > 0 && e.kept == 0 && !e.others {
		return allSlow(context.DeadlineExceeded)
	}
	e.lastTry = true
	for _, i := range e.late {
		e.from, e.to = i, i+1
		if err := t.carefully(ctx, q, s, e); err != nil {
			return err
		}
	}
	if e.limit == 0 {
		return nil
	}
	_, err := sendOne(ctx, q, untilDeadline(ctx))
	return err
}
