package redisx

import (
	"errors"

	"github.com/redis/rueidis"
)

// closedAfter is how many calls in a row must fail. A client that follows a failover ends the calls
// on its old connections with the same error as one that its program has closed.
const closedAfter = 5

// Closed finds out that a client is closed for good. The zero value is ready. It belongs to one
// goroutine.
type Closed struct{ calls int }

// By takes in the error of a call, nil for a success. It reports whether the client is closed.
func (c *Closed) By(err error) bool {
	if !errors.Is(err, rueidis.ErrClosing) {
		c.calls = 0
		return false
	}
	c.calls++
	return c.calls >= closedAfter
}
