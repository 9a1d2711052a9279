package lookup_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

// A program starts with the version that is there, although a refresh is impossible: Redis is full
// and the source is down.
func TestEnsureWithoutARefresh(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t, "--maxmemory-policy", "noeviction").Client(t)
	down := errors.New("the source is down")
	var up atomic.Bool
	cfg := lookup.Config[string, int]{Load: lookup.FromMap(func(context.Context) (map[string]int, error) {
		if !up.Load() {
			return nil, down
		}
		return map[string]int{"a": 1}, nil
	})}
	first := newTable(t, c, "stock", cfg)
	if err := first.Ensure(t.Context()); !errors.Is(err, down) || !strings.Contains(err.Error(), `table "stock"`) {
		t.Errorf("no version and no source: got %v, want the error of the source, with the table", err)
	}
	if _, err := first.Snapshot(); !errors.Is(err, lookup.ErrNotLoaded) {
		t.Errorf("no version and no source: got %v, want ErrNotLoaded", err)
	}
	up.Store(true)
	if err := first.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	up.Store(false)
	if err := c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	late := newTable(t, c, "stock", cfg)
	if err := late.Ensure(t.Context()); err != nil {
		t.Fatalf("with a version, without a source, on a full Redis: %v", err)
	}
	if got, err := late.GetMany(t.Context(), []string{"a"}); err != nil || got.Values[0] != 1 {
		t.Errorf("got %v, %v, want the entry of the version that is there", got, err)
	}
	if _, err := late.Refresh(t.Context()); err == nil {
		t.Error("a refresh on a full Redis: no error")
	}
}

// Many programs that start at once read the source once. One that only reads needs a version.
func TestEnsureOnce(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		reader := newTable(t, c, name, lookup.Config[string, int]{})
		if err := reader.Ensure(t.Context()); !errors.Is(err, lookup.ErrNotLoaded) {
			t.Errorf("without a loader and a version: got %v, want ErrNotLoaded", err)
		}
		var reads atomic.Int64
		cfg := lookup.Config[string, int]{Load: lookup.FromMap(func(context.Context) (map[string]int, error) {
			reads.Add(1)
			return map[string]int{"a": 1}, nil
		})}
		together := func() {
			var wg sync.WaitGroup
			for range 5 {
				table := newTable(t, c, name, cfg)
				wg.Go(func() {
					err := table.Ensure(t.Context())
					if got, missing := table.GetMany(t.Context(), []string{"a"}); err != nil || missing != nil || got.Values[0] != 1 {
						t.Errorf("got %v, %v, %v, want the entry", got, err, missing)
					}
				})
			}
			wg.Wait()
		}
		together()
		if err := reader.Ensure(t.Context()); err != nil || reads.Load() != 1 {
			t.Errorf("got %v after %d reads of the source, want no error and one read", err, reads.Load())
		}
		// An operator deletes a part: the version cannot be read whole any more.
		if err := c.Do(t.Context(), c.B().Del().Key("{"+name+"}:lookup:v:"+version(t, reader)+":0").Build()).Error(); err != nil {
			t.Fatal(err)
		}
		together()
		if reads.Load() != 2 {
			t.Errorf("%d reads of the source, want 2: the damaged version is replaced once", reads.Load())
		}
	})
}

func version(t *testing.T, table *lookup.Table[string, int]) string {
	t.Helper()
	s, err := table.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s.Version()
}
