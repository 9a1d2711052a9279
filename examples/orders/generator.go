package orders

import (
	"errors"
	"iter"
	"time"
)

// Shares and count that the demonstration uses.
const (
	DefaultOrders     = 10_000
	DefaultDuplicates = 0.05
	DefaultBad        = 0.005
)

// Config says what a Generator makes.
type Config struct {
	Seed       uint64    // the same seed makes the same bytes
	Orders     int       // how many records, duplicates and bad ones included; 0 means DefaultOrders
	Duplicates float64   // share of records that repeat an earlier good one, 0 to 1
	Bad        float64   // share of records that must be refused, 0 to 1
	Burst      bool      // all orders at one time instead of spread
	Start      time.Time // time of the first order; zero means 2026-01-01 00:00 UTC
}

// Expected is the truth about the records that a Generator handed out.
type Expected struct {
	Orders     int            // all of them: Unique + Duplicates + the sum of Rejected
	Unique     int            // distinct good orders: the rows that must be in the table
	Duplicates int            // repetitions of those
	Rejected   map[string]int // bad records by the code of their rejection
}

// A Generator makes payloads. It is not safe for concurrent use.
type Generator struct{ cfg Config }

// NewGenerator checks cfg and returns a Generator.
func NewGenerator(cfg Config) (*Generator, error) {
	return nil, errors.New("orders: NewGenerator is not written yet")
}

// Next returns the next payload, or false after the last one. The payload is the caller's.
func (g *Generator) Next() ([]byte, bool) { return nil, false }

// All yields the payloads that are left.
func (g *Generator) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for p, ok := g.Next(); ok && yield(p); p, ok = g.Next() {
		}
	}
}

// Expected returns the truth about the records handed out so far.
func (g *Generator) Expected() Expected { return Expected{} }
