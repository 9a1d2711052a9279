package pipeline

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Each line of the books that does not balance is named, with both sides.
func TestBooksNameTheLineThatIsOff(t *testing.T) {
	good := Books{
		Redis:    queue.Stats{Taken: 10, Acked: 6, InFlight: 3, Dead: 1},
		Postgres: staging.Books{Records: 8, Kept: 5, Duplicates: 1, Filtered: 1, Rejected: 1, Staged: 6, Rows: 4, Conflicts: 1, RejectedByRule: 1},
		Unacked:  2, Quiet: true,
	}
	if err := good.Balanced(); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*Books){
		"Redis is off by 1":     func(b *Books) { b.Redis.Dead-- },
		"Postgres is off by -1": func(b *Books) { b.Postgres.Duplicates++ },
		"rows is off by 2":      func(b *Books) { b.Postgres.Rows -= 2 },
		"between is off by 1":   func(b *Books) { b.Unacked-- },
	} {
		b := good
		spoil(&b)
		if err := b.Balanced(); !errors.Is(err, ErrImbalance) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	repaired := good
	repaired.Redis.Dead--
	repaired.Redis.Lost++
	if err := repaired.Balanced(); err != nil || !strings.HasSuffix(repaired.Lines()[0].Sum, " + lost 1") {
		t.Errorf("after a repair: %v, line %q, want balanced with 1 lost", err, repaired.Lines()[0].Sum)
	}
	b := good
	b.Redis.Dead--
	b.Postgres.Rows -= 2
	if err := b.Balanced(); err == nil || !strings.Contains(err.Error(), "Redis is off by 1") || !strings.Contains(err.Error(), "rows is off by 2") {
		t.Errorf("error %v, want both lines named", err)
	}
}

// Throughput is the difference of two readings per second.
func TestThroughput(t *testing.T) {
	at := time.Unix(1_000_000, 0)
	earlier := Books{At: at, Redis: queue.Stats{Taken: 100, Acked: 50}, Postgres: staging.Books{Rows: 40}}
	later := Books{At: at.Add(10 * time.Second), Redis: queue.Stats{Taken: 300, Acked: 240, Dead: 8, Discarded: 2}, Postgres: staging.Books{Rows: 140}}
	if got, want := later.Throughput(earlier), (Throughput{Taken: 20, Accounted: 20, Rows: 10}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := later.Throughput(later); got != (Throughput{}) {
		t.Errorf("over no time: got %+v, want zero", got)
	}
}

// Records that a repair of the queue wrote off are in the books, too.
func TestBooksWithLostRecords(t *testing.T) {
	t.Parallel()
	b := Books{Redis: queue.Stats{Taken: 10, Acked: 7, Lost: 3}}
	if err := b.Balanced(); err != nil {
		t.Errorf("10 taken, 7 acked, 3 lost: got %v, want nil", err)
	}
	if got, want := b.Lines()[0].Sum, "taken 10 = acked 7 + in flight 0 + dead 0 + discarded 0 + lost 3"; got != want {
		t.Errorf("line is %q, want %q", got, want)
	}
	b.Redis.Lost = 2
	if got := b.Lines()[0].Imbalance(); got != 1 {
		t.Errorf("off by %d, want 1", got)
	}
}

// ticking is a table whose server's clock is not the program's.
type ticking struct {
	Table[int]
	now   time.Time
	since []time.Time
}

func (t *ticking) Clock(context.Context) (time.Time, error) { return t.now, nil }

func (t *ticking) BooksSince(_ context.Context, since time.Time) (staging.Books, error) {
	t.since = append(t.since, since)
	return staging.Books{Records: 120, Rows: 60}, nil
}

// The last minute is that of the server's clock, by which the ledger is stamped.
func TestRecentIsByTheServersClock(t *testing.T) {
	t.Parallel()
	table := &ticking{now: time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)}
	b := Books{At: time.Now()}
	if err := (Flow[int]{Table: table}).details(t.Context(), &b, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if want := []time.Time{table.now.Add(-time.Minute)}; !slices.Equal(table.since, want) {
		t.Errorf("summed since %v, want %v", table.since, want)
	}
	if want := (Throughput{Accounted: 2, Rows: 1}); b.Recent != want {
		t.Errorf("got %+v, want %+v", b.Recent, want)
	}
}
