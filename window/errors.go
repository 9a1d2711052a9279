package window

import "errors"

var (
	// ErrLeaseLost says that another closer has taken the window over, or is done with it.
	ErrLeaseLost = errors.New("lease of the window is lost")
	// ErrNoSliding says that Config.Keep is 0, so no events are kept to look back on.
	ErrNoSliding = errors.New("Config.Keep is 0: no sliding window is kept")
	// ErrNoTumbling says that Config.Size is 0, so there are no windows to close.
	ErrNoTumbling = errors.New("Config.Size is 0: there are no tumbling windows")
)
