package matview

import (
	"context"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
)

// A refresh is due when the notices pause, and no later than the staleness allows.
func TestWhenARefreshIsDue(t *testing.T) {
	t.Parallel()
	begun := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return begun.Add(time.Duration(seconds) * time.Second) }
	for name, c := range map[string]struct {
		notices []int
		want    time.Time
	}{
		"nothing changed":             {nil, time.Time{}},
		"one notice":                  {[]int{0}, at(2)},
		"each notice puts it off":     {[]int{0, 1, 3, 4}, at(6)},
		"but not beyond the limit":    {[]int{0, 1, 3, 5, 7, 9}, at(10)},
		"also where it was overslept": {[]int{0, 9, 20}, at(10)},
	} {
		s := schedule{wake: make(chan struct{}, 1)}
		for _, n := range c.notices {
			s.note(at(n))
		}
		if got := s.due(2*time.Second, 10*time.Second); !got.Equal(c.want) {
			t.Errorf("%s: due at %v, want %v", name, got, c.want)
		}
		s.begin()
		if got := s.due(2*time.Second, 10*time.Second); !got.IsZero() {
			t.Errorf("%s: due at %v after a refresh has begun, want never", name, got)
		}
	}
}

// Run refreshes at its start, after each notice, and again after a refresh that ran into its time
// limit. It ends with its context.
func TestRunRefreshes(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	if _, err := pool.Exec(t.Context(), `CREATE TABLE pauses (seconds float8); INSERT INTO pauses VALUES (0)`); err != nil {
		t.Fatal(err)
	}
	began := make(chan bool, 100)
	r, err := New(t.Context(), pool, "dashboard", Config{
		Views:    []View{{Name: "v", SQL: "SELECT count(pg_sleep(seconds)) AS n FROM pauses"}},
		Debounce: time.Millisecond, Timeout: 2 * time.Second,
		Changed: func(context.Context) (string, error) {
			began <- true
			return time.Now().String(), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	refreshes := func(n int64) {
		t.Helper()
		for {
			views, err := r.Freshness(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if views[0].Refreshes >= n {
				return
			}
			select {
			case <-began: // a further attempt
			case err := <-ended:
				t.Fatal("Run has ended: ", err)
			default:
			}
		}
	}
	refreshes(1)
	if _, err := pool.Exec(t.Context(), `UPDATE pauses SET seconds = 60`); err != nil {
		t.Fatal(err)
	}
	r.Notify()
	<-began // this one runs into the limit, and the view stays as it was
	if _, err := pool.Exec(t.Context(), `UPDATE pauses SET seconds = 0`); err != nil {
		t.Fatal(err)
	}
	refreshes(2)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
