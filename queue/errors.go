package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// The errors of this package; test with errors.Is.
var (
	// ErrConfig reports a bad Config, name, option or argument.
	ErrConfig = errors.New("queue: invalid configuration")
	// ErrEmptyPush reports a push without records.
	ErrEmptyPush = errors.New("queue: nothing to push")
	// ErrTooLarge reports a record over PushConfig.MaxPayload, or over a limit of the server; the
	// error is a *TooLargeError.
	ErrTooLarge = errors.New("queue: payload too large")
	// ErrFull reports a push over PushConfig.MaxDepth; the error is a *FullError.
	ErrFull = errors.New("queue: full")
	// ErrMemory reports a push that Redis rejected because it is at maxmemory.
	ErrMemory = errors.New("queue: Redis is at maxmemory")
	// ErrEmpty reports that TryLease found no batch.
	ErrEmpty = errors.New("queue: nothing to lease")
	// ErrPaused reports that the queue is paused.
	ErrPaused = errors.New("queue: paused")
	// ErrLeaseLost reports that another process now holds the batch, or that it is settled.
	ErrLeaseLost = errors.New("queue: lease lost")
	// ErrGone reports that there is no such batch.
	ErrGone = errors.New("queue: no such batch")
	// ErrBroken reports a batch whose keys are inconsistent. It was set aside; see Repair.
	ErrBroken = errors.New("queue: broken batch")
	// ErrWrongType reports a key of the queue, or of an undo, that is not of the type that it must
	// have. The error is a *WrongTypeError if the key was found.
	ErrWrongType = errors.New("queue: key holds another type")
	// ErrLayout reports data in the layout of another version of this package; the error is a
	// *LayoutError.
	ErrLayout = errors.New("queue: layout of the data differs")
	// ErrEviction reports a server that may evict the keys of the queue.
	ErrEviction = errors.New("queue: Redis may evict keys")
	// ErrNoAOF reports that PushConfig.Durable is set and the server cannot confirm writes on disk.
	ErrNoAOF = errors.New("queue: Redis cannot confirm that writes are on disk")
	// ErrNotDurable reports records that are in the queue but are not confirmed on disk.
	ErrNotDurable = errors.New("queue: not confirmed on disk")
	// ErrUndo reports an Undo that cannot be applied.
	ErrUndo = errors.New("queue: invalid undo")
	// ErrCounter reports that another program has overwritten a counter of the depth with a text that
	// is not a number, so the bound of a push cannot be checked. Repair recounts it.
	ErrCounter = errors.New("queue: a counter holds no number")
	// ErrReplyLimit reports a record whose reply never arrives, while other replies do. Mostly the
	// server's client-output-buffer-limit is smaller. The record stays in its batch.
	ErrReplyLimit = errors.New("queue: the server cannot send the record")
	// ErrImbalance reports books that do not balance, or an audit that found differences.
	ErrImbalance = errors.New("queue: the books do not balance")
)

// TooLargeError is ErrTooLarge with the figures. No record of the push was added.
type TooLargeError struct {
	Index, Size, Max int
	// Setting is the setting of the server that has the bound, for example proto-max-bulk-len. "":
	// PushConfig.MaxPayload.
	Setting string
}

func (e *TooLargeError) Error() string {
	if e.Setting != "" {
		return fmt.Sprintf("queue: payload %d has %d bytes: the server's %s is %d: raise it, or push less", e.Index, e.Size, e.Setting, e.Max)
	}
	return fmt.Sprintf("queue: payload %d has %d bytes: at most %d", e.Index, e.Size, e.Max)
}

// Is reports whether target is ErrTooLarge.
func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge }

// FullError is ErrFull with the figures. No record of the push was added.
type FullError struct {
	// Depth counts the records that are ready, delayed, in flight or being pushed.
	Depth, Max, Records int64
}

func (e *FullError) Error() string {
	return fmt.Sprintf("queue: full: depth %d, cannot add %d: at most %d", e.Depth, e.Records, e.Max)
}

// Is reports whether target is ErrFull.
func (e *FullError) Is(target error) bool { return target == ErrFull }

// PushError reports how far a push got before it failed. The first Pushed records are in the queue.
// The outcome of the next Unknown records is unknown: pushing them again may duplicate them. The
// rest are not in the queue.
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
	return "queue: " + e.text()
}

func (e *WrongTypeError) text() string {
	return fmt.Sprintf("%s is a %s, must be a %s", shown(e.Key), e.Type, e.Want)
}

// Is reports whether target is ErrWrongType.
func (e *WrongTypeError) Is(target error) bool { return target == ErrWrongType }

// LayoutError is ErrLayout with both versions: that of the data and that of this program.
type LayoutError struct{ Queue, Have, Want string }

func (e *LayoutError) Error() string {
	return fmt.Sprintf("queue: the data of %s has layout %s, this program needs layout %s", e.Queue, e.Have, e.Want)
}

// Is reports whether target is ErrLayout.
func (e *LayoutError) Is(target error) bool { return target == ErrLayout }

// wrap names the operation that failed, and adds the sentinel of an error of Redis.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	var re *rueidis.RedisError
	if errors.As(err, &re) {
		switch text := re.Error(); {
		case strings.HasPrefix(text, "OOM "), strings.Contains(text, "-OOM "), strings.Contains(text, "OOM command not allowed"):
			return fmt.Errorf("queue: %s: %w: %w", op, ErrMemory, err)
		case redisx.IsWrongType(re):
			return fmt.Errorf("queue: %s: %w: %w", op, ErrWrongType, err)
		}
	}
	return fmt.Errorf("queue: %s: %w", op, err)
}

// wrapKeys does what wrap does, and names the first of keys that has another type if err is about
// one.
func wrapKeys(ctx context.Context, server *redisx.Server, op string, err error, keys ...redisx.KeyType) error {
	if wrong := server.WrongType(ctx, err, keys...); wrong != nil {
		return fmt.Errorf("queue: %s: %w: %w", op, wrongKey{&WrongTypeError{Key: wrong.Key, Type: wrong.Type, Want: wrong.Want}}, err)
	}
	return wrap(op, err)
}

// wrapScript does what wrapKeys does for a script. Its keys are the shared keys, and then more.
func (q *Queue) wrapScript(ctx context.Context, op string, err error, more ...redisx.KeyType) error {
	if err != nil && strings.Contains(err.Error(), "HEADRACE LAYOUT") {
		if wrong := q.checkLayout(ctx); wrong != nil {
			return wrong // it names both versions
		}
	}
	var keys []redisx.KeyType
	if redisx.IsWrongType(err) {
		for i := range keyNever {
			keys = append(keys, q.typeOf(i))
		}
	}
	return wrapKeys(ctx, q.server, op, err, append(keys, more...)...)
}

// wrongKey is a WrongTypeError within an error that begins with the package already.
type wrongKey struct{ *WrongTypeError }

func (e wrongKey) Error() string { return e.text() }

func (e wrongKey) Unwrap() error { return e.WrongTypeError }

// unexpected reports a reply of another shape.
func unexpected(op string, got, want int) error {
	return fmt.Errorf("queue: %s: unexpected reply: got %d elements, want %d", op, got, want)
}
