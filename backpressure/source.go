package backpressure

import "github.com/headrace/headrace/internal/redisx"

// Source is a number in Redis that counts waiting records or bytes: the length of a list, or a
// field of a hash that is changed in the same script as the records. Exactly one of List and Hash
// is set. The key has the gate's hash tag: "{name}:ready".
//
// A hash that does not exist counts as 0: nothing has been written yet. A missing field of an
// existing hash, a value that is not an integer and a key of another type are errors: a misspelt
// source would leave the gate open forever.
type Source struct {
	List        string
	Hash, Field string
	// Minus subtracts the number: taken minus acked is the number in flight.
	Minus bool
	// Optional makes a field that the hash lacks count as 0.
	Optional bool
}

// SourcesOf returns the sources for the depth of a queue, or of any other type with DepthKeys: the
// lengths of lists, and the fields of a hash that are added or subtracted. For a nil queue it
// returns a source that [New] refuses.
func SourcesOf(q interface {
	DepthKeys() (lists []string, hash string, plus, minus []string)
}) []Source {
	if redisx.IsNil(q) {
		return []Source{{}}
	}
	lists, hash, plus, minus := q.DepthKeys()
	var out []Source
	for _, l := range lists {
		out = append(out, Source{List: l})
	}
	for _, f := range plus {
		out = append(out, Source{Hash: hash, Field: f, Optional: true})
	}
	for _, f := range minus {
		out = append(out, Source{Hash: hash, Field: f, Minus: true, Optional: true})
	}
	return out
}
