package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/redisx"
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
// ("id_too_long"), or an id that is not text ("bad_id"). With a [ShardWindow], a record is rejected
// if its id belongs to another shard ("wrong_shard"): its copies would not be noticed here. The id
// must be the text of the column named by staging.Config.ID. Otherwise the claims of rows that a
// rule rejects are not given back.
//
// When the window cannot be reached, the batch is redelivered later. No record passes unchecked,
// and none is dropped.
func Dedup[T any](w Deduplicator, id func(T) string) Stage[T, T] {
	return DedupWith(w, id, DedupConfig{})
}

// Copies is what becomes of the copies of a rejected record: of other records with its id.
type Copies uint8

// The policies for copies of a rejected record. With the last two, the counts of a chain whose
// verdicts depend on the record alone do not depend on the order in which copies and commits come.
const (
	// CopiesReleased gives the claim of a rejected record back when its rejection is committed and
	// acknowledged. A corrected record may then be pushed. A copy that comes before is a duplicate;
	// one that comes later gets a verdict of its own.
	CopiesReleased Copies = iota
	// CopiesJudged runs every copy through the rest of the chain. It is rejected or filtered there, or
	// else counted as a duplicate. So the chain does its work for duplicates too. Claims are not given
	// back: a corrected record is accepted through staging.Table.Replay, or after
	// dedup.Deduplicator.Forget. Copies of a record that a rule of the table rejects are duplicates.
	CopiesJudged
	// CopiesDropped makes every copy a duplicate, whatever became of the first record. Claims are not
	// given back, as with CopiesJudged.
	CopiesDropped
)

// DedupConfig configures a [Dedup] stage. The zero value takes the defaults.
type DedupConfig struct {
	// Copies is what becomes of the copies of a rejected record.
	Copies Copies
}

// DedupWith is [Dedup] with a configuration. It panics if the configuration is invalid, because a
// chain is built when a program starts.
func DedupWith[T any](w Deduplicator, id func(T) string, cfg DedupConfig) Stage[T, T] {
	if cfg.Copies > CopiesDropped {
		panic(fmt.Sprintf("pipeline: DedupConfig.Copies is %d, must be CopiesReleased, CopiesJudged or CopiesDropped", cfg.Copies))
	}
	if redisx.IsNil(w) {
		w = nil // NewWorker and NewPromoter refuse it
	}
	s := Func("dedup", func(ctx context.Context, b *Batch, in Records[T]) (Records[T], error) {
		window := w
		if b.window != nil {
			window = b.window
		}
		shards, _ := window.(*ShardWindow)
		ids, out := identify(b, in, id, shards)
		if b.keysOnly {
			return Records[T]{}, errKeysKnown
		}
		if len(ids) == 0 {
			return Records[T]{}, nil
		}
		verdicts, err := window.Claim(ctx, dedup.Batch{Guard: b.Guard, Root: b.Root, Offset: b.Offset, Records: len(b.Payloads)}, out.Pos, ids)
		if err != nil {
			return Records[T]{}, claimError(err)
		}
		kept := Records[T]{Values: out.Values[:0], Pos: out.Pos[:0]}
		for i, v := range verdicts {
			if v == dedup.VerdictDuplicate {
				if cfg.Copies != CopiesJudged {
					b.Duplicate(out.Pos[i])
					continue
				}
				b.judge(out.Pos[i])
			}
			kept.Values, kept.Pos = append(kept.Values, out.Values[i]), append(kept.Pos, out.Pos[i])
		}
		return kept, nil
	})
	s.dedups, s.window, s.keepsClaims = true, w, cfg.Copies != CopiesReleased
	return s.lacking("id function", id == nil)
}

// identify returns the ids of the records that have a usable one, with those records. It rejects
// the others. shards is the window, if it has shards.
func identify[T any](b *Batch, in Records[T], id func(T) string, shards *ShardWindow) (ids []string, out Records[T]) {
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
		if shards != nil {
			if why := shards.misplaced(b.Queue, key); why != "" {
				b.Reject(in.Pos[i], "wrong_shard", why) // without a key: it has no claim to give back
				continue
			}
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
