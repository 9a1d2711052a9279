package pipeline

import (
	"fmt"
	"strings"
	"time"

	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Location is where a record or batch is. They are in the order in which records move.
type Location uint8

// The locations of a FoundPlace.
const (
	LocationDelayed   Location = iota + 1 // pushed for later; At: when it may be leased
	LocationReady                         // in the ready list; Position: the records before it
	LocationWaiting                       // its batch waits for redelivery; At: from when on
	LocationLeased                        // a worker holds its batch; At: the deadline of the lease
	LocationSettling                      // its batch failed too often and will be split or buried
	LocationHandedOff                     // handed off, but in no registry and not in the ledger
	LocationBroken                        // its batch was set aside: its keys are inconsistent
	LocationStaged                        // its batch waits for a promotion; At: when it was staged
	LocationPromoted                      // committed; At: when
	LocationRejected                      // in the table of rejects; At: when
	LocationDead                          // in the dead-letter list; At: when
	LocationVoid                          // its batch was made void, to be split or buried; At: when
)

var locationNames = []string{
	"nowhere", "delayed", "ready", "waiting for redelivery", "leased", "settling", "handed off", "broken", "staged", "promoted", "rejected", "dead", "void",
}

// String returns the name of the location.
func (s Location) String() string {
	if int(s) < len(locationNames) {
		return locationNames[s]
	}
	return fmt.Sprintf("Location(%d)", uint8(s))
}

// MarshalText returns the name of the location.
func (s Location) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// WholeBatch is the Position of a FoundPlace that is about a batch, or a row of unknown batch.
const WholeBatch = -1

// FindResult is the result of [Find].
type FindResult struct {
	ID     string       `json:"id"`
	At     time.Time    `json:"at"`
	Places []FoundPlace `json:"places"` // in the order of their locations
	// Limits name what was not looked through, and why. If there are none, a record that has no place
	// is not in the pipeline.
	Limits []string `json:"limits,omitempty"`
}

// FoundPlace is one place of a record. Fields that do not apply are zero.
type FoundPlace struct {
	Location Location `json:"location"`
	// Batch has the record at Position, from 0. Without a Batch, Position is the number of records
	// before it.
	Batch    string `json:"batch,omitempty"`
	Position int    `json:"position"`
	Records  int    `json:"records,omitempty"` // of the batch
	// Worker held the batch last, with this attempt.
	Worker  string    `json:"worker,omitempty"`
	Attempt int64     `json:"attempt,omitempty"`
	At      time.Time `json:"time,omitzero"` // see Location
	// Duplicate reports that this record is dropped as a duplicate of the one that holds the id.
	Duplicate bool `json:"duplicate,omitempty"`
	// Unacked reports that the queue still has the batch in flight.
	Unacked bool `json:"unacked,omitempty"`
	// Row is the row of a promoted record as JSON. Empty: no row with its key was found. The record
	// was filtered then, or the row is deleted or changed, or [FindResult].Limits names the rows as
	// not looked through. If a row with the key was there before, it is that one.
	Row string `json:"row,omitempty"`
	// Code, Reason, Source and Resolved are those of a reject, Reason also of a dead letter and of a
	// batch that has failed.
	Code     string    `json:"code,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Source   string    `json:"source,omitempty"`
	Resolved time.Time `json:"resolved,omitzero"`
}

// inFlight reports whether Redis has the batch of the place in flight.
func (p FoundPlace) inFlight() bool {
	return p.Location >= LocationWaiting && p.Location <= LocationBroken
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// flightLocations are the states of a batch in flight.
var flightLocations = map[queue.BatchState]Location{
	queue.BatchStateLeased: LocationLeased, queue.BatchStateSettling: LocationSettling, queue.BatchStateWaiting: LocationWaiting,
	queue.BatchStateHandedOff: LocationHandedOff, queue.BatchStateBroken: LocationBroken,
}

func flightPlace(b queue.BatchInfo, position int) FoundPlace {
	return FoundPlace{
		Location: flightLocations[b.State], Batch: b.ID, Position: position, Records: b.Records, Worker: b.Worker, Attempt: b.Attempt, At: b.Since, Reason: b.Reason,
	}
}

func deadPlace(d queue.DeadLetter) FoundPlace {
	return FoundPlace{Location: LocationDead, Batch: d.ID, Records: 1, Attempt: d.Attempts, At: d.Died, Reason: d.Reason}
}

func storedPlace(b staging.FoundBatch, position int) FoundPlace {
	p := FoundPlace{Batch: b.ID, Position: position, Records: b.Records, Worker: b.Worker, Attempt: b.Attempt}
	switch b.Fate {
	case staging.FateStaged:
		p.Location, p.At = LocationStaged, b.Staged
	case staging.FatePromoted:
		p.Location, p.At = LocationPromoted, b.Committed
	default:
		p.Location, p.At = LocationVoid, b.Committed
	}
	return p
}

// String describes the place on one line.
func (p FoundPlace) String() string {
	parts := []string{p.Location.String()}
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch {
	case p.Batch != "" && p.Position != WholeBatch && p.Records > 0:
		add("record %d of %d in batch %s", p.Position+1, p.Records, p.Batch)
	case p.Batch != "" && p.Position != WholeBatch:
		add("record %d of batch %s", p.Position+1, p.Batch)
	case p.Batch != "":
		add("batch %s of %d records", p.Batch, p.Records)
	case p.Position != WholeBatch:
		add("%d records before it", p.Position)
	}
	if p.Worker != "" {
		add("worker %s", p.Worker)
	}
	if p.Attempt > 0 {
		add("attempt %d", p.Attempt)
	}
	if !p.At.IsZero() {
		add("%s%s", map[Location]string{
			LocationDelayed: "until ", LocationWaiting: "until ", LocationLeased: "lease until ", LocationSettling: "lease until ",
		}[p.Location], stamp(p.At))
	}
	if p.Duplicate {
		add("a duplicate")
	}
	if p.Code != "" {
		add("%s: %s (%s)", p.Code, p.Reason, p.Source)
	} else if p.Reason != "" {
		add("%s", p.Reason)
	}
	if !p.Resolved.IsZero() {
		add("resolved %s", stamp(p.Resolved))
	}
	if p.Row != "" {
		add("row %s", p.Row)
	} else if p.Location == LocationPromoted && p.Position != WholeBatch && !p.Duplicate {
		add("no row with its key was found")
	}
	if p.Unacked {
		add("not yet acknowledged")
	}
	return strings.Join(parts, ", ")
}

// String describes all places, a line each, and what was not looked through.
func (f FindResult) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", f.ID)
	if len(f.Places) == 0 {
		b.WriteString("  not found\n")
	}
	for _, p := range f.Places {
		fmt.Fprintf(&b, "  %s\n", p)
	}
	for _, l := range f.Limits {
		fmt.Fprintf(&b, "  not looked through: %s\n", l)
	}
	return b.String()
}
