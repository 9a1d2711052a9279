package queue_test

import (
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

// noNumbers are texts that the queue never writes where it counts.
var noNumbers = []string{"many", "", "1.5", "9223372036854775807", "-9223372036854775808", "1e3", "0x10", " 7", "7 ", "nan", strings.Repeat("9", 400)}

// A counter that someone has overwritten stops no call but a bounded push. Audit names it with its
// text, and Repair finds the value that it would have.
func TestCountersOverwrittenByHand(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	ctx := t.Context()
	q := open(t, c, quick)
	bounded := openAs(t, c, q.Name(), queue.Config{Lease: quick.Lease, Push: queue.PushConfig{MaxDepth: 1000}})
	stat := "{" + q.Name() + "}:queue:stat"
	set := func(field, text string) {
		t.Helper()
		must(t, c.Do(ctx, c.B().Hset().Key(stat).FieldValue().FieldValue(field, text).Build()).Error())
	}
	acked, rounds := workHard(t, q, "before"), int64(1)
	sums := []string{"taken", "acked", "inflight", "handed", "dead", "delayed", "dropped", "lost", "reserved"}
	loose := []string{"redelivered", "requeued", "splits", "clock_steps"}
	for i, field := range slices.Concat(sums, loose) {
		for _, text := range []string{noNumbers[i%len(noNumbers)], noNumbers[(i*3+1)%len(noNumbers)]} {
			what := fmt.Sprintf("%s = %.20q", field, text)
			set(field, text)
			a, err := q.Audit(ctx)
			must(t, err)
			if err := a.Balanced(); err == nil || !strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), fmt.Sprintf("%.20s", text)) {
				t.Errorf("%s: Audit reports %v", what, err)
			}
			s, err := q.Stats(ctx)
			must(t, err)
			wantErr(t, s.Balanced(), queue.ErrImbalance)
			acked, rounds = acked+workHard(t, q, what), rounds+1
			if err := bounded.Push(ctx, []byte("x")); slices.Contains([]string{"inflight", "delayed", "reserved"}, field) {
				wantErr(t, err, queue.ErrCounter)
				wantErr(t, bounded.PushFrom(ctx, "source", "", "1", []byte("x")), queue.ErrCounter)
			} else if err != nil {
				t.Errorf("%s: a bounded push: %v", what, err)
			}
			r, err := q.Repair(ctx, nil)
			must(t, err)
			if err := r.After.Balanced(); err != nil {
				t.Errorf("%s: after the repair: %v", what, r.After.Differences)
			}
			if s.Damaged == "" || r.After.Stats.Damaged != "" {
				t.Errorf("%s: damaged were %q, and after the repair %q", what, s.Damaged, r.After.Stats.Damaged)
			}
		}
	}
	// Each counter was restored to what it would be.
	if s := books(t, q); s.Acked != acked || s.Discarded != rounds || s.Lost != 0 {
		t.Errorf("got %+v, want %d acked, %d discarded, none lost", s, acked, rounds)
	}
	// What no equation shows: it is used for guesses only.
	for _, field := range []string{"clock", "avg"} {
		for _, text := range noNumbers {
			set(field, text)
			workHard(t, q, field+" = "+text)
		}
	}
	if s := books(t, q); s.ClockSteps != 0 || s.Redelivered == 0 {
		t.Errorf("got %d clock steps and %d redelivered, want none and some", s.ClockSteps, s.Redelivered)
	}
	// Any value of "paused" pauses.
	set("paused", "0")
	if s := books(t, q); !s.Paused {
		t.Error("the queue is paused, and Stats does not report it")
	}
	must(t, q.Resume(ctx))
	// The room of reservations that are not there.
	set("reserved", "1000")
	wantErr(t, bounded.Push(ctx, []byte("x")), queue.ErrFull)
	_, err := q.Repair(ctx, nil)
	must(t, err)
	must(t, bounded.Push(ctx, []byte("x")))
}

// A counter that reaches the end of the numbers that scripts add exactly is never off by a little:
// either the books balance, or Stats names it, and Repair makes it small again.
func TestCountersAtTheEndOfTheNumbers(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx := t.Context()
		q := open(t, c, quick)
		workHard(t, q, "before")
		stat := "{" + q.Name() + "}:queue:stat"
		for _, below := range []int64{1, 2, 3, 7, 8, 9, 20, 0, -1, -2} {
			far := int64(1)<<53 - below
			what := fmt.Sprint("2^53 - ", below)
			must(t, c.Do(ctx, c.B().Hset().Key(stat).FieldValue().FieldValue("taken", fmt.Sprint(far)).FieldValue("acked", fmt.Sprint(far)).
				FieldValue("dropped", "0").FieldValue("lost", "0").Build()).Error())
			workHard(t, q, what)
			s, err := q.Stats(ctx)
			must(t, err)
			if err := s.Balanced(); err != nil && s.Damaged == "" || err == nil && s.Acked <= far {
				t.Errorf("%s: got %d taken and %d acknowledged, %v", what, s.Taken, s.Acked, err)
			}
			r, err := q.Repair(ctx, nil)
			must(t, err)
			if err := r.After.Balanced(); err != nil {
				t.Errorf("%s: after the repair: %v", what, err)
			}
			workHard(t, q, what+", repaired")
			s, err = q.Stats(ctx)
			must(t, err)
			if err := s.Balanced(); err != nil && s.Damaged == "" {
				t.Errorf("%s: after the repair: %v", what, err)
			}
		}
	})
}

