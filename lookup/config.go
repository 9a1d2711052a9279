package lookup

import (
	"context"
	"time"
)

// Loader reads the whole table from its source: it calls put for each entry and returns the first error that put or
// the source gives. put refuses a key that it has had already.
type Loader[K comparable, V any] func(ctx context.Context, put func(K, V) error) error

// Stale says what a table does when it could not check its version for longer than MaxAge.
type Stale uint8

const (
	// Serve goes on with the snapshot it has.
	Serve Stale = iota
	// Fail makes Snapshot and GetMany return [ErrStale].
	Fail
)

// Config sets up a [Table].
type Config[K comparable, V any] struct {
	// Load reads the table from its source; see [FromQuery] and [FromMap]. Without it the table can only be read.
	Load Loader[K, V]
	// MaxAge is how old the knowledge of the current version may get: the bound on staleness when every signal is
	// lost. Default 10 s.
	MaxAge time.Duration
	// Every makes Run refresh the table from its source that often; 0 means never (call Refresh).
	Every time.Duration
	// Stale says what to do when Redis could not be asked for longer than MaxAge.
	Stale Stale
	// AllowEmpty lets a refresh replace the table by an empty one.
	AllowEmpty bool
	// Keep is how long a version outlives its successor, for processes that are still reading it. Default 1 minute.
	Keep time.Duration
	// Chunk is how many entries one write or read command carries. Default 1,000.
	Chunk int
	// Keys and Values turn keys and values into bytes and back. Default: keys as text for strings and integers,
	// otherwise JSON; values as JSON.
	Keys   Codec[K]
	Values Codec[V]
	// OnError is told of errors that Run retries.
	OnError func(error)
}

// Codec turns a T into bytes and back. Encode must be injective for keys.
type Codec[T any] struct {
	Encode func(T) ([]byte, error)
	Decode func([]byte) (T, error)
}
