package pipeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/headrace/headrace/dedup"
)

// Decode is the stage that most chains begin with: it parses payloads. A payload that decode refuses is rejected, with the
// code of its error (see [Reject]) or else "malformed". Decode may keep parts of the payload, but must not write into it.
func Decode[T any](decode func(payload []byte) (T, error)) Stage[[]byte, T] {
	return each("decode", "malformed", decode)
}

// Map is the stage that turns each record into another one. A record for which f returns an error is rejected, with the
// error's code (see [Reject]) or else "rejected"; an error marked with [Unavailable], or that of an ended context, concerns the whole batch, which comes again.
func Map[In, Out any](name string, f func(In) (Out, error)) Stage[In, Out] {
	return each(name, "rejected", f)
}

func each[In, Out any](name, code string, f func(In) (Out, error)) Stage[In, Out] {
	return Func(name, func(_ context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		return mapEach(b, in, code, f)
	})
}

func mapEach[In, Out any](b *Batch, in Records[In], code string, f func(In) (Out, error)) (Records[Out], error) {
	out := Records[Out]{Values: make([]Out, 0, len(in.Values)), Pos: make([]int32, 0, len(in.Pos))}
	for i, v := range in.Values {
		o, err := f(v)
		if err != nil {
			if concernsBatch(err) {
				return out, err
			}
			b.rejectErr(in.Pos[i], code, err)
			continue
		}
		out.Values = append(out.Values, o)
		out.Pos = append(out.Pos, in.Pos[i])
	}
	return out, nil
}

// MapBatch is the stage for work that is done best on a whole batch at once: one query, one remote call, a loop over a
// column. f returns as many values as it was given, in the same order, and the errors of those it refuses: errs is nil or
// as long, and errs[i] != nil rejects in[i].
func MapBatch[In, Out any](name string, f func(ctx context.Context, in []In) (out []Out, errs []error, err error)) Stage[In, Out] {
	return Func(name, func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		values, errs, err := f(ctx, in.Values)
		if err != nil {
			return Records[Out]{}, err
		}
		if len(values) != len(in.Values) || errs != nil && len(errs) != len(in.Values) {
			return Records[Out]{}, fmt.Errorf("%w: %d records gave %d values and %d errors", ErrUnaccounted, len(in.Values), len(values), len(errs))
		}
		if errs == nil {
			return Records[Out]{Values: values, Pos: in.Pos}, nil
		}
		out := Records[Out]{Values: make([]Out, 0, len(values)), Pos: make([]int32, 0, len(values))}
		for i, err := range errs {
			switch {
			case err == nil:
				out.Values, out.Pos = append(out.Values, values[i]), append(out.Pos, in.Pos[i])
			case concernsBatch(err):
				return out, err
			default:
				b.rejectErr(in.Pos[i], "rejected", err)
			}
		}
		return out, nil
	})
}

// FlatMap is the stage that makes several rows of one record, or none: a record of which f makes none counts as filtered.
func FlatMap[In, Out any](name string, f func(In) ([]Out, error)) Stage[In, Out] {
	return Func(name, func(_ context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		out := Records[Out]{Values: make([]Out, 0, len(in.Values)), Pos: make([]int32, 0, len(in.Pos))}
		for i, v := range in.Values {
			rows, err := f(v)
			if err != nil {
				if concernsBatch(err) {
					return out, err
				}
				b.rejectErr(in.Pos[i], "rejected", err)
				continue
			}
			if len(rows) == 0 {
				b.Filter(in.Pos[i])
			}
			for _, row := range rows {
				out.Values = append(out.Values, row)
				out.Pos = append(out.Pos, in.Pos[i])
			}
		}
		return out, nil
	})
}

// Filter is the stage that keeps the records for which keep says true and counts the others as filtered.
func Filter[T any](name string, keep func(T) bool) Stage[T, T] {
	return Func(name, func(_ context.Context, b *Batch, in Records[T]) (Records[T], error) {
		out := Records[T]{Values: make([]T, 0, len(in.Values)), Pos: make([]int32, 0, len(in.Pos))}
		for i, v := range in.Values {
			if !keep(v) {
				b.Filter(in.Pos[i])
				continue
			}
			out.Values, out.Pos = append(out.Values, v), append(out.Pos, in.Pos[i])
		}
		return out, nil
	})
}

// Lookup is a Map that reads reference data: snapshot is called once a batch, so that all its records see one version of
// it, and f combines each record with it. An error of snapshot (nothing loaded yet, too old) concerns the batch, which comes again later
// without counting as failed; an error of f rejects the record, as in [Map].
func Lookup[S, In, Out any](name string, snapshot func(ctx context.Context) (S, error), f func(In, S) (Out, error)) Stage[In, Out] {
	return Func(name, func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		s, err := snapshot(ctx)
		if err != nil {
			return Records[Out]{}, Unavailable(err)
		}
		return mapEach(b, in, "rejected", func(v In) (Out, error) { return f(v, s) })
	})
}

// Window is what [Dedup] needs of a dedup window: *[dedup.Window] has it.
type Window interface {
	Claim(ctx context.Context, b dedup.Batch, pos []int32, ids []string) ([]dedup.Verdict, error)
	Undo(ctx context.Context, claims []dedup.Claimed) ([][]dedup.Undo, error)
}

// Dedup is the stage that passes on one record of each id within the window and counts the others as duplicates. It claims
// by place, so a batch that comes again, whole or split, gets the verdicts of its first time. Put it behind Decode, and before what is
// dear. A record without an id, or with one over [dedup.MaxID] bytes, is rejected ("missing_id", "id_too_long").
//
// When the window cannot be asked, the batch comes again later; nothing passes unchecked and nothing is dropped.
func Dedup[T any](w Window, id func(T) string) Stage[T, T] {
	s := Func("dedup", func(ctx context.Context, b *Batch, in Records[T]) (Records[T], error) {
		ids, pos, values := make([]string, 0, in.Len()), make([]int32, 0, in.Len()), make([]T, 0, in.Len())
		for i, v := range in.Values {
			key := id(v)
			switch {
			case key == "":
				b.Reject(in.Pos[i], "missing_id", "the record has no id to tell duplicates by")
				continue
			case len(key) > dedup.MaxID:
				b.Reject(in.Pos[i], "id_too_long", fmt.Sprintf("the id has %d bytes: at most %d are allowed", len(key), dedup.MaxID))
				continue
			}
			b.setKey(in.Pos[i], key)
			ids, pos, values = append(ids, key), append(pos, in.Pos[i]), append(values, v)
		}
		if b.keysOnly {
			return Records[T]{}, errKeysKnown
		}
		if len(ids) == 0 {
			return Records[T]{}, nil
		}
		verdicts, err := w.Claim(ctx, dedup.Batch{Guard: b.Guard, Root: b.Root, Offset: b.Offset, Records: len(b.Payloads)}, pos, ids)
		if errors.Is(err, dedup.ErrGone) {
			return Records[T]{}, fmt.Errorf("%w: %w", errBatchGone, err)
		}
		if err != nil {
			return Records[T]{}, Unavailable(err)
		}
		out := Records[T]{Values: values[:0], Pos: pos[:0]}
		for i, v := range verdicts {
			if v == dedup.Duplicate {
				b.Duplicate(pos[i])
				continue
			}
			out.Values, out.Pos = append(out.Values, values[i]), append(out.Pos, pos[i])
		}
		return out, nil
	})
	s.window = w
	return s
}
