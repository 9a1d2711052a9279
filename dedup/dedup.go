package dedup

import (
	"context"
	"errors"

	"github.com/redis/rueidis"
)

// Window is a sliding window of ids on Redis. It holds no state of its own: any number of Windows of one name, in any
// number of processes, are one window. This type is concurrency safe.
type Window struct {
	client rueidis.Client
	name   string
	cfg    Config
}

// New makes a window on the caller's client, which it never closes.
func New(ctx context.Context, client rueidis.Client, name string, cfg Config) (*Window, error) {
	cfg, err := cfg.withDefaults(name)
	if err != nil {
		return nil, err
	}
	return &Window{client: client, name: name, cfg: cfg}, nil
}

// Verdict is what a claim says about one id.
type Verdict uint8

const (
	// Fresh: this place holds the id. Go on with the record.
	Fresh Verdict = 1 + iota
	// Duplicate: another place holds the id within the window. Drop the record, and count it.
	Duplicate
)

// String names the verdict.
func (v Verdict) String() string {
	switch v {
	case Fresh:
		return "fresh"
	case Duplicate:
		return "duplicate"
	}
	return "none"
}

// Batch says which batch the ids belong to.
type Batch struct {
	// Guard is the key of a hash that lives exactly as long as the batch. The verdicts are kept in its field
	// "r:dedup", one byte a record. Empty: no batch that could vanish, and no verdict kept.
	Guard string
	// Root names the batch that the records were sealed in; it stays the same when the batch is split. Required.
	Root string
	// Offset is where this batch begins in its root.
	Offset int
	// Records is how many records the batch has.
	Records int
}

// Claimed is a claim: an id and the place that holds it.
type Claimed struct {
	Root  string
	Place int // Offset + position
	ID    string
}

// Undo gives one claim back: where the hash Key has a Field whose value begins with Prefix, the field is to be deleted.
type Undo struct {
	Key, Field, Prefix string
}

// Claim claims ids[i] for the record at position pos[i] of the batch and returns one verdict an id.
// A nil pos means 0, 1, 2 ….
func (w *Window) Claim(ctx context.Context, b Batch, pos []int32, ids []string) ([]Verdict, error) {
	return nil, errors.ErrUnsupported
}

// Undo returns, for each claim, what gives it back: undo[i] belongs to claims[i]. It changes nothing itself: let the
// script that acknowledges or buries the batch do it, so that both happen or neither. One round trip for all.
func (w *Window) Undo(ctx context.Context, claims []Claimed) (undo [][]Undo, err error) {
	return nil, errors.ErrUnsupported
}

// Release gives claims back at once, where the place still holds them, and returns how many it gave back.
func (w *Window) Release(ctx context.Context, claims ...Claimed) (int, error) {
	return 0, errors.ErrUnsupported
}

// Mark marks ids as seen and reports which of them were new.
func (w *Window) Mark(ctx context.Context, ids ...string) (fresh []bool, err error) {
	return nil, errors.ErrUnsupported
}

// Seen reports which ids are in the window. It changes nothing.
func (w *Window) Seen(ctx context.Context, ids ...string) ([]bool, error) {
	return nil, errors.ErrUnsupported
}

// Forget takes ids out of the window, whoever holds them, and returns how many were there.
func (w *Window) Forget(ctx context.Context, ids ...string) (int, error) {
	return 0, errors.ErrUnsupported
}

// Len estimates how many ids are in the window, in O(1).
func (w *Window) Len(ctx context.Context) (int64, error) {
	return 0, errors.ErrUnsupported
}

// Clear empties the window.
func (w *Window) Clear(ctx context.Context) error {
	return errors.ErrUnsupported
}

// Name returns the window's name.
func (w *Window) Name() string { return w.name }

// Shard returns the shard, 0 to n-1, that an id belongs to: the same in every process and version.
func Shard(id string, n int) int { return 0 }
