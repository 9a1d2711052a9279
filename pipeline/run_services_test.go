package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/window"
)

// One call runs every kind of service that the packages have: a worker whose chain reads a lookup
// table, a promoter with retention, views, the closer of windows and the lookup table. Each of them
// does its work. A fatal error of one of them ends all, in order, and is returned.
func TestRunEveryKindOfService(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	ctx := t.Context()
	names, err := lookup.New(ctx, r.redis, r.queue.Name(), lookup.Config[string, string]{
		Load:            func(_ context.Context, put func(key, value string) error) error { return put("a", "alpha") },
		RefreshInterval: time.Hour, MaxAge: 100 * time.Millisecond, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	windows, err := window.New(ctx, r.redis, r.queue.Name(), window.Config{Size: time.Minute, Lateness: -1, PollInterval: 10 * time.Millisecond, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	views, err := matview.New(ctx, r.pool, "kinds_set", matview.Config{
		Views:    []matview.View{{Name: "kinds", SQL: "SELECT kind, count(*) AS n FROM items GROUP BY kind", UniqueIndex: []string{"kind"}}},
		Debounce: 10 * time.Millisecond, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.flow.Chain = pipeline.Then(r.flow.Chain, pipeline.Lookup("names", func(context.Context) (*lookup.Snapshot[string, string], error) {
		snapshot, err := names.Snapshot()
		return snapshot, pipeline.Unavailable(err) // until Run has loaded it
	}, func(v item, s *lookup.Snapshot[string, string]) (item, error) {
		v.Kind, _ = s.Get(v.Kind)
		return v, nil
	}))
	worker, err := pipeline.NewWorker(r.flow, pipeline.WorkerConfig{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	promoter, err := pipeline.NewPromoter(r.flow, pipeline.PromoterConfig{Logger: quiet, Notify: views.Notify, Retention: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	// What retention deletes: a batch of yesterday.
	if _, err := r.pool.Exec(ctx, `INSERT INTO items_ledger (id, kind, root, root_offset, records, sealed_at, committed_at)
		VALUES ('00000000-0000-7000-8000-000000000001', 'void', '00000000-0000-7000-8000-000000000001', 0, 1, now() - interval '1 day', now() - interval '1 day')`); err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Duration{-time.Hour, 0} { // the second event closes the window of the first
		if _, err := windows.Add(ctx, "key", window.Event{At: time.Now().Add(at), Data: fmt.Sprint(at)}); err != nil {
			t.Fatal(err)
		}
	}
	r.push("x a", "y a")
	closed := make(chan string, 10)
	closer := pipeline.ServiceFunc(func(ctx context.Context) error {
		return windows.Run(ctx, func(_ context.Context, c window.ClosedWindow) error { closed <- c.Key; return nil })
	})
	fatal, broken := make(chan struct{}), errors.New("broken")
	breaks := pipeline.ServiceFunc(func(ctx context.Context) error {
		select {
		case <-fatal:
			return broken
		case <-ctx.Done():
			return nil
		}
	})
	ended := make(chan error, 1)
	go func() { ended <- pipeline.Run(ctx, worker, promoter, views, closer, breaks, names) }()
	eventually(t, time.Minute, func() error {
		var rows, entries int
		if err := r.pool.QueryRow(ctx, "SELECT coalesce((SELECT n FROM kinds WHERE kind = 'alpha'), 0), (SELECT count(*) FROM items_ledger WHERE kind = 'void')").Scan(&rows, &entries); err != nil {
			return err
		}
		if rows != 2 || entries != 0 || len(closed) == 0 {
			return fmt.Errorf("the view has %d rows of alpha, the ledger %d old batches, %d windows are closed; want 2, 0 and 1", rows, entries, len(closed))
		}
		return nil
	})
	close(fatal)
	select {
	case err := <-ended:
		if !errors.Is(err, broken) {
			t.Errorf("got %v, want the error of the service that broke", err)
		}
	case <-time.After(time.Minute):
		t.Error("the services have not ended after a fatal error")
	}
}
