package staging_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// Times that Postgres cannot hold bound everything or nothing.
func TestExtremeTimes(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	type row struct {
		ID int64 `db:"id"`
	}
	tab := newTable(t, pool, "extreme", staging.Config[row]{Create: true, Key: []string{"id"}})
	stage(t, tab, load(row{1}, row{2}), staging.OutcomeStaged)
	promote(t, tab)
	for _, c := range []struct {
		at   time.Time
		past bool
	}{
		{time.Time{}, true}, {time.Time{}.Add(-time.Hour), true}, {time.Unix(-1<<62, 0), true}, {time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), true},
		{time.Unix(1<<62, 0), false}, {time.Date(12_000, 1, 1, 0, 0, 0, 0, time.UTC), false}, {time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC), false},
	} {
		n, err := tab.Prune(t.Context(), c.at)
		if c.past && err != nil || !c.past && !errors.Is(err, staging.ErrConfig) || n != 0 {
			t.Errorf("Prune before %v: got %d, %v, want 0 and nil, or ErrConfig for a time to come", c.at, n, err)
		}
		books, err := tab.BooksSince(t.Context(), c.at)
		if err != nil || (books.Batches == 1) != c.past {
			t.Errorf("BooksSince %v: got %+v, %v", c.at, books, err)
		}
		if _, err := tab.StageCounts(t.Context(), c.at); err != nil {
			t.Errorf("StageCounts since %v: %v", c.at, err)
		}
		if _, err := tab.Rejects(t.Context(), staging.RejectFilter{Since: c.at}); err != nil {
			t.Errorf("Rejects since %v: %v", c.at, err)
		}
	}
	if _, err := tab.Stats(t.Context()); err != nil {
		t.Error(err)
	}
}

// A batch that was sealed at a time that Postgres cannot hold is refused before it is sent.
func TestABatchSealedAtNoTime(t *testing.T) {
	t.Parallel()
	type row struct {
		ID int64 `db:"id"`
	}
	tab := newTable(t, servertest.Postgres(t), "extreme", staging.Config[row]{Create: true, Key: []string{"id"}})
	for year, want := range map[int]error{-5000: staging.ErrLoad, 0: staging.ErrLoad, 1: nil, 1969: nil, 12_000: nil, 294_275: nil, 294_276: staging.ErrLoad, 300_000: staging.ErrLoad} {
		l := load(row{int64(year)})
		l.Batch.Sealed = time.Date(year, 12, 31, 23, 59, 59, 0, time.UTC)
		_, err := tab.Stage(t.Context(), l)
		b := l.Batch
		b.ID = staging.NewBatchID()
		_, verr := tab.Void(t.Context(), b)
		if !errors.Is(err, want) || !errors.Is(verr, want) {
			t.Errorf("year %d: Stage %v, Void %v, want %v", year, err, verr, want)
		}
	}
}

// Numbers at the end of their range are refused with the field and its range, or are no limit.
func TestExtremeNumbers(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	type row struct {
		ID int64 `db:"id"`
	}
	cfg := staging.Config[row]{Create: true, Key: []string{"id"}}
	tab := newTable(t, pool, "extreme", cfg)
	cfg.Role = staging.RoleReader + 1
	if _, err := staging.New(t.Context(), pool, "extreme", cfg); !errors.Is(err, staging.ErrConfig) {
		t.Errorf("an unknown role: %v, want ErrConfig", err)
	}
	few := load(row{1})
	few.Duplicates, few.Filtered, few.Rows = math.MaxInt, math.MaxInt, []row{{1}, {2}, {3}} // their sum is 1, with overflow
	drops := load(row{1})
	drops.Stages = []staging.StageDrops{{Stage: "s", Duplicates: math.MaxInt}}
	for _, l := range []staging.Load[row]{few, drops} {
		if _, err := tab.Stage(t.Context(), l); !errors.Is(err, staging.ErrLoad) {
			t.Errorf("got %v, want ErrLoad", err)
		}
	}
	stage(t, tab, load(row{1}), staging.OutcomeStaged)
	if p, err := tab.Promote(t.Context(), staging.PromoteOptions{MaxRows: math.MaxInt, Timeout: math.MaxInt64}); err != nil || p.Rows != 1 {
		t.Errorf("promoted %d rows, %v, want 1", p.Rows, err)
	}
	if found, err := tab.FindSealed(t.Context(), time.Now().Add(-time.Hour), time.Now().Add(time.Hour), math.MaxInt); err != nil || len(found.IDs) != 1 {
		t.Errorf("found %d batches, %v, want 1", len(found.IDs), err)
	}
	done, err := staging.Rewrite[row, row]{Name: "all at once", Source: "SELECT id FROM extreme", Key: "id", Rows: math.MaxInt,
		Transform: func(_ context.Context, in []row) ([]row, error) { return in, nil }}.Run(t.Context(), tab)
	if err != nil || done.Read != 1 {
		t.Errorf("read %d rows, %v, want 1", done.Read, err)
	}
}
