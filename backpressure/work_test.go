package backpressure_test

import (
	"testing"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// No command holds the server for long, however many reservations expire together.
func TestNoCommandDoesTooMuch(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	s := newStream(t, own.Client(t), backpressure.Config{})
	const producers = 3000
	redisxtest.CheckWork(t, own.URL, "reservations", func() {
		for range producers {
			if _, err := s.gate.TryAcquire(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}
	})
	held := "{" + s.name + "}:gate:held"
	members, err := s.do("ZRANGE", held, "0", "-1").AsStrSlice()
	if err != nil || len(members) != producers {
		t.Fatalf("got %d reservations, %v, want %d", len(members), err, producers)
	}
	for _, m := range members {
		s.do("ZADD", held, "1", m)
	}
	redisxtest.CheckWork(t, own.URL, "all expire", func() {
		for range 1 + producers/1000 {
			if err := s.gate.Notify(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	if st, err := s.gate.Stats(t.Context()); err != nil || st.ReservedRecords != 0 {
		t.Errorf("got %+v, %v, want no reservation", st, err)
	}
}
