package staging_test

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// What an acknowledgement of 64 batches of rejects reads: keys and places. Its memory does not grow
// with the payloads.
func TestAnAcknowledgementReadsNoPayloads(t *testing.T) {
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	const batches, records = 64, 100
	var ids []string
	for b := range batches {
		l := staging.Load[item]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: records}}
		for i := range int32(records) {
			l.Rejects = append(l.Rejects, staging.Reject{Pos: i, Key: fmt.Sprintf("%d-%d", b, i), Code: "bad", Reason: "as asked", Payload: bytes.Repeat([]byte("x"), 8<<10)})
		}
		stage(t, tab, l, staging.OutcomeStaged)
		ids = append(ids, l.Batch.ID)
	}
	promote(t, tab)
	allocated := func(read func() (map[string][]staging.Reject, error)) (perReject uint64) {
		t.Helper()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := read()
		runtime.ReadMemStats(&after)
		n := 0
		for _, r := range got {
			n += len(r)
		}
		if err != nil || n != batches*records {
			t.Fatalf("%d rejects, %v, want %d", n, err, batches*records)
		}
		return (after.TotalAlloc - before.TotalAlloc) / (batches * records)
	}
	keys := allocated(func() (map[string][]staging.Reject, error) { return tab.RejectedKeys(t.Context(), ids) })
	whole := allocated(func() (map[string][]staging.Reject, error) { return tab.RejectsByBatch(t.Context(), ids) })
	t.Logf("an acknowledgement allocates %d bytes a reject, with payloads of 8 KB %d", keys, whole)
	if keys > 2048 || whole < 8<<10 {
		t.Errorf("%d bytes a reject for the keys, %d with payloads, want 2048 at most and 8192 at least", keys, whole)
	}
}
