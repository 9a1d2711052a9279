package backpressure

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrConfig reports a bad name or Config. The text names the field, its value and the allowed
	// range.
	ErrConfig = errors.New("backpressure: invalid configuration")
	// ErrLayout reports data in the layout of another version of this package. The text names both
	// versions.
	ErrLayout = errors.New("backpressure: layout of the data differs")
	// ErrArgument reports an argument that is out of its range.
	ErrArgument = errors.New("backpressure: invalid argument")
	// ErrSource reports a source that cannot be read as a number: a hash without the field, a value
	// that is not an integer, a key of another type, or a server without maxmemory. The gate admits no
	// producer.
	ErrSource = errors.New("backpressure: invalid source")
	// ErrFull reports that the gate is closed. The error that wraps it is a [*FullError].
	ErrFull = errors.New("backpressure: gate is closed")
	// ErrExpired reports that a reservation had expired before its release. Its records were not
	// counted for a moment, so they may have exceeded the bound.
	ErrExpired = errors.New("backpressure: reservation has expired")
	// ErrImbalance reports an audit that found differences.
	ErrImbalance = errors.New("backpressure: the books do not balance")
)

// FullError is ErrFull with the reason and the figures.
type FullError struct {
	// Gate is the gate's name.
	Gate string
	// What is "records", "bytes", "lag" or "memory". It is "queue" if only other waiting producers are
	// in the way.
	What string
	// Depth is the current value: records, bytes, milliseconds of lag, or millionths of maxmemory.
	Depth int64
	// Reserved is what producers have been granted and may not have pushed yet.
	Reserved int64
	// Asked is what this call asked for.
	Asked int64
	// High and Low are the watermarks, in the unit of Depth.
	High, Low int64
	// Waiting is how many producers wait at the gate.
	Waiting int64
}

func (e *FullError) Error() string {
	switch e.What {
	case "lag":
		ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
		return fmt.Sprintf("%v: %s: the oldest record has waited for %v: it closes at %v and opens at %v", ErrFull, e.Gate, ms(e.Depth), ms(e.High), ms(e.Low))
	case "memory":
		if e.High == 0 {
			return fmt.Sprintf("%v: %s: the server is at maxmemory", ErrFull, e.Gate)
		}
		percent := func(n int64) float64 { return float64(n) / 10_000 }
		return fmt.Sprintf("%v: %s: %.1f %% of maxmemory used: it closes at %.1f %% and opens at %.1f %%", ErrFull, e.Gate, percent(e.Depth), percent(e.High), percent(e.Low))
	case "queue":
		return fmt.Sprintf("%v: %s: %d producers wait for their turn", ErrFull, e.Gate, e.Waiting)
	}
	return fmt.Sprintf("%v: %s: %d %s and %d reserved, %d more asked for: it closes at %d and opens at %d",
		ErrFull, e.Gate, e.Depth, e.What, e.Reserved, e.Asked, e.High, e.Low)
}

// Unwrap makes errors.Is(err, ErrFull) true.
func (e *FullError) Unwrap() error { return ErrFull }
