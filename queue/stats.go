package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Stats are the books of a queue, read in one step: Taken = Acked + InFlight + Dead + Discarded +
// Lost. A requeue moves a record from Dead to InFlight.
type Stats struct {
	Ready     int64 // records in the ready list
	Delayed   int64 // records pushed for later
	InFlight  int64 // records in sealed batches: leased, waiting for redelivery, handed off or broken
	HandedOff int64 // of these, records handed off
	Dead      int64 // records in the dead-letter list

	LeasedBatches, WaitingBatches, HandedOffBatches int64 // sealed batches by state
	BrokenBatches                                   int64 // set aside: their keys are inconsistent

	Taken     int64 // records ever sealed
	Acked     int64 // records acknowledged
	Discarded int64 // dead records discarded by an operator
	Lost      int64 // records that Repair wrote off: their keys were deleted or overwritten

	Redelivered int64 // records delivered again, counted each time
	Requeued    int64 // dead records requeued, counted each time
	Splits      int64 // batches split

	// At is when they were read, by the server's clock. Compare it with the times of the queue, such
	// as HandedOff.Since: the clock of this program may be another one.
	At time.Time
	// OldestAge is how long the oldest record has been in flight. Ready records carry no time.
	OldestAge time.Duration
	// ClockBehind is how far the server's clock is behind the latest time that a script has seen.
	// ClockSteps counts how often it was set back. Leases and delays keep their length.
	ClockBehind time.Duration
	ClockSteps  int64
	// Reserved counts the records of bounded pushes in progress.
	Reserved int64
	Paused   bool
	// Damaged names the counters that hold no number, each with its text: another program has
	// overwritten them. They are 0 here, and no call changes them until Repair recounts them.
	Damaged string
}

// Depth returns the records that are not yet settled: ready, delayed and in flight.
func (s Stats) Depth() int64 { return s.Ready + s.Delayed + s.InFlight }

// Imbalance returns by how many records the books are off. It is 0 in a sound queue.
func (s Stats) Imbalance() int64 {
	return s.Taken - s.Acked - s.InFlight - s.Dead - s.Discarded - s.Lost
}

// Balanced returns nil if the books balance, or ErrImbalance with the equation and the difference,
// or with the counters that hold no number.
func (s Stats) Balanced() error {
	if s.Damaged != "" {
		return fmt.Errorf("%w: counters that hold no number: %s", ErrImbalance, s.Damaged)
	}
	if s.Imbalance() == 0 {
		return nil
	}
	return fmt.Errorf("%w: taken %d = acked %d + in flight %d + dead %d + discarded %d + lost %d is off by %d",
		ErrImbalance, s.Taken, s.Acked, s.InFlight, s.Dead, s.Discarded, s.Lost, s.Imbalance())
}

// Stats reads the books in one step. Its cost does not depend on the size of the queue.
func (q *Queue) Stats(ctx context.Context) (Stats, error) {
	reply, err := q.run(ctx, statsScript, drains).ToArray()
	if err != nil {
		return Stats{}, q.wrapScript(ctx, "stats", err)
	}
	if len(reply) != 2 {
		return Stats{}, unexpected("stats", len(reply), 2)
	}
	n, err := reply[0].AsIntMap()
	if err != nil {
		return Stats{}, wrap("stats", err)
	}
	damaged, err := reply[1].AsStrSlice()
	if err != nil {
		return Stats{}, wrap("stats", err)
	}
	var names []string
	for pair := range slices.Chunk(damaged, 2) {
		names = append(names, fmt.Sprintf("%s = %q", pair[0], pair[1]))
	}
	return Stats{
		Ready: n["ready"], Delayed: n["delayed"], InFlight: n["inflight"], HandedOff: n["handed"], Dead: n["dead"],
		LeasedBatches: n["leased"], WaitingBatches: n["waiting"], HandedOffBatches: n["handed_batches"],
		BrokenBatches: n["broken"],
		Taken:         n["taken"], Acked: n["acked"], Discarded: n["dropped"], Lost: n["lost"],
		Redelivered: n["redelivered"], Requeued: n["requeued"], Splits: n["splits"],
		At:          time.UnixMilli(n["at"]),
		OldestAge:   time.Duration(n["oldest_age"]) * time.Millisecond,
		ClockBehind: time.Duration(n["clock_behind"]) * time.Millisecond, ClockSteps: n["clock_steps"],
		Reserved: n["reserved"], Paused: n["paused"] != 0, Damaged: strings.Join(names, ", "),
	}, nil
}
