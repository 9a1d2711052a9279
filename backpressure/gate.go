package backpressure

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/headrace/headrace/internal/uid"
	"github.com/redis/rueidis"
)

//go:embed gate.lua
var gateLua string

// Not retryable: an ask whose reply was lost may have reserved already. Its reservation expires.
var gateScript = rueidis.NewLuaScript(gateLua)

// Gate holds producers back while too much is waiting. This type is concurrency safe.
type Gate struct {
	client rueidis.Client
	name   string
	cfg    Config
	keys   []string // flag, reservations, sources
	tail   []string // ARGV 6 and on, but for the lag
	hear   listener

	lagMu    sync.Mutex
	lag      time.Duration
	lagAsked time.Time
}

// New makes a gate. Producers and consumers of one stream make it with the same name and configuration. It asks the
// server nothing. The client stays the caller's.
func New(client rueidis.Client, name string, cfg Config) (*Gate, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(name); err != nil {
		return nil, err
	}
	g := &Gate{client: client, name: name, cfg: cfg, keys: []string{"{" + name + "}:gate", "{" + name + "}:gate:held"}}
	g.hear.client, g.hear.channel, g.hear.retry = client, g.Channel(), cfg.PollInterval
	for _, s := range append(append([]Source(nil), cfg.Records...), cfg.Bytes...) {
		sign := "1"
		if s.Minus {
			sign = "-1"
		}
		g.keys = append(g.keys, s.List+s.Hash)
		g.tail = append(g.tail, s.Field, sign)
	}
	if cfg.LagKey != "" {
		g.keys = append(g.keys, cfg.LagKey)
	}
	return g, nil
}

// Channel is the pub/sub channel on which the opening of the gate is told: {name}:gate:open.
func (g *Gate) Channel() string { return "{" + g.name + "}:gate:open" }

// Wait blocks until n records may be pushed, or ctx is done, and reserves the room for them. Push them, then call
// [Reservation.Release]. n is 1 to High - Low, so that a gate that opens has room for it.
//
// When ctx ends the wait, the error is both its error and the [*FullError] that the wait was for.
func (g *Gate) Acquire(ctx context.Context, n int) (*Reservation, error) {
	return g.AcquireBytes(ctx, n, 0)
}

// WaitBytes is Wait for n records of a total size, for a gate with Config.Bytes.
func (g *Gate) AcquireBytes(ctx context.Context, n int, bytes int64) (*Reservation, error) {
	r, full := g.TryAcquireBytes(ctx, n, bytes)
	if !errors.Is(full, ErrFull) {
		return r, full
	}
	g.hear.join(ctx)
	defer g.hear.leave()
	for {
		// In hand before the look: what opens the gate after the look is then not missed.
		opened := g.hear.next()
		r, err := g.TryAcquireBytes(ctx, n, bytes)
		if ctx.Err() != nil && r == nil && !errors.Is(err, ErrFull) {
			return nil, fmt.Errorf("%w: %w", err, full) // cut off in the middle of a look
		} else if !errors.Is(err, ErrFull) {
			return r, err
		}
		full = err
		// A quarter of chance, so that many producers do not all look at once.
		look := time.NewTimer(g.cfg.PollInterval - rand.N(g.cfg.PollInterval/4+1))
		select {
		case <-opened:
		case <-look.C:
		case <-ctx.Done():
			look.Stop()
			return nil, fmt.Errorf("%w: %w", ctx.Err(), full)
		}
		look.Stop()
	}
}

// Try is Wait that answers at once: a [*FullError] says why it is not possible now.
func (g *Gate) TryAcquire(ctx context.Context, n int) (*Reservation, error) {
	return g.TryAcquireBytes(ctx, n, 0)
}

// TryBytes is Try for n records of a total size.
func (g *Gate) TryAcquireBytes(ctx context.Context, n int, bytes int64) (*Reservation, error) {
	if limit := g.limit(g.cfg.High, g.cfg.Low); n < 1 || int64(n) > limit {
		return nil, fmt.Errorf("backpressure: %s: n is %d: must be 1 to %d (High %d - Low %d)", g.name, n, limit, g.cfg.High, g.cfg.Low)
	}
	if len(g.cfg.Bytes) == 0 {
		bytes = 0
	} else if limit := g.limit(g.cfg.HighBytes, g.cfg.LowBytes); bytes < 1 || bytes > limit {
		return nil, fmt.Errorf("backpressure: %s: bytes is %d: must be 1 to %d (HighBytes %d - LowBytes %d)", g.name, bytes, limit, g.cfg.HighBytes, g.cfg.LowBytes)
	}
	r := &Reservation{Records: n, Bytes: bytes, gate: g}
	r.member = fmt.Sprintf("%s %d %d", uid.New(), n, bytes)
	// Taken before the server starts the clock of the reservation, so it ends first; the server counts whole milliseconds.
	r.Deadline = time.Now().Add(g.cfg.ReservationTTL - time.Millisecond)
	look, err := g.run(ctx, "ask", r.member, n, bytes)
	if err != nil {
		return nil, err
	}
	if look.granted {
		return r, nil
	}
	return nil, look.full(g, int64(n), bytes)
}

// limit is the most that fits whenever the gate opens.
func (g *Gate) limit(high, low int64) int64 {
	if high == 0 {
		return maxDepth
	}
	return high - low
}

