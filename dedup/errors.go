package dedup

import (
	"errors"
	"fmt"
)

// Errors of this package, to be tested with errors.Is.
var (
	// ErrConfig: a bad name or configuration. The message names the field, its value and the allowed
	// range.
	ErrConfig = errors.New("dedup: invalid configuration")
	// ErrGone: the batch of the guard key no longer exists, because another worker has finished it.
	// The caller must drop what it holds of that batch. No id was claimed.
	ErrGone = errors.New("dedup: the batch is gone")
	// ErrBatch: the arguments of a claim do not fit together. A retry cannot succeed. No id was
	// claimed.
	ErrBatch = errors.New("dedup: invalid batch")
	// ErrNoAOF: Config.Durable is set, but the server cannot confirm writes on disk. It needs WAITAOF
	// (Redis 7.2 or later) and appendonly yes.
	ErrNoAOF = errors.New("dedup: Durable needs WAITAOF (Redis 7.2 or later) and appendonly yes")
	// ErrNotDurable: the claims were made, but the server did not confirm in time that they are on
	// disk. The claims stand and the verdicts are stored; it is safe to call Claim again.
	ErrNotDurable = errors.New("dedup: the claims are not confirmed on disk")
	// ErrEviction: the server may evict claims when its memory is full, and then duplicates pass.
	ErrEviction = errors.New("dedup: Redis may evict claims")
	// ErrLayout: another version of this package made the window, in a layout that this one does not
	// know. The message names both layouts.
	ErrLayout = errors.New("dedup: unknown layout")
	// ErrDamaged: a key of the window was changed by another program: the state is not what this
	// package writes, or a key has another type. Clear mends that, and forgets all ids.
	ErrDamaged = errors.New("dedup: the window is damaged")
	// ErrID: an id cannot be used. The error is an *IDError with the position of the id.
	ErrID = errors.New("dedup: invalid id")
)

// IDError describes an id that was refused. No id of the call was claimed.
type IDError struct {
	Index  int    // index in the ids of the call
	Pos    int32  // position in the batch, -1 without a batch
	Reason string // what is wrong with the id
}

// Error returns the position of the id and the reason.
func (e *IDError) Error() string {
	if e.Pos < 0 {
		return fmt.Sprintf("dedup: id %d %s", e.Index, e.Reason)
	}
	return fmt.Sprintf("dedup: id %d (position %d of the batch) %s", e.Index, e.Pos, e.Reason)
}

// Is reports whether target is [ErrID].
func (e *IDError) Is(target error) bool { return target == ErrID }
