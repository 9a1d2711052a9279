package pipeline

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/queue"
)

// TryResult is the result of [Try].
type TryResult[T any] struct {
	// Rows are what the table would receive, in the order of the records. Pos[i] is the index of the
	// payload that Rows[i] comes from.
	Rows []T
	Pos  []int32
	// Records holds the fate of each payload, in order.
	Records []TryRecord
}

// TryRecord is the fate of one payload in a [TryResult].
type TryRecord struct {
	Fate Fate
	// Rows is the number of rows of a kept record.
	Rows int
	// Code and Reason are those of a rejected record.
	Code, Reason string
}

// Try runs a chain over payloads, as one batch, without a queue, a window or a table. It is for
// unit tests of a chain. A [Dedup] stage works on a window of this call alone: of several records
// with one id, the first is kept. Functions in the chain that call a service still call it.
//
// An error is one that would fail the whole batch: a panic, an error of a [Func], an unavailable
// service, a stage that loses a record ([ErrUnaccounted]). Errors of single records are in the
// TryResult.
func Try[T any, P ~string | ~[]byte](ctx context.Context, chain Stage[[]byte, T], payloads ...P) (TryResult[T], error) {
	if flaw := chain.flaw(); flaw != "" {
		return TryResult[T]{}, fmt.Errorf("%w: %s", ErrConfig, flaw)
	}
	id := uid.New()
	qb := &queue.Batch{Queue: "try", ID: id, Root: id, Attempt: 1, Sealed: time.Now(), Guard: "{try}:" + id}
	for _, p := range payloads {
		qb.Payloads = append(qb.Payloads, []byte(p))
		qb.Bytes += len(p)
	}
	b := newBatch(qb)
	b.window = tryWindow{}
	out, err := Flow[T]{Chain: chain}.runChain(ctx, b)
	if err != nil {
		return TryResult[T]{}, err
	}
	t := TryResult[T]{Rows: out.Values, Pos: out.Pos, Records: make([]TryRecord, len(payloads))}
	for i, f := range b.fate {
		t.Records[i].Fate = f
	}
	for _, p := range out.Pos {
		t.Records[p].Rows++
	}
	for _, r := range b.rejects {
		t.Records[r.Pos].Code, t.Records[r.Pos].Reason = r.Code, r.Reason
	}
	return t, nil
}

// tryWindow is the window of one Try: id to position.
type tryWindow map[string]int32

func (w tryWindow) Name() string { return "try" }

func (w tryWindow) Claim(_ context.Context, _ dedup.Batch, pos []int32, ids []string) ([]dedup.Verdict, error) {
	out := make([]dedup.Verdict, len(ids))
	for i, id := range ids {
		out[i] = dedup.VerdictFresh
		if first, ok := w[id]; ok && first != pos[i] {
			out[i] = dedup.VerdictDuplicate
			continue
		}
		w[id] = pos[i]
	}
	return out, nil
}

func (w tryWindow) Undo(context.Context, []dedup.Claim) ([][]dedup.Undo, error) { return nil, nil }
