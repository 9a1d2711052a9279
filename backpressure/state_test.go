package backpressure_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// The state of a gate that was only opened expires, and its keys are prolonged once an hour, not in
// each call.
func TestLifeOfTheState(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{High: 10, Low: 4})
		state := "{" + s.name + "}:gate:state"
		life := func() time.Duration {
			ms, err := s.do("PTTL", state).AsInt64()
			if err != nil {
				t.Fatal(err)
			}
			return time.Duration(ms) * time.Millisecond
		}
		if d := life(); d <= 0 {
			t.Errorf("the state lives for %v, want a time to live", d)
		}
		ask := func() {
			if err := s.ask(1, false); err != nil {
				t.Error(err)
			}
		}
		ask()
		const little = 10 * time.Minute
		s.do("PEXPIRE", state, "600000")
		ask()
		if d := life(); d > little {
			t.Errorf("the state lives for %v, want at most %v: the call before has prolonged it", d, little)
		}
		s.do("HSET", state, "kept", "1")
		ask()
		if d := life(); d < 23*time.Hour {
			t.Errorf("the state lives for %v, want a day", d)
		}
	})
}

// A counter of places that was overwritten lets no producer pass those that wait.
func TestPlacesAfterAnOverwrittenCounter(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		s := newStream(t, c, backpressure.Config{High: 10, Low: 4, PollInterval: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		s.push(10)
		var all []<-chan error
		queue := "{" + s.name + "}:gate:queue"
		var before []string
		for n := range 5 {
			if n == 3 {
				s.do("HSET", "{"+s.name+"}:gate:state", "ticket", "many")
			}
			all = append(all, s.wait(ctx, s.gate, 6))
			servertest.Eventually(t, "one more waits", func() bool {
				members, err := s.do("ZRANGE", queue, "0", "-1").AsStrSlice()
				if err != nil || len(members) != n+1 {
					return false
				}
				for i := range before {
					if members[i] != before[i] {
						t.Errorf("place %d: got %s, want %s", i, members[i], before[i])
					}
				}
				before = members
				return true
			})
		}
		cancel()
		for _, done := range all {
			if err := <-done; err == nil {
				t.Error("a producer was let through a full queue")
			}
		}
	})
}
