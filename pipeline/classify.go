package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/pgschema"
	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// isMisconfigured reports whether an error comes from the program's configuration. Every batch
// meets such an error, and waiting does not help, so it never counts against a batch.
func isMisconfigured(err error) bool {
	for _, target := range []error{ErrConfig, queue.ErrConfig, dedup.ErrBatch, staging.ErrConfig, staging.ErrDrift} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// dataClasses are the SQLSTATE classes that concern values: cardinality, data, constraints, the
// check option, and program limits.
var dataClasses = []string{"21", "22", "23", "44", "54"}

// isTransient reports whether an error comes from the surroundings and not from the data. A batch
// never pays for a Postgres that is unreachable, full, restarting, locked or set up wrongly. Of the
// errors that Postgres itself returns, only those of dataClasses count against the batch.
func isTransient(err error) bool {
	var unconnected *pgschema.UnconnectedError // a hook of the pool failed, whatever the cause
	if errors.As(err, &unconnected) || isUnavailable(err) || errors.Is(err, staging.ErrBusy) || errors.Is(err, staging.ErrUnknown) {
		return true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if pg.Routine == "GetNewTransactionId" || pg.Routine == "GetNewMultiXactId" { // no more ids until a vacuum; the class is 54
			return true
		}
		for _, class := range dataClasses {
			if strings.HasPrefix(pg.Code, class) {
				return false
			}
		}
		return true
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// isPermanent reports whether an error of the queue lasts until an operator acts: Redis has
// answered with something other than a request to wait, or the client is closed.
func isPermanent(err error) bool {
	if isMisconfigured(err) || errors.Is(err, rueidis.ErrClosing) {
		return true
	}
	for _, target := range []error{queue.ErrWrongType, queue.ErrLayout} {
		if errors.Is(err, target) {
			return true
		}
	}
	var reply *rueidis.RedisError
	return errors.As(err, &reply) && !redisx.Refused(reply)
}

// closings finds out that the program has closed a client or a pool while a Run still uses it. No
// retry mends that. It takes in the errors of one kind of call in their order.
type closings struct{ redis redisx.Closed }

func (c *closings) by(err error) bool { return c.redis.By(err) || pgschema.IsClosed(err) }

// closedError ends a Run whose client or pool the program has closed.
type closedError struct{ err error }

func (e *closedError) Error() string {
	return "pipeline: the program has closed a client or a pool that Run still uses: " + oneLine(e.err)
}

func (e *closedError) Unwrap() error { return e.err }

// closedStore returns the closedError that has ended ctx, or nil.
func closedStore(ctx context.Context) error {
	var closed *closedError
	if errors.As(context.Cause(ctx), &closed) {
		return closed
	}
	return nil
}

// panicError is a panic in the caller's code. Its text is one line. The stack goes to the log.
type panicError struct {
	where string // "the chain"
	at    string // file:line of the panic
	value any
	stack []byte
}

// newPanicError describes a recovered panic. Call it in the deferred function that recovers. A
// panic that was recovered before, in another goroutine, keeps its place.
func newPanicError(where string, value any) *panicError {
	if before, ok := value.(*panicError); ok {
		return before
	}
	return &panicError{where: where, at: panicSite(), value: value, stack: debug.Stack()}
}

func (p *panicError) Error() string {
	return fmt.Sprintf("pipeline: panic in %s at %s: %v", p.where, p.at, p.value)
}

func (p *panicError) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

// panicSite returns the place of the innermost frame below the panic, outside the runtime.
func panicSite() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	panicking := false
	for {
		f, more := frames.Next()
		if strings.HasPrefix(f.Function, "runtime.") {
			panicking = panicking || f.Function == "runtime.gopanic"
		} else if panicking {
			return fmt.Sprintf("%s:%d", f.File[strings.LastIndexByte(f.File, '/')+1:], f.Line)
		}
		if !more {
			return "unknown"
		}
	}
}
