package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/headrace/headrace/dedup"
)

// Decode is the stage that most chains begin with: it parses payloads. A payload that decode refuses is rejected, with the
// code of its error (see [Reject]) or else "malformed". Decode may keep parts of the payload, but must not write into it.
func Decode[T any](decode func(payload []byte) (T, error)) Stage[[]byte, T] {
	return each("decode", "malformed", decode)
}

// Map is the stage that turns each value into another one. A record for which f returns an error is rejected, with all its rows if a [FlatMap] has made several, with the
// error's code (see [Reject]) or else "rejected"; an error marked with [Unavailable], or that of an ended context, concerns the whole batch, which comes again.
func Map[In, Out any](name string, f func(In) (Out, error)) Stage[In, Out] {
	return each(name, "rejected", f)
}

func each[In, Out any](name, code string, f func(In) (Out, error)) Stage[In, Out] {
	return Func(name, func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		return mapEach(ctx, b, in, code, f)
	})
}

func mapEach[In, Out any](ctx context.Context, b *Batch, in Records[In], code string, f func(In) (Out, error)) (Records[Out], error) {
	out := Records[Out]{Values: make([]Out, 0, len(in.Values)), Pos: make([]int32, 0, len(in.Pos))}
	err := in.each(ctx, func(lo, hi int) error {
		for i := lo; i < hi; i++ {
			o, err := f(in.Values[i])
			if err != nil {
				// One bad row is a bad record: its other rows go with it.
				n := len(out.Values) - (i - lo)
				out.Values, out.Pos = out.Values[:n], out.Pos[:n]
				return b.refuse(in.Pos[i], code, err)
			}
			out.Values = append(out.Values, o)
			out.Pos = append(out.Pos, in.Pos[i])
		}
		return nil
	})
	return out, err
}

// each calls f for the values [lo, hi) of each record. It looks at ctx now and then, so that a worker that must stop need not wait for a whole
// batch of slow calls.
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
		err = in.each(ctx, func(lo, hi int) error {
			for _, err := range errs[lo:hi] {
				if err != nil {
					return b.refuse(in.Pos[lo], "rejected", err)
				}
			}
			out.Values, out.Pos = append(out.Values, values[lo:hi]...), append(out.Pos, in.Pos[lo:hi]...)
			return nil
		})
		return out, err
	})
}

// FlatMap is the stage that makes several rows of one record, or none: a record of which f makes none counts as filtered.
func FlatMap[In, Out any](name string, f func(In) ([]Out, error)) Stage[In, Out] {
	s := Func(name, func(ctx context.Context, b *Batch, in Records[In]) (Records[Out], error) {
		out := Records[Out]{Values: make([]Out, 0, len(in.Values)), Pos: make([]int32, 0, len(in.Pos))}
		err := in.each(ctx, func(lo, hi int) error {
			before := len(out.Values)
			for _, v := range in.Values[lo:hi] {
				rows, err := f(v)
				if err != nil {
					out.Values, out.Pos = out.Values[:before], out.Pos[:before]
					return b.refuse(in.Pos[lo], "rejected", err)
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
	return s
}

// Filter is the stage that keeps the values for which keep says true. A record of which none is kept counts as filtered.
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
		return mapEach(ctx, b, in, "rejected", func(v In) (Out, error) { return f(v, s) })
	})
}

// Window is what [Dedup] needs of a dedup window: *[dedup.Window] has it.
type Deduplicator interface {
	Claim(ctx context.Context, b dedup.Batch, pos []int32, ids []string) ([]dedup.Verdict, error)
	Undo(ctx context.Context, claims []dedup.Claim) ([][]dedup.Undo, error)
}

// Dedup is the stage that passes on one record of each id within the window and counts the others as duplicates. It claims
// by place, so a batch that comes again, whole or split, gets the verdicts of its first time. Put it behind Decode, and before what is
// dear. A record without an id, with one over [dedup.MaxID] bytes, or with one that is not a text is rejected ("missing_id", "id_too_long", "bad_id").
// The id must be the text of the column that staging.Config.ID names, or the claims of rows that a rule rejects are not given back.
//
// When the window cannot be asked, the batch comes again later; nothing passes unchecked and nothing is dropped.
func Dedup[T any](w Deduplicator, id func(T) string) Stage[T, T] {
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
			case strings.ContainsRune(key, 0) || !utf8.ValidString(key):
				b.Reject(in.Pos[i], "bad_id", "the id is not a text: it has a NUL or is not UTF-8")
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
		if errors.Is(err, dedup.ErrBatch) || errors.Is(err, dedup.ErrID) {
			return Records[T]{}, err // a mistake in the wiring, which no waiting mends
		}
		if err != nil {
			return Records[T]{}, Unavailable(err)
		}
		out := Records[T]{Values: values[:0], Pos: pos[:0]}
		for i, v := range verdicts {
			if v == dedup.VerdictDuplicate {
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
