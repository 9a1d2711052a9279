package lookup

import (
	"errors"
	"fmt"
)

var (
	// ErrNotLoaded says that there is no version yet: nobody has refreshed the table, or this process has not read it.
	ErrNotLoaded = errors.New("lookup: no version is loaded yet")
	// ErrStale says that Redis could not be asked for longer than MaxAge, and Config.Stale is Fail.
	ErrStale = errors.New("lookup: the snapshot is too old to be trusted")
	// ErrEmpty says that the source had no rows and Config.AllowEmpty is not set. The old version stays.
	ErrEmpty = errors.New("lookup: the source is empty")
	// ErrDuplicateKey says that the source had a key twice. The old version stays.
	ErrDuplicateKey = errors.New("lookup: duplicate key")
	// ErrNullKey says that the source had a row whose key is NULL. The old version stays.
	ErrNullKey = errors.New("lookup: NULL key")
	// ErrDecode says that an entry in Redis cannot be decoded; it is an [*EntryError]. The old snapshot stays.
	ErrDecode = errors.New("lookup: entry does not decode")
	// ErrEncode says that an entry of the source cannot be encoded; it is an [*EntryError]. The old version stays.
	ErrEncode = errors.New("lookup: entry does not encode")
	// ErrIncomplete says that a version in Redis lacks entries: it was deleted or evicted. The old snapshot stays.
	ErrIncomplete = errors.New("lookup: the version is incomplete")
	// ErrNoLoader says that Refresh was called on a table without Config.Load.
	ErrNoLoader = errors.New("lookup: no Config.Load to refresh from")
	// ErrOvertaken says that this refresh took so long to be heard of that its lock ran out. Nothing was changed.
	ErrOvertaken = errors.New("lookup: the refresh lost its lock")
)

// EntryError names the entry of a table that cannot be encoded or decoded.
type EntryError struct {
	Key  string // as it is kept in Redis, or printed where it cannot be encoded
	Err  error  // what the codec said
	kind error  // ErrDecode or ErrEncode
}

// Error names the entry.
func (e *EntryError) Error() string { return fmt.Sprintf("%v: key %q: %v", e.kind, e.Key, e.Err) }

// Unwrap returns the sentinel and the codec's error.
func (e *EntryError) Unwrap() []error { return []error{e.kind, e.Err} }
