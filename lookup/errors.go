package lookup

import (
	"errors"
	"fmt"
	"strings"
)

// The errors of this package; test with errors.Is. All but those of New and NewRemote name the
// table.
var (
	// ErrConfig reports a bad name or configuration, or a query whose columns do not match the types
	// of the table. A retry cannot succeed. The text names the field, its value and the allowed range.
	ErrConfig = errors.New("lookup: invalid configuration")
	// ErrNotLoaded reports that there is no version yet. The table was never refreshed, or this
	// process has not read it.
	ErrNotLoaded = errors.New("lookup: no version is loaded yet")
	// ErrStale reports that Redis has not answered for longer than MaxAge, and Config.Stale is
	// StaleFail.
	ErrStale = errors.New("lookup: the snapshot is too old to be trusted")
	// ErrEmpty reports that the source has no rows and Config.AllowEmpty is not set. The old version
	// stays.
	ErrEmpty = errors.New("lookup: the source is empty")
	// ErrDuplicateKey reports that the source has a key twice. The old version stays.
	ErrDuplicateKey = errors.New("lookup: duplicate key")
	// ErrNullKey reports that the source has a row whose key is NULL. The old version stays.
	ErrNullKey = errors.New("lookup: NULL key")
	// ErrDecode reports an entry in Redis that cannot be decoded. The error is an [*EntryError]. The
	// old snapshot stays.
	ErrDecode = errors.New("lookup: cannot decode entry")
	// ErrEncode reports an entry of the source that cannot be encoded. The error is an [*EntryError].
	// The old version stays.
	ErrEncode = errors.New("lookup: cannot encode entry")
	// ErrIncomplete reports a version in Redis that lacks entries, because they were deleted or
	// evicted. The old snapshot stays.
	ErrIncomplete = errors.New("lookup: the version is incomplete")
	// ErrNoLoader reports that Refresh was called on a table without Config.Load.
	ErrNoLoader = errors.New("lookup: Config.Load is not set")
	// ErrOvertaken reports that the refresh lost its lock, because it could not renew it in time.
	// Nothing was changed.
	ErrOvertaken = errors.New("lookup: the refresh lost its lock")
	// ErrLayout reports a table in the layout of another version of this package. The text names both
	// versions.
	ErrLayout = errors.New("lookup: layout of the data differs")
)

// EntryError describes an entry that cannot be encoded or decoded.
type EntryError struct {
	Key  string // as it is stored in Redis, or printed where it cannot be encoded
	Err  error  // the error of the codec
	kind error  // ErrDecode or ErrEncode
}

// maxKeyText is the largest number of bytes of a key in an error text.
const maxKeyText = 200

// Error returns the key and the error of the codec.
func (e *EntryError) Error() string {
	return fmt.Sprintf("%v: key %s: %v", e.kind, keyText(e.Key), e.Err)
}

// Unwrap returns the sentinel and the error of the codec.
func (e *EntryError) Unwrap() []error { return []error{e.kind, e.Err} }

// keyText quotes a key for an error text, cut to maxKeyText bytes.
func keyText(key string) string {
	if len(key) > maxKeyText {
		return fmt.Sprintf("%q…", key[:maxKeyText])
	}
	return fmt.Sprintf("%q", key)
}

// tableError adds the name of the table to an error.
type tableError struct {
	table string
	err   error
}

func named(table string, err error) error {
	if err == nil {
		return nil
	}
	return &tableError{table: table, err: err}
}

func (e *tableError) Error() string {
	text := strings.ReplaceAll(": "+e.err.Error(), ": lookup: ", ": ") // the prefix occurs once, at the beginning
	return fmt.Sprintf("lookup: table %q%s", e.table, text)
}

func (e *tableError) Unwrap() error { return e.err }
