package backpressure

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/internal/uid"
	"github.com/redis/rueidis"
)

const (
	// unheardInterval is how often a producer polls while it cannot receive signals.
	unheardInterval = 250 * time.Millisecond
	// expiryJitter spreads the polls of waiting producers after a reservation has expired.
	expiryJitter = 15 * time.Millisecond
	// replyGrace is how long a request waits for its reply after its context has ended. The server may
	// run the request yet: what gives the room back must not come before it.
	replyGrace = 500 * time.Millisecond
	// leaveTimeout bounds the call that gives up a place in the queue.
	leaveTimeout = 500 * time.Millisecond
	// leaveLag and releaseLag bound how long that call and a release wait for Config.Lag.
	leaveLag, releaseLag = 100 * time.Millisecond, time.Second
)

// Gate holds producers back while too much is waiting. This type is concurrency safe.
type Gate struct {
	server   *redisx.Server
	name     string
	cfg      Config
	keys     []string // KEYS of every script
	sources  []string // key, field, sign and optional of each source
	listener *listener

	lagTurn  chan struct{} // held by the caller that asks Config.Lag; it guards the two below
	lastLag  time.Duration
	lagAsked time.Time
}

// New opens a gate. Producers and consumers of one stream use the same name and configuration. New
// checks the layout of the data and reads the sources once, so it reports a misspelt one. It
// records the configuration in Redis: a program that opens the gate with other values logs a
// warning that names both. It never closes client.
func New(ctx context.Context, client rueidis.Client, name string, cfg Config) (*Gate, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(name); err != nil {
		return nil, err
	}
	if err := redisx.CheckClient(client); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	cfg.Records, cfg.Bytes = slices.Clone(cfg.Records), slices.Clone(cfg.Bytes)
	g := &Gate{name: name, cfg: cfg, lagTurn: make(chan struct{}, 1)}
	prefix := "{" + name + "}:gate:"
	for _, k := range []string{"state", "never", "held", "queue", "waiters"} {
		g.keys = append(g.keys, prefix+k)
	}
	for _, sources := range [][]Source{cfg.Records, cfg.Bytes} {
		for _, s := range sources {
			sign, optional := "1", "0"
			if s.Minus {
				sign = "-1"
			}
			if s.Optional {
				optional = "1"
			}
			g.sources = append(g.sources, s.List+s.Hash, s.Field, sign, optional)
		}
	}
	g.listener = newListener(client, g.Channel(), cfg.Logger)
	var err error
	if g.server, err = redisx.Open(ctx, client, prefix+"never"); err != nil {
		return nil, g.wrap("open", err)
	}
	if _, err := g.call(ctx, "open", statsScript, -1, request{}); err != nil {
		return nil, err
	}
	return g, g.record(ctx)
}

// Name returns the name given to New.
func (g *Gate) Name() string { return g.name }

// Channel returns the Pub/Sub channel on which the gate announces the producers that it admits:
// {name}:gate:granted.
func (g *Gate) Channel() string { return "{" + g.name + "}:gate:granted" }

// SourceKeys returns the keys whose contents the gate measures: those of Config.Records and
// Config.Bytes, and Config.LagKey. There are none if only Config.Lag or Config.HighMemory close it.
func (g *Gate) SourceKeys() []string {
	var keys []string
	for _, s := range slices.Concat(g.cfg.Records, g.cfg.Bytes, []Source{{List: g.cfg.LagKey}}) {
		if key := s.List + s.Hash; key != "" && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// wrap adds the name and the call to an error.
func (g *Gate) wrap(call string, err error) error {
	if errors.Is(err, ErrLayout) || errors.Is(err, ErrSource) {
		return fmt.Errorf("%w: %s: %s", err, g.name, call)
	}
	return fmt.Errorf("backpressure: %s: %s: %w", g.name, call, err)
}

// grantTTL is how long the server keeps room for a waiting producer that has not picked it up. A
// live one polls in that time.
func (g *Gate) grantTTL() time.Duration { return min(g.cfg.ReservationTTL, 2*g.cfg.PollInterval) }

// Acquire blocks until n records may be pushed, or ctx is done, and reserves the room for them.
// Push them, then call [Reservation.Release]. n is 1 to High - Low, so that a gate that opens has
// room for it. Waiting producers are served in the order in which they asked, wherever they run.
//
// When ctx ends the wait, the error wraps both the error of ctx and a [*FullError] with the reason
// for the wait. Acquire then takes up to a second more to give up its place.
func (g *Gate) Acquire(ctx context.Context, n int) (*Reservation, error) {
	return g.AcquireBytes(ctx, n, 0)
}

// AcquireBytes is Acquire for n records of a total size, for a gate with Config.Bytes.
func (g *Gate) AcquireBytes(ctx context.Context, n int, bytes int64) (*Reservation, error) {
	r, err := g.reservation(n, bytes)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, g.wrap("acquire", err)
	}
	w := g.listener.register(r.id) // before the request: a grant that follows at once is not missed
	defer g.listener.unregister(r.id)
	var full *FullError
	for first := true; ; first = false {
		res, err := g.ask(ctx, r, 2*g.cfg.PollInterval+time.Second)
		if err == nil && res.granted {
			return r, nil
		}
		if err == nil {
			full = res.full(g, r.request())
			if first {
				g.listener.listen(ctx)
			}
			err = w.wait(ctx, g.pollAfter(res.next))
		}
		if err != nil {
			g.leave(ctx, r)
			if full != nil && ctx.Err() != nil {
				return nil, fmt.Errorf("%w: %w", full, ctx.Err())
			}
			return nil, err
		}
	}
}

// pollAfter returns when a waiting producer polls at the latest. next is when the next reservation
// expires.
func (g *Gate) pollAfter(next time.Duration) time.Duration {
	// A random part, so that many producers do not all poll at once.
	d := g.cfg.PollInterval - rand.N(g.cfg.PollInterval/4+1)
	if !g.listener.subscribed() {
		d = min(d, unheardInterval)
	}
	if next >= 0 {
		d = min(d, next+time.Millisecond+rand.N(expiryJitter))
	}
	return d
}

// TryAcquire is Acquire without waiting: if there is no room, it returns a [*FullError]. It never
// overtakes waiting producers. After an error, also at the end of ctx, it takes up to a second more
// to give back what it may have been granted.
func (g *Gate) TryAcquire(ctx context.Context, n int) (*Reservation, error) {
	return g.TryAcquireBytes(ctx, n, 0)
}

// TryAcquireBytes is TryAcquire for n records of a total size.
func (g *Gate) TryAcquireBytes(ctx context.Context, n int, bytes int64) (*Reservation, error) {
	r, err := g.reservation(n, bytes)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, g.wrap("acquire", err)
	}
	res, err := g.ask(ctx, r, 0)
	switch {
	case err != nil:
		g.leave(ctx, r) // the room may have been granted, and only the reply is lost
		return nil, err
	case !res.granted:
		return nil, res.full(g, r.request())
	}
	return r, nil
}

