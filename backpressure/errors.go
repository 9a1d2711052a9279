package backpressure

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrFull says that the gate is closed. The error that wraps it is a [*FullError].
	ErrFull = errors.New("gate is closed")
	// ErrExpired says that a reservation had expired before it was done: its records were not counted for a
	// moment, so the bound may have been exceeded by them.
	ErrExpired = errors.New("reservation has expired")
)

// FullError says what keeps the gate closed.
type FullError struct {
	// Gate is the gate's name.
	Gate string
	// What is "records", "bytes" or "lag", or "memory" when the server is at its maxmemory.
	What string
	// Depth is what is there now, in records, bytes or milliseconds of lag.
	Depth int64
	// Reserved is what producers have been allowed and have not pushed yet.
	Reserved int64
	// Asked is what this call asked for.
	Asked int64
	// High and Low are the watermarks, in the same unit.
	High, Low int64
}

func (e *FullError) Error() string {
	if e.What == "lag" {
		ms := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
		return fmt.Sprintf("backpressure: %v: %s: the oldest record waits for %v: it closes at %v and opens at %v", ErrFull, e.Gate, ms(e.Depth), ms(e.High), ms(e.Low))
	}
	if e.What == "memory" {
		return fmt.Sprintf("backpressure: %v: %s: the server is at its maxmemory, with %d records and %d reserved", ErrFull, e.Gate, e.Depth, e.Reserved)
	}
	return fmt.Sprintf("backpressure: %v: %s: %d %s and %d reserved, %d more asked for: it closes at %d and opens at %d",
		ErrFull, e.Gate, e.Depth, e.What, e.Reserved, e.Asked, e.High, e.Low)
}

// Unwrap makes errors.Is(err, ErrFull) true.
func (e *FullError) Unwrap() error { return ErrFull }
