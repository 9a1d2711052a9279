package staging

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// A server with synchronous standbys waits for them in COMMIT, without any time limit of its own.
// The transaction is on its disk, but locked and invisible. An administrator's cancellation, the
// end of the connection and a restart end the wait. Then everyone sees the transaction, although no
// standby has it, and the loss of the server would lose it. So what the ledger has does not prove
// that a batch may be acknowledged. A commit that is confirmed proves it, of all before it.

// commitGrace is how long a commit that took too long may take to be cancelled. It bounds what a
// call takes after its context has ended. (A variable for the tests: on a busy machine the server
// may take longer.)
var commitGrace = time.Second

// commitAnswer is what the server answered to a commit.
type commitAnswer struct {
	tag         string // of the last statement
	unconfirmed bool   // the wait for a synchronous standby was cancelled: the commit is done here only
	late        bool   // the answer came after the time limit or the end of the context, and a cancellation
	took        time.Duration
	err         error
}

// commit ends the transaction, with a last statement in the same message. Any error but the
// server's own answer leaves the outcome unknown. That includes an error that pgx marks as safe to
// retry: it does so too when it finds the connection closed while it waits for the answer. A commit
// that no synchronous standby has confirmed is an [ErrNotDurable].
func (t *table) commit(ctx context.Context, q *pgx.Conn, last string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	limit := t.cfg.CommitTimeout
	if deadline, ok := ctx.Deadline(); ok { // the caller has to find out the outcome, and to name it
		limit = min(limit, time.Until(deadline)*3/4)
	}
	a := sendCommit(ctx, q, last+"commit", limit)
	switch {
	case a.unconfirmed:
		return notDurable(ctx, q, a)
	case a.err == nil && a.tag != "COMMIT":
		return fmt.Errorf("staging: the server answered COMMIT with %s", a.tag)
	case a.err != nil && a.late && sqlState(a.err) == queryCanceled:
		return fmt.Errorf("staging: COMMIT took longer than %v: %w", a.took.Round(time.Millisecond), a.err)
	case a.err == nil, sqlState(a.err) != "" && !lostConnection(a.err):
		return a.err
	}
	return fmt.Errorf("%w: %w", ErrUnknown, a.err)
}

// commitDurably is commit for a transaction in which SQL of others has run: triggers, merges. They
// may have set synchronous_commit for the rest of the transaction.
func (t *table) commitDurably(ctx context.Context, q *pgx.Conn, last string) error {
	return t.commit(ctx, q, last+ownDurability.sql+"; ")
}

// lostConnection reports whether an error from the server ends the connection. The commit may have
// been done before it.
func lostConnection(err error) bool {
	code := sqlState(err)
	return len(code) == 5 && (code[:2] == "08" || code[:3] == "57P")
}

// sendCommit sends a message that ends with a commit, and cancels it after the limit: a server that
// waits for a standby would keep the locks for as long.
func sendCommit(ctx context.Context, q *pgx.Conn, sql string, limit time.Duration) (a commitAnswer) {
	pc := q.PgConn()
	if pc.IsClosed() || pc.IsBusy() {
		a.err = errors.New("staging: the connection is closed or busy")
		return a
	}
	inner, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begun := time.Now()
	pc.Frontend().SendQuery(&pgproto3.Query{String: sql})
	if a.err = pc.Frontend().Flush(); a.err == nil {
		a.receive(inner, pc)
	}
	a.took = time.Since(begun)
	if isTimeout(a.err) && !pc.IsClosed() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitGrace)
		defer cancel()
		a.late = true
		if pc.CancelRequest(grace) == nil {
			a.err = nil
			a.receive(grace, pc)
		}
	}
	if a.err != nil && sqlState(a.err) == "" && !pc.IsClosed() {
		pc.Conn().Close()                    //nolint:errcheck // in the middle of the protocol: of no more use
		pc.Close(context.WithoutCancel(ctx)) //nolint:errcheck // see above
	}
	return a
}

func isTimeout(err error) bool {
	var network net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.As(err, &network) && network.Timeout()
}

