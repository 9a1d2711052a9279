package backpressure

import (
	"context"
	"fmt"
	"time"
)

// Stats is the state of a gate at one moment.
type Stats struct {
	// Closed reports whether the gate is closed.
	Closed bool
	// Records and Bytes are the measured depth, ReservedRecords and ReservedBytes the grants that may
	// not have been pushed yet.
	Records, Bytes                 int64
	ReservedRecords, ReservedBytes int64
	// Producers is the number of reservations, Waiting the number of waiting producers.
	Producers, Waiting int64
	// Lag is how long the oldest record has waited, 0 for a gate without HighLag.
	Lag time.Duration
	// Memory is the fraction of the server's maxmemory that is in use, 0 for a gate without
	// HighMemory.
	Memory float64
	// ClockBehind is how far the server's clock is behind the gate's own, which never goes back. It is
	// 0 unless the server's clock was set back. Reservations follow the gate's clock.
	ClockBehind time.Duration

	memory int64 // in millionths
}

// Stats reads depth, reservations and waiters in one step. It changes nothing.
func (g *Gate) Stats(ctx context.Context) (Stats, error) {
	lag, err := g.lag(ctx)
	if err != nil {
		return Stats{}, err
	}
	r, err := g.call(ctx, "stats", statsScript, lag, request{})
	return r.Stats, err
}

// AuditReport is the result of [Gate.Audit] and [Gate.Repair].
type AuditReport struct {
	// Differences describe the errors that were found. Repaired lists the changes that Repair made.
	Differences, Repaired []string
}

// Balanced returns nil, or an [ErrImbalance] with the first difference.
func (a AuditReport) Balanced() error {
	if len(a.Differences) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d differences, the first: %s", ErrImbalance, len(a.Differences), a.Differences[0])
}

// Audit recounts the reservations and compares them with their sums, in one step. It takes about a
// microsecond per reservation.
func (g *Gate) Audit(ctx context.Context) (AuditReport, error) { return g.audit(ctx, false) }

// Repair audits and corrects the differences. A key of another type is deleted: its reservations
// are lost, so they may exceed the bound once.
func (g *Gate) Repair(ctx context.Context) (AuditReport, error) { return g.audit(ctx, true) }

func (g *Gate) audit(ctx context.Context, repair bool) (a AuditReport, err error) {
	for i, want := range []string{"hash", "none", "zset", "zset", "zset"} {
		got, err := g.server.Read(ctx, "TYPE", g.keys[i]).ToString()
		if err != nil {
			return a, g.wrap("audit", err)
		}
		if got == want || got == "none" {
			continue
		}
		a.Differences = append(a.Differences, fmt.Sprintf("key %s: type is %s, must be %s", g.keys[i], got, want))
		if !repair {
			return a, nil // the scripts cannot read it
		}
		client := g.server.Client()
		if err := client.Do(ctx, client.B().Unlink().Key(g.keys[i]).Build()).Error(); err != nil {
			return a, g.wrap("repair", err)
		}
		a.Repaired = append(a.Repaired, "deleted key "+g.keys[i])
	}
	lag, err := g.lag(ctx)
	if err != nil {
		return a, err
	}
	r, err := g.run(ctx, auditScript, lag, request{})
	if err != nil {
		return a, g.wrap("audit", err)
	}
	v, err := r.AsIntSlice()
	if err == nil && len(v) != 8 {
		err = fmt.Errorf("unexpected reply: got %d elements, want 8", len(v))
	}
	if err != nil {
		return a, g.wrap("audit", err)
	}
	before := len(a.Differences)
	for i, unit := range []string{"records", "bytes"} {
		if kept, counted := v[i], v[i+2]; kept != counted {
			a.Differences = append(a.Differences, fmt.Sprintf("the reservations have %d %s, but their sum is kept as %d: off by %d", counted, unit, kept, kept-counted))
		}
	}
	if v[4] != 0 || v[5] != v[6] {
		a.Differences = append(a.Differences, fmt.Sprintf("%d producers wait, but %d have a place in the queue", v[5], v[6]))
	}
	if v[7] != 0 {
		a.Differences = append(a.Differences, fmt.Sprintf("%d reservations are none that this package writes, or never expire", v[7]))
	}
	if !repair || len(a.Differences) == before {
		return a, nil
	}
	if _, err := g.call(ctx, "repair", repairScript, lag, request{}); err != nil {
		return a, err
	}
	a.Repaired = append(a.Repaired, "recounted the reservations and the queue")
	return a, nil
}
