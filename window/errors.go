package window

import "errors"

var (
	// ErrConfig reports a bad name or Config. The text names the field, its value and the allowed
	// range.
	ErrConfig = errors.New("window: invalid configuration")
	// ErrLayout reports data in the layout of another version of this package. The text names both
	// versions.
	ErrLayout = errors.New("window: layout of the data differs")
	// ErrMissing is returned by [Open] for a name that no program has used, or whose data has expired.
	ErrMissing = errors.New("window: there are no windows of this name")
	// ErrEviction reports a server that evicts keys when its memory is full; see Config.Eviction.
	ErrEviction = errors.New("window: the server may evict keys")
	// ErrLeaseLost reports that the lease has expired. Another closer may hold the window, or be done
	// with it.
	ErrLeaseLost = errors.New("window: lease lost")
	// ErrNoSliding reports a call for the sliding window when Config.Keep is 0.
	ErrNoSliding = errors.New("window: Config.Keep is 0: no sliding window is kept")
	// ErrNoTumbling reports a call for tumbling windows when Config.Size is 0.
	ErrNoTumbling = errors.New("window: Config.Size is 0: there are no tumbling windows")
	// ErrArgument reports an argument that is out of its range.
	ErrArgument = errors.New("window: invalid argument")
	// ErrImbalance reports books that do not balance, or an audit that found differences.
	ErrImbalance = errors.New("window: the books do not balance")
)