// Notify is called by consumers after they have taken something away (after an ack). If that opens the gate, all
// waiting producers are told. It costs one round trip and may be called as rarely as one likes: a producer also looks
// by itself every Config.PollInterval.
func (g *Gate) Notify(ctx context.Context) error {
	_, err := g.run(ctx, "notify", "", 0, 0)
	return err
}

// State reads depth and reservations. It changes nothing.
func (g *Gate) Stats(ctx context.Context) (Stats, error) {
	look, err := g.run(ctx, "state", "", 0, 0)
	return look.Stats, err
}

// State is what a gate sees.
type Stats struct {
	// Closed says whether producers wait.
	Closed bool
	// Records and Bytes are the true depth, Reserved… what has been allowed and is not known to be pushed.
	Records, Bytes                 int64
	ReservedRecords, ReservedBytes int64
	// Producers is the number of open reservations.
	Producers int
	// Lag is how long the oldest record waits, 0 for a gate that does not look at it.
	Lag time.Duration
}

// look is the script's reply.
type look struct {
	Stats
	granted bool
	what    string
	removed bool
}

func (l look) full(g *Gate, n, bytes int64) *FullError {
	e := &FullError{Gate: g.name, What: l.what}
	switch l.what {
	case "bytes":
		e.Depth, e.Reserved, e.Asked, e.High, e.Low = l.Bytes, l.ReservedBytes, bytes, g.cfg.HighBytes, g.cfg.LowBytes
	case "lag":
		e.Depth, e.High, e.Low = l.Lag.Milliseconds(), g.cfg.HighLag.Milliseconds(), g.cfg.LowLag.Milliseconds()
	default:
		e.Depth, e.Reserved, e.Asked, e.High, e.Low = l.Records, l.ReservedRecords, n, g.cfg.High, g.cfg.Low
	}
	return e
}

func (g *Gate) run(ctx context.Context, op, member string, n int, bytes int64) (look, error) {
	lag := int64(-1)
	if g.cfg.Lag != nil {
		d, err := g.askLag(ctx)
		if err != nil {
			return look{}, fmt.Errorf("backpressure: %s: Config.Lag: %w", g.name, err)
		}
		lag = max(0, d.Milliseconds())
	}
	i := func(n int64) string { return strconv.FormatInt(n, 10) }
	args := append([]string{
		op, member, i(int64(n)), i(bytes), i(g.cfg.ReservationTTL.Milliseconds()), g.Channel(),
		i(g.cfg.High), i(g.cfg.Low), i(g.cfg.HighBytes), i(g.cfg.LowBytes), i(g.cfg.HighLag.Milliseconds()), i(g.cfg.LowLag.Milliseconds()), i(lag),
		strconv.Itoa(len(g.cfg.Records)), strconv.Itoa(len(g.cfg.Bytes)),
	}, g.tail...)
	reply, err := gateScript.Exec(ctx, g.client, g.keys, args).ToArray()
	if err == nil && len(reply) != 10 {
		err = fmt.Errorf("a reply of %d values, want 10", len(reply))
	}
	if err != nil {
		return look{}, fmt.Errorf("backpressure: %s: %s: %w", g.name, op, err)
	}
	var v [10]int64
	for at := range reply {
		if at == 1 {
			continue
		}
		if v[at], err = reply[at].AsInt64(); err != nil {
			return look{}, fmt.Errorf("backpressure: %s: %s: value %d of the reply: %w", g.name, op, at, err)
		}
	}
	what, err := reply[1].ToString()
	if err != nil {
		return look{}, fmt.Errorf("backpressure: %s: %s: %w", g.name, op, err)
	}
	return look{
		granted: v[0] == 1, what: what, removed: v[9] > 0,
		Stats: Stats{
			Closed: v[2] == 1, Records: v[3], ReservedRecords: v[4], Bytes: v[5], ReservedBytes: v[6],
			Lag: time.Duration(v[7]) * time.Millisecond, Producers: int(v[8]),
		},
	}, nil
}

// askLag asks Config.Lag, one caller at a time and not too often.
func (g *Gate) askLag(ctx context.Context) (time.Duration, error) {
	g.lagMu.Lock()
	defer g.lagMu.Unlock()
	if !g.lagAsked.IsZero() && time.Since(g.lagAsked) < g.cfg.LagInterval {
		return g.lag, nil
	}
	d, err := g.cfg.Lag(ctx)
	if err != nil {
		return 0, err
	}
	g.lag, g.lagAsked = d, time.Now()
	return d, nil
}

// Reservation is room for records that are about to be pushed.
type Reservation struct {
	// Records and Bytes are what was asked for.
	Records int
	Bytes   int64
	// Deadline is until when the room is kept, by this process' clock and on the safe side. Push before it, or ask again.
	Deadline time.Time

	gate   *Gate
	member string
	mu     sync.Mutex
	done   bool
}

// Done gives the reservation back: the records have been pushed, or will not be. Calling it twice is harmless, also
// after an error. [ErrExpired] says that the room had been given away before.
func (r *Reservation) Release(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return nil
	}
	look, err := r.gate.run(ctx, "done", r.member, 0, 0)
	if err != nil {
		return err
	}
	r.done = true
	if !look.removed {
		return fmt.Errorf("backpressure: %s: %w: of %d records, after %v", r.gate.name, ErrExpired, r.Records, r.gate.cfg.ReservationTTL)
	}
	return nil
}
