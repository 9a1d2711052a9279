package lookup

import (
	"context"
	"time"
)

// Stats describes the current version of a table and the snapshot of this process.
type Stats struct {
	Version string // the current version
	Entries int    // its entries
	// Age is the time since its refresh, by the server's clock. It is negative after that clock was
	// set back.
	Age time.Duration
	// Snapshot is the version that this process has, "" for none, and Checked how long ago Redis last
	// confirmed it.
	Snapshot string
	Checked  time.Duration
}

// Stats reads the current version from Redis. It takes one round trip, whatever the size of the
// table.
func (t *Table[K, V]) Stats(ctx context.Context) (Stats, error) {
	v, age, err := t.ask(ctx)
	if err != nil {
		return Stats{}, named(t.name, err)
	}
	s := Stats{Version: v.id, Entries: v.entries, Age: age}
	if local := t.snapshot.Load(); local != nil {
		s.Snapshot, s.Checked = local.version, t.sinceChecked()
	}
	return s, nil
}
