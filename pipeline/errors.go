package pipeline

import (
	"context"
	"errors"
	"fmt"
)

var (
	// ErrConfig is wrapped by every error about an invalid configuration or [Flow].
	ErrConfig = errors.New("pipeline: invalid configuration")
	// ErrUnaccounted reports a stage that did not account for each record that it received. The stage
	// has a bug. Its batch is not staged. The batch is redelivered, and in the end its records go to
	// the dead-letter list with this reason.
	ErrUnaccounted = errors.New("pipeline: a record is not accounted for")
	// ErrImbalance reports that the books do not balance. The error that wraps it names the line
	// and the difference.
	ErrImbalance = errors.New("pipeline: the books do not balance")
	// ErrRunning is returned by Run when another call of Run is in progress.
	ErrRunning = errors.New("pipeline: already running")
	// ErrStageHangs is returned by Worker.Run when a function in the chain does not return after its
	// context has ended. Run abandons its goroutine. The batch is redelivered when the lease expires.
	ErrStageHangs = errors.New("pipeline: a function in the chain does not return although its context has ended")

	errKeysKnown    = errors.New("pipeline: the chain ran only to find the ids")
	errBatchGone    = errors.New("pipeline: the batch is gone: it was acknowledged, split or buried elsewhere")
	errBatchTimeout = errors.New("pipeline: the chain took longer than WorkerConfig.BatchTimeout")
)

// Rejection is the error of a bad record: a code for programs and a reason for people. See
// [Reject].
type Rejection struct{ Code, Reason string }

func (r *Rejection) Error() string { return r.Reason }

// RejectCode returns the code of the reject. A stage uses the code of any error that has this
// method.
func (r *Rejection) RejectCode() string { return r.Code }

// Reject returns the error with which a function in a stage rejects a record. The code is a stable
// lower-case word, such as "unknown_product". The reason is for people.
func Reject(code, format string, args ...any) error {
	return &Rejection{Code: code, Reason: fmt.Sprintf(format, args...)}
}

type unavailable struct{ err error }

func (u *unavailable) Error() string { return u.err.Error() }
func (u *unavailable) Unwrap() error { return u.err }

// Unavailable marks an error as environmental: a store or a service cannot be reached, and the
// batch is not at fault. The batch is redelivered after a pause, as often as necessary. This never
// counts against the batch. Unavailable returns nil for a nil error.
func Unavailable(err error) error {
	if err == nil {
		return nil
	}
	return &unavailable{err}
}

func isUnavailable(err error) bool {
	var u *unavailable
	return errors.As(err, &u)
}

// concernsBatch reports whether an error of a function in a stage concerns the whole batch or its
// surroundings, and not one record.
func concernsBatch(err error) bool {
	return isUnavailable(err) || isMisconfigured(err) || errors.Is(err, ErrUnaccounted) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
