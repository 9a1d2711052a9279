package dedup

import (
	"errors"
	"fmt"
)

// The errors of this package; test with errors.Is.
var (
	// ErrConfig reports a bad name or Config. The text names the field, its value and the allowed
	// range.
	ErrConfig = errors.New("dedup: invalid configuration")
	// ErrGone reports that the batch of the guard key no longer exists, because another worker has
	// finished it. The caller must drop its copy of the batch. From then on no id is claimed for it.
	ErrGone = errors.New("dedup: the batch is gone")
	// ErrBatch reports arguments of a claim that contradict one another. A retry cannot succeed. No id
	// was claimed.
	ErrBatch = errors.New("dedup: invalid batch")
	// ErrNoAOF reports that Config.Durable is set and the server cannot confirm writes on disk. It
	// needs WAITAOF (Redis 7.2 or later), appendonly yes, and appendfsync everysec or always.
	ErrNoAOF = errors.New("dedup: Redis cannot confirm that writes are on disk")
	// ErrNotDurable reports that the claims were made, but the server did not confirm in time that
	// they are on disk. The claims remain and the verdicts are stored; it is safe to call Claim again.
	ErrNotDurable = errors.New("dedup: the claims are not confirmed on disk")
	// ErrEviction reports a server that may evict claims when its memory is full; duplicates would
	// pass.
	ErrEviction = errors.New("dedup: Redis may evict claims")
	// ErrLayout reports a window in the layout of another version of this package. The text names both
	// versions.
	ErrLayout = errors.New("dedup: layout of the data differs")
	// ErrDamaged reports that another program has changed a key of the window: the state is not one
	// that this package writes, or a key has another type. Repair mends it; Clear empties the window
	// instead.
	ErrDamaged = errors.New("dedup: the window is damaged")
	// ErrID reports an id that cannot be used. The error is an *IDError with the position of the id.
	ErrID = errors.New("dedup: invalid id")
)

// IDError describes a rejected id. No id of the call was claimed.
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
