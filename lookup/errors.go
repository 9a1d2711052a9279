package lookup

import "errors"

var (
	// ErrNotLoaded says that this process has no snapshot yet.
	ErrNotLoaded = errors.New("lookup: no version is loaded yet")
	// ErrStale says that the snapshot could not be checked for longer than MaxAge, and Config.Stale is Fail.
	ErrStale = errors.New("lookup: the snapshot is too old to be trusted")
	// ErrEmpty says that the source had no rows and Config.AllowEmpty is not set. The old version stays.
	ErrEmpty = errors.New("lookup: the source is empty")
	// ErrDuplicateKey says that the source had a key twice. The old version stays.
	ErrDuplicateKey = errors.New("lookup: duplicate key")
	// ErrNullKey says that the source had a row whose key is NULL. The old version stays.
	ErrNullKey = errors.New("lookup: NULL key")
	// ErrDecode says that an entry could not be decoded. The old snapshot stays.
	ErrDecode = errors.New("lookup: entry does not decode")
)
