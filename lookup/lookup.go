package lookup

import (
	"context"
	"errors"

	"github.com/redis/rueidis"
)

// Table is a table of reference data. This type is concurrency safe.
type Table[K comparable, V any] struct {
	client rueidis.Client
	name   string
	cfg    Config[K, V]
}

// New makes a table on the caller's client, which it never closes. It sends nothing.
func New[K comparable, V any](client rueidis.Client, name string, cfg Config[K, V]) (*Table[K, V], error) {
	return &Table[K, V]{client: client, name: name, cfg: cfg}, nil
}

// Found is the answer to many keys at once.
type Found[V any] struct {
	Values  []V    // Values[i] belongs to keys[i]; the zero V where it is missing
	Missing []int  // indexes of the keys that are not in the table, ascending
	Version string // the version that answered ("" where there is none)
}

// Refreshed is what a refresh did.
type Refreshed struct {
	Version string
	Entries int
	Done    bool // false: somebody else did this refresh meanwhile
}

// Refresh reads the source, writes a new version and makes it the current one everywhere.
func (t *Table[K, V]) Refresh(ctx context.Context) (Refreshed, error) {
	return Refreshed{}, errors.ErrUnsupported
}

// Sync makes the current version this process' snapshot.
func (t *Table[K, V]) Sync(ctx context.Context) error { return errors.ErrUnsupported }

// Run keeps the snapshot current until ctx is done.
func (t *Table[K, V]) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Snapshot returns this process' snapshot. Take it once a batch, so that the batch sees one version throughout.
func (t *Table[K, V]) Snapshot() (*Snapshot[K, V], error) { return nil, ErrNotLoaded }

// GetMany looks up many keys in one snapshot.
func (t *Table[K, V]) GetMany(ctx context.Context, keys []K) (Found[V], error) {
	return Found[V]{}, ErrNotLoaded
}

// Snapshot is one whole version of a table, immutable.
type Snapshot[K comparable, V any] struct {
	version string
	entries map[K]V
}

// Get returns the value of k.
func (s *Snapshot[K, V]) Get(k K) (V, bool) { v, ok := s.entries[k]; return v, ok }

// GetMany looks up many keys.
func (s *Snapshot[K, V]) GetMany(keys []K) Found[V] {
	f := Found[V]{Values: make([]V, len(keys)), Version: s.version}
	for i, k := range keys {
		v, ok := s.entries[k]
		if !ok {
			f.Missing = append(f.Missing, i)
		}
		f.Values[i] = v
	}
	return f
}

// Len returns the number of entries.
func (s *Snapshot[K, V]) Len() int { return len(s.entries) }

// Version names the version.
func (s *Snapshot[K, V]) Version() string { return s.version }