// workHard uses every script of a queue, which is empty afterwards. It discards one record, and
// returns how many it acknowledged.
func workHard(t *testing.T, q *queue.Queue, what string) (acked int64) {
	t.Helper()
	ctx := t.Context()
	good := func(op string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %s: %v", what, op, err)
		}
	}
	next := func(n int) *queue.Batch {
		t.Helper()
		b, err := q.TryLease(ctx, queue.LeaseOptions{Records: n, Duration: time.Hour})
		good("lease", err)
		return b
	}
	good("push", q.Push(ctx, records(0, 6)...))
	good("delayed push", q.PushAt(ctx, time.UnixMilli(1), records(6, 8)...))
	b := next(3)
	good("extend", q.Extend(ctx, b, time.Hour))
	good("release", q.Release(ctx, b, queue.ReleaseOptions{}))
	good("handoff", q.Handoff(ctx, next(3)))
	_, err := q.Reconcile(ctx, newLedger().known, nil)
	good("reconcile", err)
	good("split", q.Settle(ctx, next(3), queue.Resolution{}))
	buried := 0
	for {
		b, err := q.TryLease(ctx, queue.LeaseOptions{Records: 3, Duration: time.Hour})
		if errors.Is(err, queue.ErrEmpty) {
			break
		}
		good("lease", err)
		if len(b.Payloads) == 1 && buried < 2 {
			good("bury", q.Settle(ctx, b, queue.Resolution{}))
			if buried++; buried == 1 {
				_, err = q.RequeueAll(ctx)
			} else {
				_, err = q.Discard(ctx, b.ID)
			}
			good("requeue or discard", err)
			continue
		}
		_, err = q.Ack(ctx, b.ID)
		good("ack", err)
		acked += int64(len(b.Payloads))
	}
	if buried != 2 {
		t.Fatalf("%s: %d records were buried, want 2", what, buried)
	}
	return acked
}

// fieldEdits are what may be written into a field of a batch or of a dead letter.
var fieldEdits = map[string][]string{
	"n": {"many", "0", "3.0", "9007199254740993"}, "att": {"", "9223372036854775807", "-1"}, "off": {"x", "1e2"},
	"fails": {"many", "9223372036854775807"}, "crashes": {"", "0.5"}, "past": {"0x10"}, "sealed": {"yesterday"}, "first": {"-inf"},
	"buried": {"some"}, "st": {"Q", ""}, "root": nil, "r:dedup": {"too short"},
}

// A field of a batch that someone has overwritten or deleted, whatever the state of the batch: no
// call fails in its middle, Audit names it, and after Repair every record is accounted for.
func TestFieldsOfBatchesOverwrittenByHand(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	states := []string{"leased", "released", "handed"}
	i := 0
	for field, edits := range fieldEdits {
		for _, text := range append(edits, "\x00delete") {
			state := states[i%len(states)]
			i++
			d := newDamaged(t, c)
			b := map[string]*queue.Batch{"leased": d.leased, "released": d.released, "handed": d.handed}[state]
			what := fmt.Sprintf("%s of a %s batch = %q", field, state, text)
			edit := []string{"HSET", d.key("m:" + b.ID), field, text}
			if text == "\x00delete" {
				edit = []string{"HDEL", d.key("m:" + b.ID), field}
			}
			must(t, c.Do(t.Context(), c.B().Arbitrary(edit...).Build()).Error())
			optional := edit[0] == "HDEL" && slices.Contains([]string{"fails", "crashes", "past", "buried"}, field) || field == "r:dedup"
			checkFieldEdit(t, c, d, what, b.ID, optional)
		}
	}
}

// checkFieldEdit checks a queue of which the batch with the given id was edited.
func checkFieldEdit(t *testing.T, c rueidis.Client, d damaged, what, id string, sound bool) {
	t.Helper()
	q, ctx := d.q, t.Context()
	a, err := q.Audit(ctx)
	must(t, err)
	if named := strings.Contains(strings.Join(a.Differences, "\n"), id); named == sound {
		t.Errorf("%s: Audit reports %v", what, a.Differences)
	}
	_, err = q.Get(ctx, id)
	if err != nil {
		wantErr(t, err, queue.ErrBroken)
	}
	if err := q.Release(ctx, d.leased, queue.ReleaseOptions{Failure: "no"}); err != nil && !errors.Is(err, queue.ErrLeaseLost) {
		wantErr(t, err, queue.ErrBroken)
	}
	l := newLedger()
	if _, err := q.Reconcile(ctx, l.known, l.settle); err != nil {
		wantErr(t, err, queue.ErrBroken)
	}
	must(t, allDue(c, d.key("leases")))
	drained := drainAll(t, what, q, l)
	if _, err := q.Repair(ctx, l.settle); err != nil {
		t.Errorf("%s: repair: %v", what, err)
	}
	if _, err := q.RequeueAll(ctx); err != nil {
		t.Errorf("%s: requeue: %v", what, err)
	}
	drained += drainAll(t, what, q, l)
	s := books(t, q)
	if s.InFlight != 0 || s.Ready != 0 || s.Dead != 0 || s.Lost != 0 || s.Acked != 13 || drained != 13 {
		t.Errorf("%s: %d records were drained, and the books are %+v, want 13 and none lost or left", what, drained, s)
	}
}