// receive reads up to the server's readiness.
func (a *commitAnswer) receive(ctx context.Context, pc *pgconn.PgConn) {
	for {
		msg, err := pc.ReceiveMessage(ctx)
		if err != nil {
			a.err = err
			return
		}
		switch m := msg.(type) {
		case *pgproto3.NoticeResponse: // a warning; its text is in the server's language
			a.unconfirmed = a.unconfirmed || m.Routine == "SyncRepWaitForLSN"
		case *pgproto3.CommandComplete:
			a.tag = string(m.CommandTag)
		case *pgproto3.ErrorResponse:
			a.err = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return
		}
	}
}

// notDurableError is a commit that no synchronous standby has confirmed.
type notDurableError struct {
	standbys string // synchronous_standby_names, if known
	answer   commitAnswer
}

func notDurable(ctx context.Context, q *pgx.Conn, a commitAnswer) error {
	e := &notDurableError{answer: a}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitGrace)
	defer cancel()
	if r, err := sendOne(ctx, q, standbyNames); err == nil {
		e.standbys = r.row(0).text("names")
	}
	return e
}

func (e *notDurableError) Error() string {
	wait := "the wait for it was cancelled"
	if e.answer.late {
		wait = fmt.Sprintf("none has confirmed it within %v", e.answer.took.Round(time.Millisecond))
	}
	names := ""
	if e.standbys != "" {
		names = fmt.Sprintf(" (it is %q)", e.standbys)
	}
	return fmt.Sprintf("%v: the server has committed, and waits for a standby of synchronous_standby_names%s: %s. Start the standby, or take it out of synchronous_standby_names and reload",
		ErrNotDurable, names, wait)
}

// Unwrap makes the error ErrUnknown too: a caller that does not know ErrNotDurable calls again.
func (e *notDurableError) Unwrap() []error {
	if e.answer.err != nil {
		return []error{ErrNotDurable, ErrUnknown, e.answer.err}
	}
	return []error{ErrNotDurable, ErrUnknown}
}

// confirm returns nil when everything that this connection can see is as durable as the server's
// settings demand. Without synchronous standbys that is so. With them, it commits something that
// waits for them.
func (t *table) confirm(ctx context.Context, q *pgx.Conn) error {
	r, err := sendOne(ctx, q, standbyNames)
	if err != nil || r.row(0).text("names") == "" {
		return err
	}
	defer t.rollback(q)
	if _, err := send(ctx, q, append(t.beginning(durably), barrier)...); err != nil {
		return err
	}
	return t.commit(ctx, q, "")
}

// confirmOutcome does the same if the ledger decided the outcome of a Stage.
func (t *table) confirmOutcome(ctx context.Context, q *pgx.Conn, out Outcome) error {
	if out != OutcomeAlreadyPromoted && out != OutcomeAlreadyVoid {
		return nil
	}
	t.rollback(q)
	return t.confirm(ctx, q)
}

// unconfirmed are the results of promotions that no synchronous standby has confirmed yet.
type unconfirmed struct {
	mu      sync.Mutex
	results []PromoteResult
}

func (u *unconfirmed) add(r PromoteResult) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.results = append(u.results, r)
}

// take removes the oldest result.
func (u *unconfirmed) take() (r PromoteResult, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.results) == 0 {
		return r, false
	}
	r = u.results[0]
	u.results = u.results[1:]
	return r, true
}

// confirmed returns the result of an earlier promotion, if it can be confirmed now. Until then a
// promoter promotes nothing more that the loss of the server would lose.
func (t *table) confirmed(ctx context.Context, u *unconfirmed) (r PromoteResult, ok bool, err error) {
	if r, ok = u.take(); !ok {
		return r, false, nil
	}
	c, err := acquire(ctx, t.pool)
	if err == nil {
		defer c.Release()
		err = t.confirm(ctx, c.Conn())
	}
	if err != nil {
		u.add(r)
		return PromoteResult{}, false, err
	}
	r.More = true
	return r, true, nil
}
