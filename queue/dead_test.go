package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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

// Scores that another program has written hide no letter, and a list of pages ends.
func TestLettersOfNoTime(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q, ctx := open(t, c, queue.Config{}), t.Context()
		bury(t, q, 8)
		dead, _, err := q.DeadLetters(ctx, "", 8)
		must(t, err)
		key := "{" + q.Name() + "}:queue:dead"
		for i, score := range []string{"-inf", "-1e308", "0.5", "9e15", "1e300", "inf", "inf"} {
			must(t, c.Do(ctx, c.B().Arbitrary("ZADD", key, score, dead[i].ID).Build()).Error())
		}
		seen := map[string]bool{}
		for cursor, pages := "", 1; ; pages++ {
			page, next, err := q.DeadLetters(ctx, cursor, 1)
			must(t, err)
			for _, d := range page {
				seen[d.ID] = true
			}
			if cursor = next; next == "" || pages > 8 {
				break
			}
		}
		if len(seen) != 8 {
			t.Errorf("got %d letters page by page, want 8", len(seen))
		}
		r, err := q.Repair(ctx, nil)
		must(t, err)
		must(t, r.After.Balanced())
		if page, _, err := q.DeadLetters(ctx, "", 100); err != nil || len(page) != 8 {
			t.Errorf("after a repair: got %d letters, %v, want 8", len(page), err)
		}
	})
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
			must(t, q.Settle(ctx, again, queue.Resolution{}))
			if buried, err := q.DeadLetter(ctx, again.ID); err != nil || buried.Attempts != d.Attempts+1 {
				t.Errorf("got %+v, %v, want %d attempts: one more than before the requeue", buried, err, d.Attempts+1)
			}
			if again.Root != b.ID || again.Offset != d.Offset || again.Annotated || again.ID == d.ID || !again.FirstSeen.Equal(b.FirstSeen) {
				t.Fatalf("%+v", again)
			}
			return
		}
	})
}

// A page of letters that is over what the server sends at once comes in parts. A letter that the
// server cannot send is named by an error, and the next page begins after it.
func TestDeadLettersOverTheOutputBufferLimit(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t).Client(t)
	ctx := t.Context()
	q := open(t, c, queue.Config{})
	const letters, huge = 12, 5
	var hugeIDs []string
	for i := range letters {
		size := 60_000
		if i == huge || i == letters-1 {
			size = 500_000
		}
		must(t, q.Push(ctx, append(fmt.Appendf(nil, "%04d", i), bytes.Repeat([]byte("x"), size)...)))
		b := lease(t, q, queue.LeaseOptions{})
		must(t, q.Settle(ctx, b, queue.Resolution{}))
		if size > 60_000 {
			hugeIDs = append(hugeIDs, b.ID)
		}
	}
	shards, err := queue.NewShards(ctx, c, servertest.Prefix(t), 2, nil, queue.Config{Logger: quiet})
	must(t, err)
	for i, size := range []int{1, 500_000, 1} { // the second letter is the last one of the first shard
		shard := shards.Queues()[i/2]
		must(t, shard.Push(ctx, append(fmt.Appendf(nil, "%04d", i), bytes.Repeat([]byte("x"), size)...)))
		must(t, shard.Settle(ctx, lease(t, shard, queue.LeaseOptions{}), queue.Resolution{}))
	}
	config(t, c, "client-output-buffer-limit", "normal 200000 0 0")
	got, unreadable := deadPages(t, shards)
	if fmt.Sprint(got) != "[0000 0002]" || len(unreadable) != 1 {
		t.Errorf("of shards: got the letters %v and the errors %q, want [0000 0002] and one error", got, unreadable)
	}
	got, unreadable = deadPages(t, q)
	slices.Sort(got) // letters of one millisecond have no order
	if want := "[0000 0001 0002 0003 0004 0006 0007 0008 0009 0010]"; fmt.Sprint(got) != want {
		t.Errorf("got the letters %v, want %s", got, want)
	}
	if len(unreadable) != len(hugeIDs) {
		t.Fatalf("got %d errors, want %d: %q", len(unreadable), len(hugeIDs), unreadable)
	}
	for i, id := range hugeIDs {
		if text := unreadable[i]; !strings.Contains(text, id) || !strings.Contains(text, "client-output-buffer-limit normal is 200000") {
			t.Errorf("got %q, want an error that names letter %s and the setting", text, id)
		}
		_, err := q.DeadLetter(ctx, id)
		wantErr(t, err, queue.ErrReplyLimit)
	}
	counts, err := q.Scan(ctx, queue.ScanOptions{Bytes: 64 << 20}, func([]queue.ScannedRecord) error { return nil })
	must(t, err)
	for _, n := range counts {
		if n.Place == queue.PlaceDead && (n.Scanned != letters-2 || n.Complete()) {
			t.Errorf("got %+v, want %d letters scanned of %d", n, letters-2, letters)
		}
	}
	if n, err := q.Discard(ctx, hugeIDs...); n != len(hugeIDs) || err != nil {
		t.Errorf("discarded %d, %v, want %d", n, err, len(hugeIDs))
	}
}

