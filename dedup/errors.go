package dedup

import (
	"errors"
	"fmt"
)

var (
	// ErrGone says that the batch whose guard key was given does not exist any more: another worker has finished it,
	// so this one must drop what it holds of it. No id was claimed.
	ErrGone = errors.New("dedup: the batch is gone")
	// ErrBatch says that the arguments of a claim do not fit together; trying again cannot help. No id was claimed.
	ErrBatch = errors.New("dedup: bad batch")
	// ErrNoAOF says that strict mode was asked of a server that cannot give it: WAITAOF needs Redis 7.2 or later
	// with appendonly yes.
	ErrNoAOF = errors.New("dedup: strict mode needs WAITAOF (Redis 7.2 or later) and appendonly yes")
	// ErrNotDurable says that the claims of a strict window were made, but the server did not confirm them on disk
	// in time. The claims stand and the verdicts are kept; calling Claim again is safe.
	ErrNotDurable = errors.New("dedup: the claims are not known to be on disk")
	// ErrEviction says that the server may evict claims when its memory is full, which makes duplicates pass.
	ErrEviction = errors.New("dedup: the server may evict claims")
	// ErrID says that an id cannot be used; the error is an *IDError, which names its position.
	ErrID = errors.New("dedup: bad id")
)

// IDError names the id that was refused. No id of the call was claimed.
type IDError struct {
	Index  int    // index in the ids of the call
	Pos    int32  // position in the batch, -1 without a batch
	Reason string // what is wrong with it
}

// Error names the id by its position.
func (e *IDError) Error() string {
	if e.Pos < 0 {
		return fmt.Sprintf("dedup: id %d %s", e.Index, e.Reason)
	}
	return fmt.Sprintf("dedup: id %d (position %d of the batch) %s", e.Index, e.Pos, e.Reason)
}

// Is reports whether target is [ErrID].
func (e *IDError) Is(target error) bool { return target == ErrID }
