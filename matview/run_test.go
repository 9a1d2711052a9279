package matview

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

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
		if got, views := s.next(2*time.Second, 10*time.Second); !got.Equal(c.want) || views != nil {
			t.Errorf("%s: %v due at %v, want all views at %v", name, views, got, c.want)
		}
		s.begin()
		if got, _ := s.next(2*time.Second, 10*time.Second); !got.IsZero() {
			t.Errorf("%s: due at %v after a refresh has begun, want never", name, got)
		}
	}
}

// Each failure doubles the pause before the next retry, up to the staleness. A notice is not put
// off by it, and a refresh that works ends it.
func TestPauseBetweenRetries(t *testing.T) {
	t.Parallel()
	const debounce, staleness = 2 * time.Second, 15 * time.Second
	s := schedule{wake: make(chan struct{}, 1)}
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	broken := map[string]bool{"broken": true}
	for i, want := range []time.Duration{2, 4, 8, 15, 15} {
		s.end(now, broken, debounce, staleness)
		at, views := s.next(debounce, staleness)
		if got := at.Sub(now); got != want*time.Second || len(views) != 1 || !views["broken"] {
			t.Errorf("after failure %d: %v due in %v, want broken in %v", i+1, views, got, want*time.Second)
		}
		if got := s.nextOf("right", debounce, staleness); !got.IsZero() {
			t.Errorf("after failure %d: the view that worked is due at %v, want never", i+1, got)
		}
		now = at
	}
	s.end(now, broken, debounce, staleness)
	s.note(now)
	if at, views := s.next(debounce, staleness); at.Sub(now) != debounce || views != nil {
		t.Errorf("after a notice: %v due in %v, want all views in %v", views, at.Sub(now), debounce)
	}
	s.begin()
	s.end(now, nil, debounce, staleness)
	if at, _ := s.next(debounce, staleness); !at.IsZero() {
		t.Errorf("after a refresh that worked: due at %v, want never", at)
	}
	s.end(now, broken, debounce, staleness)
	if at := s.nextOf("broken", debounce, staleness); at.Sub(now) != debounce {
		t.Errorf("after the next failure: due in %v, want %v", at.Sub(now), debounce)
	}
}

// A view that fails is retried until it works. The views that it does not read are not refreshed
// with it.
func TestRunRetriesOnlyWhatFailed(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	if _, err := pool.Exec(t.Context(), `CREATE TABLE divisors (n int); INSERT INTO divisors VALUES (0)`); err != nil {
		t.Fatal(err)
	}
	began := make(chan bool)
	var log bytes.Buffer
	r, err := New(t.Context(), pool, "dashboard", Config{
		Views: []View{
			{Name: "base", SQL: "SELECT n FROM divisors"}, {Name: "broken", SQL: "SELECT 1 / n AS q FROM base"},
			{Name: "above", SQL: "SELECT q FROM broken"}, {Name: "right", SQL: "SELECT n FROM divisors"},
		},
		Debounce: time.Millisecond, MaxStaleness: 8 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Changed: func(ctx context.Context) (string, error) {
			select {
			case began <- true:
			case <-ctx.Done():
			}
			return time.Now().String(), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	refreshes := func() map[string]int64 {
		t.Helper()
		views, err := r.Freshness(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]int64{}
		for _, v := range views {
			out[v.View] = v.Refreshes
		}
		return out
	}
	until := func(view string, n int64) {
		t.Helper()
		for refreshes()[view] < n {
			select {
			case <-began: // a further attempt
			case err := <-ended:
				t.Fatal("Run has ended: ", err)
			default:
			}
		}
	}
	for range 6 {
		<-began
	}
	// Five runs have ended, the sixth is at its beginning or under way.
	if got := refreshes(); got["base"] < 5 || got["broken"] != 0 || got["above"] != 0 || got["right"] != 1 {
		t.Errorf("refreshes while a view is broken: %v, want right 1, base 5 or more, the others 0", got)
	}
	if _, err := pool.Exec(t.Context(), `UPDATE divisors SET n = 1`); err != nil {
		t.Fatal(err)
	}
	until("above", 1)
	if got := refreshes(); got["broken"] != 1 || got["above"] != 1 || got["right"] != 1 {
		t.Errorf("refreshes after the repair: %v, want 1 of broken, above and right", got)
	}
	r.Notify()
	until("right", 2)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	first, rest, _ := strings.Cut(log.String(), "\n")
	if !strings.Contains(first, "refreshing views fails and is retried") || !strings.Contains(rest, "refreshing views works again") || strings.Count(rest, "\n") != 1 {
		t.Errorf("got log %q, want a line at the beginning of the failures and one at their end", log.String())
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

// No retry helps a refresher whose pool the program has closed.
func TestRunEndsWhenItsPoolIsClosed(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.NewWithConfig(t.Context(), servertest.Postgres(t).Config())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	r, err := New(t.Context(), pool, "dashboard", Config{
		Views: []View{{Name: "v", SQL: "SELECT 1 AS n"}}, Debounce: time.Millisecond, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Run(ctx); err == nil || !strings.Contains(err.Error(), "the refresher has stopped: ") {
		t.Errorf("Run returned %v", err)
	}
}
