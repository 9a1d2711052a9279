package redisx

import (
	"errors"
	"fmt"
	"testing"

	"github.com/redis/rueidis"
)

// A failover ends calls with the error of a closed client too, but not one after the other.
func TestClosedNeedsSeveralCallsInARow(t *testing.T) {
	closing := fmt.Errorf("queue: lease: %w", rueidis.ErrClosing)
	var c Closed
	for range 3 {
		for i := range closedAfter - 1 {
			if c.By(closing) {
				t.Fatalf("closed after %d calls", i+1)
			}
		}
		if c.By(nil) || c.By(errors.New("refused")) {
			t.Error("closed, although the last call has reached the server")
		}
	}
	for i := range closedAfter {
		if got, want := c.By(closing), i == closedAfter-1; got != want {
			t.Errorf("call %d: got %t, want %t", i+1, got, want)
		}
	}
}