// allDue makes all members of a sorted set due: the time that has passed, without waiting for it.
func allDue(c rueidis.Client, set string) error {
	script := `for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZADD', KEYS[1], 1, id) end return 1`
	return c.Do(context.Background(), c.B().Eval().Script(script).Numkeys(1).Key(set).Build()).Error()
}

// drainAll acknowledges what can be leased, and returns the number of records.
func drainAll(t *testing.T, what string, q *queue.Queue, l *ledger) (n int) {
	t.Helper()
	for deliveries := 0; ; deliveries++ {
		b, err := q.TryLease(t.Context(), queue.LeaseOptions{Records: 4, Duration: time.Hour, Settle: l.settle})
		if errors.Is(err, queue.ErrEmpty) && deliveries < 1000 && haveWaiting(t, q) {
			continue // after its backoff of a millisecond
		}
		switch {
		case errors.Is(err, queue.ErrEmpty):
			return n
		case err != nil:
			t.Errorf("%s: lease: %v", what, err)
			return n
		}
		acked, err := q.Ack(t.Context(), b.ID)
		if acked != 1 || err != nil {
			t.Errorf("%s: ack: got %d, %v", what, acked, err)
			return n
		}
		n += len(b.Payloads)
	}
}

// haveWaiting reports whether batches wait for redelivery.
func haveWaiting(t *testing.T, q *queue.Queue) bool {
	t.Helper()
	s, err := q.Stats(t.Context())
	must(t, err)
	return s.WaitingBatches > 0
}

// A dead letter that someone has edited is named, mended and delivered again.
func TestDeadLettersOverwrittenByHand(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for i, edit := range [][]string{
			{"HSET", "off", "x"}, {"HDEL", "off"}, {"HDEL", "root"}, {"HSET", "first", "1.5"}, {"HDEL", "first"}, {"HSET", "att", "many"},
			{"HDEL", "att"}, {"HSET", "fails", ""}, {"HSET", "crashes", strings.Repeat("9", 40)}, {"HSET", "died", "now"},
		} {
			q := open(t, c, quick)
			ctx := t.Context()
			what := strings.Join(edit, " ")
			must(t, q.Push(ctx, []byte("bad")))
			b := lease(t, q, queue.LeaseOptions{})
			must(t, q.Settle(ctx, b, queue.Resolution{}))
			key := "{" + q.Name() + "}:queue:d:" + b.ID
			must(t, c.Do(ctx, c.B().Arbitrary(append([]string{edit[0], key}, edit[1:]...)...).Build()).Error())
			a, err := q.Audit(ctx)
			must(t, err)
			if err := a.Balanced(); err == nil || !strings.Contains(err.Error(), b.ID) || !strings.Contains(err.Error(), edit[1]) {
				t.Errorf("%s: Audit reports %v", what, err)
			}
			if i%2 == 0 {
				r, err := q.Repair(ctx, nil)
				must(t, err)
				if err := r.After.Balanced(); err != nil || r.Relisted != 1 {
					t.Errorf("%s: %d mended, and then %v", what, r.Relisted, err)
				}
			}
			n, err := q.RequeueAll(ctx)
			if n != 1 || err != nil {
				t.Errorf("%s: requeue: got %d, %v", what, n, err)
			}
			again := lease(t, q, queue.LeaseOptions{})
			wantPayloads(t, again, [][]byte{[]byte("bad")})
			_, err = q.Ack(ctx, again.ID)
			must(t, err)
			books(t, q)
		}
	})
}

// Scores of the sets that no script writes: a lease that never ends is named and ended.
func TestScoresOverwrittenByHand(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, score := range []string{"+inf", "-inf", "1e300"} {
			for _, set := range []string{"leases", "redo", "handed", "open"} {
				d := newDamaged(t, c)
				ctx := t.Context()
				b := map[string]*queue.Batch{"leases": d.leased, "redo": d.released, "handed": d.handed, "open": d.released}[set]
				what := set + " " + score
				must(t, c.Do(ctx, c.B().Arbitrary("ZADD", d.key(set), score, b.ID).Build()).Error())
				a, err := d.q.Audit(ctx)
				must(t, err)
				if !strings.Contains(strings.Join(a.Differences, "\n"), b.ID) {
					t.Errorf("%s: Audit reports %v", what, a.Differences)
				}
				r, err := d.q.Repair(ctx, nil)
				must(t, err)
				if r.Resumed != 1 || r.After.Balanced() != nil {
					t.Errorf("%s: %d batches resumed, and then %v", what, r.Resumed, r.After.Differences)
				}
			}
		}
	})
}
