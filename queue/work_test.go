package queue_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// No command holds the server for long, however much the caller asks for.
func TestNoCommandDoesTooMuch(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	c := s.Client(t)
	q := open(t, c, queue.Config{Push: queue.PushConfig{MaxDepth: 1 << 40}})
	ctx := t.Context()
	check := func(what string, f func()) {
		t.Helper()
		redisxtest.CheckWork(t, s.URL, what, f)
	}
	many := make([][]byte, 60_000)
	for i := range many {
		many[i] = bytes.Repeat([]byte("x"), i%40)
	}
	check("a bounded push", func() { must(t, q.Push(ctx, many...)) })
	check("a delayed push", func() { must(t, q.PushAt(ctx, time.Now(), many...)) })
	check("large records", func() { must(t, q.Push(ctx, bytes.Repeat([]byte("x"), 1<<20), bytes.Repeat([]byte("y"), 1<<20), nil)) })
	var b *queue.Batch
	largest := queue.LeaseOptions{Records: queue.MaxRecords, Duration: time.Hour}
	check("the largest lease", func() { b = lease(t, q, largest) })
	check("a split", func() { must(t, q.Settle(ctx, b, queue.Resolution{})) })
	check("a lease by bytes", func() {
		b = lease(t, q, queue.LeaseOptions{Records: queue.MaxRecords, Bytes: 10_000, Duration: time.Hour})
	})
	log := "{" + q.Name() + "}:log"
	const undos = 30_000
	must(t, c.Do(ctx, c.B().Set().Key(log).Value(strings.Repeat("0123456789abcdef", undos)).Build()).Error())
	undo := make([]queue.Undo, undos)
	for i := range undo {
		undo[i] = queue.Undo{Key: log, Offset: int64(i) * 16, Old: "0123456789", New: "x"}
	}
	check("an ack with 30,000 undos", func() {
		if n, err := q.AckWith(ctx, queue.Ack{ID: b.ID, Undo: undo}); n != 1 || err != nil {
			t.Errorf("got %d, %v, want 1 batch acknowledged", n, err)
		}
	})
	got, err := c.Do(ctx, c.B().Get().Key(log).Build()).ToString()
	must(t, err)
	if n := strings.Count(got, "x123456789"); n != undos {
		t.Errorf("%d undos were applied, want %d", n, undos)
	}
	// The batch is gone: its claims may be those of another one.
	must(t, c.Do(ctx, c.B().Set().Key(log).Value(strings.Repeat("0123456789abcdef", undos)).Build()).Error())
	check("the same ack again", func() {
		if n, err := q.AckWith(ctx, queue.Ack{ID: b.ID, Undo: undo}); n != 0 || err != nil {
			t.Errorf("got %d, %v, want none acknowledged", n, err)
		}
	})
	got, err = c.Do(ctx, c.B().Get().Key(log).Build()).ToString()
	must(t, err)
	if n := strings.Count(got, "x"); n != 0 {
		t.Errorf("%d undos of a batch that is gone were applied, want none", n)
	}
	var ids []string
	for range 600 {
		ids = append(ids, lease(t, q, queue.LeaseOptions{Records: 1, Duration: time.Hour}).ID)
	}
	check("600 acks", func() {
		if n, err := q.Ack(ctx, ids...); n != len(ids) || err != nil {
			t.Errorf("got %d, %v, want %d", n, err, len(ids))
		}
	})
	for range 600 {
		b := lease(t, q, queue.LeaseOptions{Records: 1, Duration: time.Hour})
		must(t, q.Settle(ctx, b, queue.Resolution{Undo: undo[:2]}))
	}
	check("a requeue of all", func() { _, err := q.RequeueAll(ctx); must(t, err) })
	check("an audit", func() { _, err := q.Audit(ctx); must(t, err) })
	books(t, q)
}
