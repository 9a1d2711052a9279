package queue

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"
)

// What the calls of this package answer; test with errors.Is.
var (
	ErrConfig     = errors.New("queue: bad configuration")
	ErrName       = errors.New("queue: bad name")
	ErrEmptyPush  = errors.New("queue: nothing to push")
	ErrTooLarge   = errors.New("queue: payload too large")
	ErrFull       = errors.New("queue: full")
	ErrMemory     = errors.New("queue: Redis is at maxmemory")
	ErrEmpty      = errors.New("queue: nothing to lease")
	ErrPaused     = errors.New("queue: paused")
	ErrLeaseLost  = errors.New("queue: lease lost")
	ErrGone       = errors.New("queue: no such batch")
	ErrWrongType  = errors.New("queue: key holds something else")
	ErrEviction   = errors.New("queue: Redis may evict keys")
	ErrNoAOF      = errors.New("queue: Redis cannot make a push durable")
	ErrNotDurable = errors.New("queue: not known to be on disk")
	ErrUndo       = errors.New("queue: bad undo")
)

// TooLargeError is ErrTooLarge with the figures. Nothing of the push was done.
type TooLargeError struct{ Index, Size, Max int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("queue: payload %d has %d bytes: at most %d", e.Index, e.Size, e.Max)
}

// Is makes it an ErrTooLarge.
func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge }

// FullError is ErrFull with the figures. Nothing of the push was done.
type FullError struct{ Depth, Max, Records int64 }

func (e *FullError) Error() string {
	return fmt.Sprintf("queue: full: %d records and %d more: at most %d", e.Depth, e.Records, e.Max)
}

// Is makes it an ErrFull.
func (e *FullError) Is(target error) bool { return target == ErrFull }

// PushError says how far a push came that failed on the way to Redis. The first Pushed records are
// in the queue. Of the next Unknown ones nobody can tell; pushing them again may double them. The rest was refused.
type PushError struct {
	Pushed, Unknown int
	Err             error
}

func (e *PushError) Error() string {
	return fmt.Sprintf("queue: push: %d records pushed, %d unknown: %v", e.Pushed, e.Unknown, e.Err)
}

func (e *PushError) Unwrap() error { return e.Err }

// WrongTypeError is ErrWrongType with the key.
type WrongTypeError struct{ Key, Type, Want string }

func (e *WrongTypeError) Error() string {
	return fmt.Sprintf("queue: key %s holds a %s, not a %s", e.Key, e.Type, e.Want)
}

// Is makes it an ErrWrongType.
func (e *WrongTypeError) Is(target error) bool { return target == ErrWrongType }

// wrap puts a name to what Redis said.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	if re, ok := rueidis.IsRedisErr(err); ok {
		s := re.Error()
		switch {
		case strings.HasPrefix(s, "OOM "), strings.Contains(s, "-OOM "), strings.Contains(s, "OOM command not allowed"):
			return fmt.Errorf("queue: %s: %w: %w", op, ErrMemory, err)
		case strings.Contains(s, "WRONGTYPE"):
			return fmt.Errorf("queue: %s: %w: %w", op, ErrWrongType, err)
		}
	}
	return fmt.Errorf("queue: %s: %w", op, err)
}
