package staging_test

import (
	"errors"
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
