package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/staging"
)

// Records holds the values of one batch on their way between two stages, column by column.
// Values[i] comes from the record at position Pos[i] of the batch. Positions are in ascending
// order. A position occurs several times if a stage produced several values from one record.
type Records[T any] struct {
	Values []T
	Pos    []int32
}

// Len returns the number of values.
func (r Records[T]) Len() int { return len(r.Values) }

// each calls f for the values [lo, hi) of each record. It checks ctx now and then, so that a worker
// that must stop does not wait for a whole batch of slow calls.
func (r Records[T]) each(ctx context.Context, f func(lo, hi int) error) error {
	for lo, n := 0, 0; lo < len(r.Pos); n++ {
		if n%64 == 63 && ctx.Err() != nil {
			return ctx.Err()
		}
		hi := lo + 1
		for hi < len(r.Pos) && r.Pos[hi] == r.Pos[lo] {
			hi++
		}
		if err := f(lo, hi); err != nil {
			return err
		}
		lo = hi
	}
	return nil
}

// Stage turns records of type In into records of type Out, a whole batch at a time. Build one with
// [Decode], [Map], [MapBatch], [FlatMap], [Filter], [Lookup], [Dedup] or, for anything else,
// [Func]. Join stages with [Then].
//
// A stage must account for each record that it receives. It passes the record on, or it reports the
// record's end with [Batch.Duplicate], [Batch.Filter] or [Batch.Reject]. The sum is checked after
// every stage, so a record cannot get lost between two of them.
//
// A Stage holds no state of a batch. One chain serves any number of workers at once if the
// functions in it are safe for concurrent use.
type Stage[In, Out any] struct {
	name   string
	run    func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error)
	dedups bool         // it is or contains a Dedup stage
	window Deduplicator // the window of that stage
	spread bool         // it may make several values of one record

	keepsClaims bool // the claims of rejected records are not given back

	lacks string // what the stage or a part of it lacks: a function, a name
}

// lacking is the stage, with a note if a function of it is nil or if it has no name. Workers and
// promoters refuse such a chain. Otherwise the panic of each call would bury every record.
func (s Stage[In, Out]) lacking(what string, isNil bool) Stage[In, Out] {
	switch {
	case s.name == "":
		s.lacks = "a stage in Flow.Chain has no name, must have one for errors and counts"
	case isNil:
		s.lacks = fmt.Sprintf("the %s of stage %q in Flow.Chain is nil, must be a function", what, s.name)
	}
	return s
}

// flaw is why no program can run the stage, "" if there is no reason.
func (s Stage[In, Out]) flaw() string {
	if s.run == nil {
		return "a stage in Flow.Chain is empty, must come from a constructor such as Map"
	}
	return s.lacks
}

// Name returns the name under which errors and observers report the stage.
func (s Stage[In, Out]) Name() string { return s.name }

// Func turns a function that receives the whole batch into a stage. The name appears in errors. An
// error that run returns concerns the batch, not a record: the batch is released and redelivered.
// Mark errors that should not count as a failure of the batch with [Unavailable].
func Func[In, Out any](name string, run func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error)) Stage[In, Out] {
	return Stage[In, Out]{name: name, run: func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		start := time.Now()
		dups, filtered, rejects := b.dups, b.filtered, len(b.rejects)
		out, err := run(ctx, b, in)
		b.stages = append(b.stages, StageEvent{Name: name, In: in.Len(), Out: out.Len(), Duration: time.Since(start)})
		b.drops = append(b.drops, staging.StageDrops{Stage: name, Duplicates: b.dups - dups, Filtered: b.filtered - filtered, Rejected: len(b.rejects) - rejects})
		if err != nil {
			return Records[Out]{}, fmt.Errorf("stage %q: %w", name, err)
		}
		if len(out.Values) != len(out.Pos) {
			return Records[Out]{}, fmt.Errorf("stage %q: %w: it returned %d values and %d positions", name, ErrUnaccounted, len(out.Values), len(out.Pos))
		}
		if err := b.account(in.Pos, out.Pos); err != nil {
			return Records[Out]{}, fmt.Errorf("stage %q: %w", name, err)
		}
		return out, nil
	}}.lacking("function", run == nil)
}

// Then joins two stages: b receives what a passes on. It panics if both contain a [Dedup], because
// a record has one id. It panics if a [Dedup] follows a [FlatMap], because a record is claimed
// once, not once for each of its rows.
func Then[A, B, C any](a Stage[A, B], b Stage[B, C]) Stage[A, C] {
	if a.dedups && b.dedups {
		panic("pipeline: two Dedup stages in one chain: a record is claimed by one id only")
	}
	if a.spread && b.dedups {
		panic("pipeline: Dedup after FlatMap: a record is claimed once, not once for each of its rows")
	}
	window := a.window
	if b.dedups {
		window = b.window
	}
	return Stage[A, C]{
		name: a.name + " → " + b.name, lacks: cmp.Or(a.flaw(), b.flaw()), dedups: a.dedups || b.dedups, window: window, spread: a.spread || b.spread,
		keepsClaims: a.keepsClaims || b.keepsClaims,
		run: func(ctx context.Context, batch *Batch, in Records[A]) (Records[C], error) {
			mid, err := a.run(ctx, batch, in)
			if err != nil {
				return Records[C]{}, err
			}
			return b.run(ctx, batch, mid)
		},
	}
}

// Then3 joins three stages.
func Then3[A, B, C, D any](a Stage[A, B], b Stage[B, C], c Stage[C, D]) Stage[A, D] {
	return Then(Then(a, b), c)
}

// Then4 joins four stages.
func Then4[A, B, C, D, E any](a Stage[A, B], b Stage[B, C], c Stage[C, D], d Stage[D, E]) Stage[A, E] {
	return Then(Then3(a, b, c), d)
}

// Then5 joins five stages. To join more, join the results.
func Then5[A, B, C, D, E, F any](a Stage[A, B], b Stage[B, C], c Stage[C, D], d Stage[D, E], e Stage[E, F]) Stage[A, F] {
	return Then(Then4(a, b, c, d), e)
}

// runChain runs a batch through the chain. A panic in the chain is an error of the batch.
func (f Flow[T]) runChain(ctx context.Context, b *Batch) (out Records[T], err error) {
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError("the chain", p)
		}
	}()
	in := Records[[]byte]{Values: b.Payloads, Pos: make([]int32, len(b.Payloads))}
	for i := range in.Pos {
		in.Pos[i] = int32(i)
	}
	out, err = f.Chain.run(ctx, b, in)
	return dropCopies(b, out), err
}
