package queue_test

import (
	"fmt"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// bury makes n records dead at once.
func bury(t *testing.T, q *queue.Queue, n int) {
	t.Helper()
	ctx := t.Context()
	must(t, q.Push(ctx, records(0, n)...))
	for range n {
		b := lease(t, q, queue.LeaseOptions{Records: 1})
		must(t, q.Settle(ctx, b, queue.Resolution{}))
	}
}

func TestDeadLettersPageByPage(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{})
		ctx := t.Context()
		dead, next, err := q.DeadLetters(ctx, "", 5)
		if len(dead) != 0 || next != "" || err != nil {
			t.Fatal(dead, next, err)
		}
		bury(t, q, 53)
		seen := map[string]string{}
		cursor := ""
		for i := 0; ; i++ {
			dead, next, err := q.DeadLetters(ctx, cursor, 7)
			must(t, err)
			for _, d := range dead {
				if seen[string(d.Payload)] != "" {
					t.Fatalf("%s comes twice", d.Payload)
				}
				seen[string(d.Payload)] = d.ID
			}
			if i == 1 { // what goes meanwhile shifts nothing
				n, err := q.Discard(ctx, dead[0].ID, dead[1].ID, seen["0"], "none")
				if n == 0 || err != nil {
					t.Fatal(n, err)
				}
			}
			if cursor = next; next == "" {
				break
			}
		}
		if len(seen) != 53 {
			t.Fatalf("saw %d of 53", len(seen))
		}
		s := books(t, q)
		if s.Dead+s.Discarded != 53 || s.Discarded < 2 {
			t.Fatalf("%+v", s)
		}
		n, err := q.RequeueAll(ctx)
		if n != int(s.Dead) || err != nil {
			t.Fatal(n, err)
		}
		if s := books(t, q); s.Dead != 0 || s.Requeued != int64(n) || s.InFlight != int64(n) {
			t.Fatalf("%+v", s)
		}
		if n, err := q.Requeue(ctx, seen["30"]); n != 0 || err != nil {
			t.Fatal("requeued twice", n, err)
		}
	})
}

func TestRequeueKeepsThePlace(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{})
		ctx := t.Context()
		must(t, q.Push(ctx, records(0, 4)...))
		b := lease(t, q, queue.LeaseOptions{})
		must(t, c.Do(ctx, c.B().Hset().Key(b.Guard).FieldValue().FieldValue("r:x", "abcd").Build()).Error())
		must(t, q.Settle(ctx, b, queue.Resolution{}))
		one := lease(t, q, queue.LeaseOptions{})
		for len(one.Payloads) > 1 {
			must(t, q.Settle(ctx, one, queue.Resolution{}))
			one = lease(t, q, queue.LeaseOptions{})
		}
		must(t, q.Settle(ctx, one, queue.Resolution{}))
		dead, _, err := q.DeadLetters(ctx, "", 1)
		must(t, err)
		d := dead[0]
		if d.Root != b.ID || string(d.Payload) != fmt.Sprint(d.Offset) || !d.FirstSeen.Equal(b.FirstSeen) || d.Reason == "" {
			t.Fatalf("%+v", d)
		}
		if n, err := q.Requeue(ctx, d.ID); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		for {
			again := lease(t, q, queue.LeaseOptions{})
			if string(again.Payloads[0]) != string(d.Payload) {
				continue
			}
			if again.Root != b.ID || again.Offset != d.Offset || again.Annotated || again.ID == d.ID || !again.FirstSeen.Equal(b.FirstSeen) {
				t.Fatalf("%+v", again)
			}
			return
		}
	})
}