// deadPages reads all dead letters, and returns the first 4 bytes of each, and the errors about
// those that the server cannot send.
func deadPages(t *testing.T, q target) (got, unreadable []string) {
	t.Helper()
	cursor := ""
	for range 100 {
		dead, next, err := q.DeadLetters(t.Context(), cursor, 50)
		if errors.Is(err, queue.ErrReplyLimit) {
			unreadable = append(unreadable, err.Error())
		} else {
			must(t, err)
		}
		for _, d := range dead {
			got = append(got, string(d.Payload[:4]))
		}
		if cursor = next; next == "" {
			return got, unreadable
		}
	}
	t.Fatal("the pages do not end")
	return nil, nil
}

// A record that is larger than what one call of the script requeues comes back alone.
func TestRequeueOfLargeRecords(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{Push: queue.PushConfig{MaxPayload: 8 << 20}})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // or it would go on for ever
		defer cancel()
		for range 2 {
			must(t, q.Push(ctx, make([]byte, 5<<20)))
			must(t, q.Settle(ctx, lease(t, q, queue.LeaseOptions{}), queue.Resolution{}))
		}
		if n, err := q.RequeueAll(ctx); n != 2 || err != nil {
			t.Errorf("requeued %d, %v, want 2", n, err)
		}
		if s := books(t, q); s.Dead != 0 || s.InFlight != 2 {
			t.Errorf("got %+v, want 2 records in flight", s)
		}
	})
}

// No text of a caller, however long, makes an error long.
func TestErrorsAreBounded(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q, ctx, long := open(t, c, queue.Config{}), t.Context(), strings.Repeat("long\x00", 1<<18)
		b := &queue.Batch{ID: long, Queue: long}
		for what, call := range map[string]func() error{
			"get":     func() error { _, err := q.Get(ctx, long); return err },
			"letter":  func() error { _, err := q.DeadLetter(ctx, long); return err },
			"cursor":  func() error { _, _, err := q.DeadLetters(ctx, long, 1); return err },
			"extend":  func() error { return q.Extend(ctx, b, 0) },
			"release": func() error { return q.Release(ctx, b, queue.ReleaseOptions{Failure: long}) },
			"undo": func() error {
				_, err := q.AckWith(ctx, queue.Ack{ID: long, Undo: []queue.Undo{{Key: long, Old: "a"}}})
				return err
			},
			"source": func() error { return q.PushFrom(ctx, long, "", "1", []byte("a")) },
		} {
			if text := errText(call()); text == "" || len(text) > 4000 {
				t.Errorf("%s: got an error of %d bytes, want one of at most 4000", what, len(text))
			}
		}
	})
}
