package backpressure

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrConfig reports an invalid name or Config. The text names the field, its value and its
	// range.
	ErrConfig = errors.New("backpressure: invalid configuration")
	// ErrLayout reports data that a program of another layout version wrote. The text names both
	// versions.
	ErrLayout = errors.New("backpressure: layout of the data differs")
	// ErrArgument reports an argument that is out of its range.
	ErrArgument = errors.New("backpressure: invalid argument")
	// ErrSource reports a source that does not count anything: a hash without the field, a value
	// that is no integer, a key of another type, a server without maxmemory. The gate lets nothing
	// through.
	ErrSource = errors.New("backpressure: invalid source")
	// ErrFull reports that the gate is closed. The error that wraps it is a [*FullError].
	ErrFull = errors.New("backpressure: gate is closed")
	// ErrExpired reports that a reservation had expired before its release. Its records were not
	// counted for a moment, so the bound may have been exceeded by them.
	ErrExpired = errors.New("backpressure: reservation has expired")
	// ErrImbalance is what [AuditReport.Balanced] returns.
	ErrImbalance = errors.New("backpressure: the books do not balance")
)

// FullError is what keeps the gate closed.
type FullError struct {
	// Gate is the gate's name.
	Gate string
	// What is "records", "bytes", "lag" or "memory", or "queue" when only other producers that wait
	// are in the way.
	What string
	// Depth is what is there now: records, bytes, milliseconds of lag, or millionths of maxmemory.
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
