package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/headrace/headrace/dedup"
)

// Deduplicator is the part of a dedup window that [Dedup] uses. *[dedup.Deduplicator] implements
// it.
type Deduplicator interface {
	// Name is that of the queue: window and batch must share a hash slot.
	Name() string
	Claim(ctx context.Context, b dedup.Batch, pos []int32, ids []string) ([]dedup.Verdict, error)
	Undo(ctx context.Context, claims []dedup.Claim) ([][]dedup.Undo, error)
}

// Dedup is the stage that passes on one record of each id within the window. It counts the others
// as duplicates. It claims by place, so a batch that is redelivered, whole or split, gets the
// verdicts of its first delivery. Put it after [Decode], and before expensive stages.
//
// A record is rejected if it has no id ("missing_id"), an id of more than [dedup.MaxID] bytes
// ("id_too_long"), or an id that is not text ("bad_id"). The id must be the text of the column
// named by staging.Config.ID. Otherwise the claims of rows that a rule rejects are not given back.
//
// When the window cannot be reached, the batch is redelivered later. No record passes unchecked,
// and none is dropped.
func Dedup[T any](w Deduplicator, id func(T) string) Stage[T, T] {
	if isNil(w) {
		w = nil // NewWorker and NewPromoter refuse it
	}
	s := Func("dedup", func(ctx context.Context, b *Batch, in Records[T]) (Records[T], error) {
		ids, out := identify(b, in, id)
		if b.keysOnly {
			return Records[T]{}, errKeysKnown
		}
		if len(ids) == 0 {
			return Records[T]{}, nil
		}
		window := w
		if b.window != nil {
			window = b.window
		}
		verdicts, err := window.Claim(ctx, dedup.Batch{Guard: b.Guard, Root: b.Root, Offset: b.Offset, Records: len(b.Payloads)}, out.Pos, ids)
		if err != nil {
			return Records[T]{}, claimError(err)
		}
		kept := Records[T]{Values: out.Values[:0], Pos: out.Pos[:0]}
		for i, v := range verdicts {
			if v == dedup.VerdictDuplicate {
				b.Duplicate(out.Pos[i])
				continue
			}
			kept.Values, kept.Pos = append(kept.Values, out.Values[i]), append(kept.Pos, out.Pos[i])
		}
		return kept, nil
	})
	s.dedups, s.window = true, w
	return s
}

// identify returns the ids of the records that have a usable one, with those records. It rejects
// the others.
func identify[T any](b *Batch, in Records[T], id func(T) string) (ids []string, out Records[T]) {
	ids = make([]string, 0, in.Len())
	out = Records[T]{Values: make([]T, 0, in.Len()), Pos: make([]int32, 0, in.Len())}
	for i, v := range in.Values {
		key := id(v)
		switch {
		case key == "":
			b.Reject(in.Pos[i], "missing_id", "the record has no id")
			continue
		case len(key) > dedup.MaxID:
			b.Reject(in.Pos[i], "id_too_long", fmt.Sprintf("the id has %d bytes, must be at most %d", len(key), dedup.MaxID))
			continue
		case strings.ContainsRune(key, 0) || !utf8.ValidString(key):
			b.Reject(in.Pos[i], "bad_id", "the id is not text: it has a NUL character or is not UTF-8")
			continue
		}
		b.setKey(in.Pos[i], key)
		ids = append(ids, key)
		out.Values, out.Pos = append(out.Values, v), append(out.Pos, in.Pos[i])
	}
	return ids, out
}

func claimError(err error) error {
	switch {
	case errors.Is(err, dedup.ErrGone):
		return fmt.Errorf("%w: %w", errBatchGone, err)
	case errors.Is(err, dedup.ErrBatch), errors.Is(err, dedup.ErrID):
		return err // waiting does not help
	}
	return Unavailable(err)
}
