package backpressure

// Source is a number in Redis that counts what is waiting: the length of a list, or a field of a
// hash that is changed in the same script as what it counts. Exactly one of List and Hash is set.
// The key carries the gate's hash tag: "{name}:ready".
//
// A hash that does not exist counts as 0: nothing has been written yet. A field that a hash lacks,
// a value that is no integer and a key of another type are errors: a misspelt source would leave
// the gate open for ever.
type Source struct {
	List        string
	Hash, Field string
	// Minus subtracts the number: taken minus acked is what is in flight.
	Minus bool
	// Optional makes a field that the hash lacks count as 0.
	Optional bool
}

// SourcesOf returns the depth of a queue, or of anything else that reports where its depth stands:
// the lengths of lists, and fields of a hash that are added or subtracted.
func SourcesOf(q interface {
	DepthKeys() (lists []string, hash string, plus, minus []string)
}) []Source {
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
