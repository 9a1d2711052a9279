package staging_test

import (
	"context"
	"errors"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// A reject whose push fails stays open, and of two calls at once one pushes the record. A role that
// may not resolve rejects pushes nothing: each repetition would push the record once more.
func TestResubmit(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	cfg := staging.Config[item]{Create: true, Key: []string{"id"}}
	tab := newTable(t, pool, "items", cfg)
	l := load(items("a", 1)...)
	l.Batch.Records, l.Rejects = 2, []staging.Reject{{Pos: 1, Code: "odd", Reason: "odd", Payload: []byte("x")}}
	stage(t, tab, l, staging.OutcomeStaged)
	promote(t, tab)
	open := func() []staging.StoredReject { return must(tab.Rejects(t.Context(), staging.RejectFilter{})) }
	id := open()[0].ID

	asReader, _ := session(t, pool, staging.RoleReader, cfg)
	pushed := 0
	push := func(context.Context) error { pushed++; return nil }
	reader := must(staging.OpenLedger(t.Context(), asReader, "items"))
	if done, err := reader.Resubmit(t.Context(), id, push); done || err == nil || pushed != 0 || len(open()) != 1 {
		t.Fatalf("as a reader: %v, %v, %d pushes, %d open, want an error, no push, one open", done, err, pushed, len(open()))
	}

	ledger := must(staging.OpenLedger(t.Context(), pool, "items"))
	full := errors.New("the queue is full")
	if done, err := ledger.Resubmit(t.Context(), id, func(context.Context) error { return full }); done || !errors.Is(err, full) || len(open()) != 1 {
		t.Fatalf("a push that fails: %v, %v, %d open, want its error, one open", done, err, len(open()))
	}

	var second <-chan result[bool]
	done, err := ledger.Resubmit(t.Context(), id, func(ctx context.Context) error {
		second = background(func() (bool, error) { return ledger.Resubmit(ctx, id, push) })
		untilWaiting(t, pool)
		return push(ctx)
	})
	if again := (<-second).must(t); !done || err != nil || again || pushed != 1 || len(open()) != 0 {
		t.Errorf("two at once: %v, %v, then %v, %d pushes, %d open, want true, nil, then false, one push, none open", done, err, again, pushed, len(open()))
	}
	if done, err := ledger.Resubmit(t.Context(), id+1, push); done || err != nil || pushed != 1 {
		t.Errorf("a reject that does not exist: %v, %v, %d pushes, want false and no further push", done, err, pushed)
	}
	balanced(t, tab)
}
