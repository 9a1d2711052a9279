package pipeline

import (
	"context"
	"fmt"
)

// Records is what flows between two stages: the values of one batch, column by column. Values[i] came of the record at
// position Pos[i] of the batch. Positions rise; the same one may occur several times where a stage made several values of
// one record.
type Records[T any] struct {
	Values []T
	Pos    []int32
}

// Len is the number of values.
func (r Records[T]) Len() int { return len(r.Values) }

// Stage turns a batch's records of type In into records of type Out, the whole batch at a time. Build one with [Decode],
// [Map], [MapBatch], [FlatMap], [Filter], [Lookup], [Dedup] or, for anything else, [Func], and join them with [Then].
//
// A stage must account for each record that it is given: pass it on, or say what became of it with [Batch.Duplicate],
// [Batch.Filter] or [Batch.Reject]. The sum is checked after every stage, so a record cannot get lost between two of them.
//
// A Stage holds no state of a batch: one chain serves any number of workers at once, if the functions in it do.
type Stage[In, Out any] struct {
	name   string
	run    func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error)
	window Deduplicator // the dedup window of this stage or of one inside it
	spread bool         // it may make several values of one record
}

// Name is the name that errors and observers give the stage.
func (s Stage[In, Out]) Name() string { return s.name }

// Func makes a stage of a function that sees the whole batch. The name stands in errors. An error that run returns
// concerns the batch, not a record: the batch is released and comes again (see [Unavailable] for those that shall not count as
// a failure of the batch).
func Func[In, Out any](name string, run func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error)) Stage[In, Out] {
	return Stage[In, Out]{name: name, run: func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		out, err := run(ctx, b, in)
		if err != nil {
			return Records[Out]{}, fmt.Errorf("stage %q: %w", name, err)
		}
		if len(out.Values) != len(out.Pos) {
			return Records[Out]{}, fmt.Errorf("stage %q: %w: %d values but %d positions", name, ErrUnaccounted, len(out.Values), len(out.Pos))
		}
		if err := b.account(in.Pos, out.Pos); err != nil {
			return Records[Out]{}, fmt.Errorf("stage %q: %w", name, err)
		}
		return out, nil
	}}
}

// Then joins two stages: what a passes on, b receives. It panics if both hold a [Dedup] (a record has one id), or if a [Dedup] follows a
// [FlatMap] (a record is claimed once, not once for each of its rows).
func Then[A, B, C any](a Stage[A, B], b Stage[B, C]) Stage[A, C] {
	if a.window != nil && b.window != nil {
		panic("pipeline: two Dedup stages in one chain: a record is claimed by one id only")
	}
	if a.spread && b.window != nil {
		panic("pipeline: Dedup behind FlatMap: a record is claimed once, not once for each of its rows")
	}
	w := a.window
	if w == nil {
		w = b.window
	}
	return Stage[A, C]{name: a.name + " → " + b.name, window: w, spread: a.spread || b.spread, run: func(ctx context.Context, batch *Batch, in Records[A]) (Records[C], error) {
		mid, err := a.run(ctx, batch, in)
		if err != nil {
			return Records[C]{}, err
		}
		return b.run(ctx, batch, mid)
	}}
}

// Then3 joins three stages.
func Then3[A, B, C, D any](a Stage[A, B], b Stage[B, C], c Stage[C, D]) Stage[A, D] {
	return Then(Then(a, b), c)
}

// Then4 joins four stages.
func Then4[A, B, C, D, E any](a Stage[A, B], b Stage[B, C], c Stage[C, D], d Stage[D, E]) Stage[A, E] {
	return Then(Then3(a, b, c), d)
}

// Then5 joins five stages. For more, join the joined.
func Then5[A, B, C, D, E, F any](a Stage[A, B], b Stage[B, C], c Stage[C, D], d Stage[D, E], e Stage[E, F]) Stage[A, F] {
	return Then(Then4(a, b, c, d), e)
}
