package lookup

import "iter"

// Result is the answer to a look-up of many keys.
type Result[V any] struct {
	Values  []V    // Values[i] belongs to keys[i]; the zero V where it is missing
	Missing []int  // indexes of the keys that are not in the table, ascending
	Version string // the version that answered ("" for a Remote, which has no versions)
}

// Snapshot is one whole version of a table, immutable. Its methods take no lock and perform no I/O.
// This type is concurrency safe.
type Snapshot[K comparable, V any] struct {
	version string
	entries map[K]V
}

// Get returns the value of k. It does not allocate.
func (s *Snapshot[K, V]) Get(k K) (V, bool) {
	v, ok := s.entries[k]
	return v, ok
}

// GetMany looks up many keys and reports which of them are missing.
func (s *Snapshot[K, V]) GetMany(keys []K) Result[V] {
	f := Result[V]{Values: make([]V, len(keys)), Version: s.version}
	for i, k := range keys {
		v, ok := s.entries[k]
		if !ok {
			f.Missing = append(f.Missing, i)
		}
		f.Values[i] = v
	}
	return f
}

// All iterates over the entries, in no particular order.
func (s *Snapshot[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for k, v := range s.entries {
			if !yield(k, v) {
				return
			}
		}
	}
}

// Len returns the number of entries.
func (s *Snapshot[K, V]) Len() int { return len(s.entries) }

// Version returns the id of the version. It is the same in every process.
func (s *Snapshot[K, V]) Version() string { return s.version }