func (g *Gate) reservation(n int, bytes int64) (*Reservation, error) {
	if limit := limit(g.cfg.High, g.cfg.Low); n < 1 || int64(n) > limit {
		return nil, fmt.Errorf("%w: %s: n is %d, must be 1 to %d (High %d - Low %d)", ErrArgument, g.name, n, limit, g.cfg.High, g.cfg.Low)
	}
	if len(g.cfg.Bytes) == 0 {
		if bytes < 0 {
			return nil, fmt.Errorf("%w: %s: bytes is %d, must not be negative", ErrArgument, g.name, bytes)
		}
		bytes = 0
	} else if limit := limit(g.cfg.HighBytes, g.cfg.LowBytes); bytes < 1 || bytes > limit {
		return nil, fmt.Errorf("%w: %s: bytes is %d, must be 1 to %d (HighBytes %d - LowBytes %d)", ErrArgument, g.name, bytes, limit, g.cfg.HighBytes, g.cfg.LowBytes)
	}
	r := &Reservation{Records: n, Bytes: bytes, gate: g, id: uid.New()}
	r.member = fmt.Sprintf("%s %d %d %d %d", r.id, n, bytes, g.cfg.High, g.cfg.HighBytes)
	return r, nil
}

// limit is the most that fits whenever the gate opens.
func limit(high, low int64) int64 {
	if high == 0 {
		return maxDepth
	}
	return high - low
}

// ask asks once for a reservation.
func (g *Gate) ask(ctx context.Context, r *Reservation, wait time.Duration) (result, error) {
	lag, err := g.lag(ctx)
	if err != nil {
		return result{}, err
	}
	q := r.request()
	q.wait = wait
	// Taken before the server starts the clock of the reservation, so it ends first; the server
	// counts whole milliseconds.
	deadline := time.Now().Add(g.cfg.ReservationTTL - time.Millisecond)
	call, cancel := redisx.Outlive(ctx, replyGrace)
	defer cancel()
	res, err := g.call(call, "acquire", acquireScript, lag, q)
	if err == nil && res.granted {
		r.Deadline = deadline
	}
	return res, err
}

// leave gives up a place in the queue, or what was granted meanwhile. If it fails, the place
// expires.
func (g *Gate) leave(ctx context.Context, r *Reservation) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	timeout := time.AfterFunc(leaveTimeout, cancel)
	defer timeout.Stop()
	_, _ = g.call(ctx, "leave", releaseScript, g.lagOrWorst(ctx, leaveLag), r.request())
}

// Notify reports that there may be room: consumers call it after they have removed records (after
// an ack). It admits as many waiting producers as fit. It takes one round trip. Calling it rarely
// is fine, because a waiting producer also polls every Config.PollInterval.
func (g *Gate) Notify(ctx context.Context) error {
	lag, err := g.lag(ctx)
	if err != nil {
		return err
	}
	_, err = g.call(ctx, "notify", notifyScript, lag, request{})
	return err
}

// lag returns what Config.Lag returned, one caller at a time and not too often; negative without
// Config.Lag.
func (g *Gate) lag(ctx context.Context) (time.Duration, error) {
	if g.cfg.Lag == nil {
		return -1, nil
	}
	select {
	case g.lagTurn <- struct{}{}:
		defer func() { <-g.lagTurn }()
	case <-ctx.Done():
		return 0, g.wrap("lag", ctx.Err())
	}
	if !g.lagAsked.IsZero() && time.Since(g.lagAsked) < g.cfg.LagInterval {
		return g.lastLag, nil
	}
	d, err := g.cfg.Lag(ctx)
	if err != nil {
		return 0, fmt.Errorf("backpressure: %s: Config.Lag: %w", g.name, err)
	}
	g.lastLag, g.lagAsked = max(0, d), time.Now()
	return g.lastLag, nil
}

// lagOrWorst is lag for calls that must not fail because of it, nor wait for long: an unknown lag
// keeps a closed gate closed.
func (g *Gate) lagOrWorst(ctx context.Context, limit time.Duration) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	lag, err := g.lag(ctx)
	if err != nil {
		return g.cfg.HighLag
	}
	return lag
}
