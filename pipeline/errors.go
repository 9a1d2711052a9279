package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrUnaccounted says that a stage did not account for each record that it was given. It is a mistake in the stage: the
	// batch is not staged, comes again, and in the end its records stand in the dead list with this reason.
	ErrUnaccounted = errors.New("pipeline: a record is not accounted for")
	// ErrUnbalanced says that the books do not balance; the error that wraps it names the line that is off.
	ErrUnbalanced = errors.New("pipeline: the books do not balance")

	errKeysKnown = errors.New("pipeline: the chain was run only to learn the ids")
	errBatchGone = errors.New("pipeline: the batch is gone: it was acknowledged, split or buried elsewhere")
)

// Rejection is the error of a record that is bad: a code for programs and a reason for people. See [Reject].
type Rejection struct{ Code, Reason string }

func (r *Rejection) Error() string { return r.Reason }

// RejectCode is the code under which the record is filed. Any error with this method is filed under its code.
func (r *Rejection) RejectCode() string { return r.Code }

// Reject makes the error by which a function in a stage refuses a record. The code is a stable lower-case word, such as
// "unknown_product"; the reason is for people.
func Reject(code, format string, args ...any) error {
	return &Rejection{Code: code, Reason: fmt.Sprintf(format, args...)}
}

type unavailable struct{ err error }

func (u *unavailable) Error() string { return u.err.Error() }
func (u *unavailable) Unwrap() error { return u.err }

// Unavailable marks an error as one of the surroundings, not of the batch: a store or service is away. The batch comes again
// after a pause, as often as it takes, and this is never counted against it.
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

// concernsBatch tells an error of the batch or its surroundings from one of the record.
func concernsBatch(err error) bool {
	return isUnavailable(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnaccounted)
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func asCoded(err error, target *interface{ RejectCode() string }) bool { return errors.As(err, target) }
