package pipeline

import (
	"context"
	"fmt"
)

// Decode is the stage that most chains begin with. It parses payloads. A payload for which decode
// returns an error is rejected, with the code of the error (see [Reject]) or else "malformed".
// Decode may keep parts of the payload but must not write to it.
func Decode[T any](decode func(payload []byte) (T, error)) Stage[[]byte, T] {
	return mapStage("decode", "malformed", decode)
}

// Map is the stage that turns each value into another one. A record for which f returns an error is
// rejected, with all its rows if a [FlatMap] has made several. The code is that of the error (see
// [Reject]) or else "rejected". An error marked with [Unavailable], or that of an ended context,
// concerns the whole batch, which is redelivered.
func Map[In, Out any](name string, f func(In) (Out, error)) Stage[In, Out] {
	return mapStage(name, "rejected", f)
}

func mapStage[In, Out any](name, code string, f func(In) (Out, error)) Stage[In, Out] {
	return Func(name, func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		return mapRecords(ctx, b, in, code, f)
	}).lacking("function", f == nil)
}

func mapRecords[In, Out any](ctx context.Context, b *Batch, in Records[In], code string, f func(In) (Out, error)) (Records[Out], error) {
	out := Records[Out]{Values: make([]Out, 0, len(in.Values)), Pos: make([]int32, 0, len(in.Pos))}
	err := in.each(ctx, func(lo, hi int) error {
		for i := lo; i < hi; i++ {
			o, err := f(in.Values[i])
			if err != nil {
				// One bad row makes a bad record: its other rows go with it.
				n := len(out.Values) - (i - lo)
				out.Values, out.Pos = out.Values[:n], out.Pos[:n]
				return b.rejectError(in.Pos[i], code, err)
			}
			out.Values = append(out.Values, o)
			out.Pos = append(out.Pos, in.Pos[i])
		}
		return nil
	})
	return out, err
}

// MapBatch is the stage for work that is best done on a whole batch at once: one query, one remote
// call, a loop over a column. f returns as many values as it received, in the same order. errs is
// nil or as long as in. A non-nil errs[i] rejects in[i].
func MapBatch[In, Out any](name string, f func(ctx context.Context, in []In) (out []Out, errs []error, err error)) Stage[In, Out] {
	return Func(name, func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		values, errs, err := f(ctx, in.Values)
		if err != nil {
			return Records[Out]{}, err
		}
		if len(values) != len(in.Values) || errs != nil && len(errs) != len(in.Values) {
			return Records[Out]{}, fmt.Errorf("%w: it returned %d values and %d errors for %d records", ErrUnaccounted, len(values), len(errs), len(in.Values))
		}
		if errs == nil {
			return Records[Out]{Values: values, Pos: in.Pos}, nil
		}
		out := Records[Out]{Values: make([]Out, 0, len(values)), Pos: make([]int32, 0, len(values))}
		err = in.each(ctx, func(lo, hi int) error {
			for _, err := range errs[lo:hi] {
				if err != nil {
					return b.rejectError(in.Pos[lo], "rejected", err)
				}
			}
			out.Values, out.Pos = append(out.Values, values[lo:hi]...), append(out.Pos, in.Pos[lo:hi]...)
			return nil
		})
		return out, err
	}).lacking("function", f == nil)
}

// FlatMap is the stage that turns one record into any number of rows. A record that gives no row
// counts as filtered. A record for which f returns an error is rejected.
func FlatMap[In, Out any](name string, f func(In) ([]Out, error)) Stage[In, Out] {
	s := Func(name, func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		out := Records[Out]{Values: make([]Out, 0, len(in.Values)), Pos: make([]int32, 0, len(in.Pos))}
		err := in.each(ctx, func(lo, hi int) error {
			before := len(out.Values)
			for _, v := range in.Values[lo:hi] {
				rows, err := f(v)
				if err != nil {
					out.Values, out.Pos = out.Values[:before], out.Pos[:before]
					return b.rejectError(in.Pos[lo], "rejected", err)
				}
				for _, row := range rows {
					out.Values = append(out.Values, row)
					out.Pos = append(out.Pos, in.Pos[lo])
				}
			}
			if len(out.Values) == before {
				b.Filter(in.Pos[lo])
			}
			return nil
		})
		return out, err
	})
	s.spread = true
	return s.lacking("function", f == nil)
}

// Filter is the stage that keeps the values for which keep returns true. A record without a kept
// value counts as filtered.
func Filter[T any](name string, keep func(T) bool) Stage[T, T] {
	return Func(name, func(ctx context.Context, b *Batch, in Records[T]) (Records[T], error) {
		out := Records[T]{Values: make([]T, 0, len(in.Values)), Pos: make([]int32, 0, len(in.Pos))}
		err := in.each(ctx, func(lo, hi int) error {
			before := len(out.Values)
			for i := lo; i < hi; i++ {
				if keep(in.Values[i]) {
					out.Values, out.Pos = append(out.Values, in.Values[i]), append(out.Pos, in.Pos[i])
				}
			}
			if len(out.Values) == before {
				b.Filter(in.Pos[lo])
			}
			return nil
		})
		return out, err
	}).lacking("function", keep == nil)
}

// Lookup is a [Map] that reads reference data. It calls snapshot once per batch, so that all
// records of the batch see one version. f combines each record with the snapshot. An error of
// snapshot (nothing loaded yet, too old) concerns the batch, which is redelivered later without
// counting as failed. An error of f rejects the record.
func Lookup[S, In, Out any](name string, snapshot func(ctx context.Context) (S, error), f func(In, S) (Out, error)) Stage[In, Out] {
	return Func(name, func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		s, err := snapshot(ctx)
		if err != nil {
			return Records[Out]{}, Unavailable(err)
		}
		return mapRecords(ctx, b, in, "rejected", func(v In) (Out, error) { return f(v, s) })
	}).lacking("snapshot", snapshot == nil).lacking("function", f == nil)
}
