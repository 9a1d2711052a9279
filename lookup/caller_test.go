package lookup_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

// Fetch may change the keys that it gets: a filter in place removes some and empties the rest of
// the slice.
func TestFetchMayChangeItsKeys(t *testing.T) {
	t.Parallel()
	c, name := servertest.Redis(t), servertest.Prefix(t)
	asked := 0
	r := newRemote(t, c, name, lookup.RemoteConfig[string, int]{
		NegativeTTL: time.Millisecond, LocalTTL: time.Millisecond,
		Fetch: func(_ context.Context, keys []string) (map[string]int, error) {
			asked += len(keys)
			keys = slices.DeleteFunc(keys, func(k string) bool { return strings.HasPrefix(k, "bad") })
			found := map[string]int{}
			for i, k := range keys {
				found[k], keys[i] = len(k), "overwritten"
			}
			return found, nil
		},
	})
	for round := range 2 {
		f, err := r.GetMany(t.Context(), []string{"bad 1", "a", "bad 2", "ab"})
		if err != nil || fmt.Sprint(f.Values, f.Missing) != "[0 1 0 2] [0 2]" {
			t.Errorf("round %d: got %v, %v, want two values and two missing keys", round, f, err)
		}
		// The source lacked them for a moment: they are not missing forever.
		if err := r.Forget(t.Context(), "bad 1", "a", "bad 2", "ab"); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 8 {
		t.Errorf("Fetch was asked for %d keys, want 8", asked)
	}
	if n, err := c.Do(t.Context(), c.B().Exists().Key(name+":lookup:", name+":lookup:overwritten").Build()).AsInt64(); err != nil || n != 0 {
		t.Errorf("got %d entries for keys that were not asked for, %v", n, err)
	}
}

// Fetch may reuse the map that it returned, while others still wait for its answer.
func TestFetchMayReuseItsMap(t *testing.T) {
	t.Parallel()
	found := map[string]int{}
	r := newRemote(t, servertest.Miniredis(t), "t", lookup.RemoteConfig[string, int]{
		TTL: time.Millisecond, LocalTTL: time.Millisecond,
		Fetch: func(_ context.Context, keys []string) (map[string]int, error) {
			clear(found)
			for _, k := range keys {
				found[k] = len(k)
			}
			return found, nil
		},
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	// One call of Fetch at a time, but several callers that wait for it.
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if f, err := r.GetMany(t.Context(), []string{"abc"}); err != nil || len(f.Missing) > 0 || f.Values[0] != 3 {
					t.Errorf("got %v, %v, want 3", f, err)
					return
				}
			}
		})
	}
}

// A Fetch that ends its goroutine, as a failed test does, leaves no key that is missing forever.
func TestFetchEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	ends := true
	inside, wait := make(chan struct{}), make(chan struct{})
	r := newRemote(t, servertest.Miniredis(t), "t", lookup.RemoteConfig[string, int]{
		Fetch: func(_ context.Context, keys []string) (map[string]int, error) {
			if ends {
				ends = false
				close(inside)
				<-wait
				runtime.Goexit()
			}
			return map[string]int{keys[0]: 7}, nil
		},
	})
	go func() { _, _ = r.GetMany(t.Context(), []string{"k"}) }()
	<-inside
	got := make(chan string)
	go func() {
		f, err := r.GetMany(t.Context(), []string{"k"})
		got <- fmt.Sprint(f.Values, f.Missing, err)
	}()
	close(wait)
	if s := <-got; s != "[7] [] <nil>" {
		t.Errorf("got %s, want the value of another call of Fetch", s)
	}
}

// Codecs may share one buffer.
func TestCodecsShareABuffer(t *testing.T) {
	t.Parallel()
	var buffer []byte
	codec := lookup.Codec[string]{
		Encode: func(s string) ([]byte, error) { buffer = append(buffer[:0], s...); return buffer, nil },
		Decode: func(b []byte) (string, error) { defer clear(b); return string(b), nil },
	}
	c := servertest.Miniredis(t)
	table, err := lookup.New(t.Context(), c, "t", lookup.Config[string, string]{
		Keys: codec, Values: codec,
		Load: func(_ context.Context, put func(string, string) error) error {
			for _, k := range []string{"a", "b", "c"} {
				if err := put(k, "value of "+k); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	remote, err := lookup.NewRemote(t.Context(), c, "r", lookup.RemoteConfig[string, string]{Keys: codec, Values: codec})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := table.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := remote.Put(t.Context(), map[string]string{"a": "value of a", "b": "value of b", "c": "value of c"}); err != nil {
		t.Fatal(err)
	}
	for what, get := range map[string]func(context.Context, []string) (lookup.Result[string], error){"table": table.GetMany, "remote": remote.GetMany} {
		f, err := get(t.Context(), []string{"c", "x", "a"})
		if err != nil || fmt.Sprintf("%q %v", f.Values, f.Missing) != `["value of c" "" "value of a"] [1]` {
			t.Errorf("%s: got %q, %v", what, f, err)
		}
	}
}

// A Loader may call put from several goroutines. What it puts after its end is refused, and an
// error of put that it ignores fails the refresh.
func TestLoaderAndItsPut(t *testing.T) {
	t.Parallel()
	var late func(string, int) error
	var load lookup.Loader[string, int]
	table := newTable(t, servertest.Miniredis(t), "t", lookup.Config[string, int]{
		Chunk: 10, Load: func(ctx context.Context, put func(string, int) error) error { return load(ctx, put) },
	})
	load = func(_ context.Context, put func(string, int) error) error {
		late = put
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 100 {
					if err := put(fmt.Sprint(g, "-", i), i); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		return nil
	}
	if r := refresh(t, table); r.Entries != 400 {
		t.Errorf("got %d entries, want 400", r.Entries)
	}
	if err := late("x", 1); err == nil {
		t.Error("put took an entry after the Loader had returned")
	}
	load = func(_ context.Context, put func(string, int) error) error {
		for _, k := range []string{"a", "a", "b"} {
			_ = put(k, 1)
		}
		return nil
	}
	if _, err := table.Refresh(t.Context()); !errors.Is(err, lookup.ErrDuplicateKey) {
		t.Errorf("an ignored error: got %v, want ErrDuplicateKey", err)
	}
	if s, err := table.Snapshot(); err != nil || s.Len() != 400 {
		t.Errorf("the old version: got %v, want 400 entries", err)
	}
}

// queries is a Querier that keeps the arguments of its last query, and fails.
type queries struct{ args []any }

func (q *queries) Query(_ context.Context, _ string, args ...any) (pgx.Rows, error) {
	q.args = slices.Clone(args)
	return nil, errors.New("no server")
}

// The arguments of FromQuery are those that it was called with.
func TestFromQueryKeepsItsArguments(t *testing.T) {
	t.Parallel()
	q, args := &queries{}, []any{"EU"}
	load := lookup.FromQuery[string, int](q, "SELECT zip, zone FROM zones WHERE region = $1", args...)
	args[0] = "US"
	if err := load(t.Context(), func(string, int) error { return nil }); err == nil || !slices.Contains(q.args, any("EU")) {
		t.Errorf("got arguments %v, %v, want EU", q.args, err)
	}
}
