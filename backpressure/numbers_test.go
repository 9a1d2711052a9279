package backpressure_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// Whatever someone has written into the keys of a gate, no call ends in its middle, the bound holds
// as soon as the room is counted, Audit names what stays, and Repair mends it.
func TestNumbersOverwrittenByHand(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	huge := strings.Repeat("9", 400)
	edits := [][]string{
		{"HSET", "state", "records", "many"}, {"HSET", "state", "bytes", ""}, {"HSET", "state", "records", "1.5"},
		{"HSET", "state", "records", "9223372036854775807"}, {"HSET", "state", "records", huge}, {"HDEL", "state", "records"},
		{"HSET", "state", "clock", "soon"}, {"HSET", "state", "clock", "9007199254740991"}, {"HSET", "state", "offset", "9007199254740991"},
		{"HSET", "state", "offset", "-7"}, {"HSET", "state", "kept", "0x10"}, {"HSET", "state", "ticket", "many"},
		{"HSET", "state", "ticket", "9223372036854775807"}, {"ZADD", "queue", "0", "garbage"}, {"ZADD", "queue", "-inf", "a 1 2 3"},
		{"ZADD", "waiters", "9e15", "garbage"}, {"ZADD", "held", "+inf", "id 3 0 10 0"}, {"ZADD", "held", "1e300", "garbage"},
		{"ZADD", "held", "9e15", "id " + huge + " 0 10 0"}, {"HSET", "state", "records", "7"},
	}
	for _, edit := range edits {
		s := newStream(t, c, backpressure.Config{High: 10, Low: 2, ReservationTTL: time.Hour})
		ctx := t.Context()
		what := strings.Join(edit, " ")[:min(60, len(strings.Join(edit, " ")))]
		held, err := s.gate.TryAcquire(ctx, 4)
		if err != nil {
			t.Fatal(err)
		}
		s.do(append([]string{edit[0], "{" + s.name + "}:gate:" + edit[1]}, edit[2:]...)...)
		if _, err := s.gate.Stats(ctx); err != nil {
			t.Errorf("%s: stats: %v", what, err)
		}
		a, err := s.gate.Audit(ctx)
		if sums := edit[1] == "held" || edit[1] == "state" && edit[2] == "records"; err != nil || sums == (a.Balanced() == nil) && edit[0] != "HDEL" {
			if edit[1] != "queue" && edit[1] != "waiters" && edit[2] != "bytes" { // those depend on what the next call removes
				t.Errorf("%s: audit: got %q, %v", what, a.Differences, err)
			}
		}
		for range 2 {
			if _, err := s.gate.Repair(ctx); err != nil {
				t.Errorf("%s: repair: %v", what, err)
			}
		}
		if a, err := s.gate.Audit(ctx); err != nil || a.Balanced() != nil {
			t.Errorf("%s: after the repair: %q, %v", what, a.Differences, err)
		}
		if err := s.ask(7, false); !errors.Is(err, backpressure.ErrFull) {
			t.Errorf("%s: 7 with 4 of 10: got %v, want %v", what, err, backpressure.ErrFull)
		}
		waits := s.wait(ctx, s.other(backpressure.Config{High: 10, Low: 2, ReservationTTL: time.Hour, Records: []backpressure.Source{{List: s.list()}}}), 8)
		for n := int64(0); n == 0; {
			st, err := s.gate.Stats(ctx)
			if err != nil {
				t.Fatal(err)
			}
			n = st.Waiting
		}
		if err := held.Release(ctx); err != nil {
			t.Errorf("%s: release: %v", what, err)
		}
		if err := <-waits; err != nil {
			t.Errorf("%s: the one who waited: %v", what, err)
		}
		if st, err := s.gate.Stats(ctx); err != nil || st.ReservedRecords != 8 {
			t.Errorf("%s: got %+v, %v, want 8 reserved records", what, st, err)
		}
	}
}
