package lookup_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/redis/rueidis"
)

func newRemote(t testing.TB, c rueidis.Client, name string, cfg lookup.RemoteConfig[string, int]) *lookup.Remote[string, int] {
	t.Helper()
	r, err := lookup.NewRemote(t.Context(), c, name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRemote(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx, name := t.Context(), servertest.Prefix(t)
		var asked [][]string
		source := map[string]int{"a": 1, "b": 2}
		r := newRemote(t, c, name, lookup.RemoteConfig[string, int]{
			NegativeTTL: 300 * time.Millisecond,
			Fetch: func(_ context.Context, keys []string) (map[string]int, error) {
				asked = append(asked, keys)
				found := make(map[string]int)
				for _, k := range keys {
					if v, ok := source[k]; ok {
						found[k] = v
					}
				}
				return found, nil
			},
		})
		get := func(keys ...string) lookup.Result[int] {
			t.Helper()
			f, err := r.GetMany(ctx, keys)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		both := lookup.Result[int]{Values: []int{1, 0, 2, 1}, Missing: []int{1}}
		if d := cmp.Diff(both, get("a", "x", "b", "a")); d != "" {
			t.Fatal(d)
		}
		if len(asked) != 1 || len(asked[0]) != 3 {
			t.Fatalf("the source was asked %v, want one call for three keys", asked)
		}
		// The invalidation of what this process has cached as unknown may still be on its way.
		eventually(t, "no need of the source", func() bool {
			n := len(asked)
			if d := cmp.Diff(both, get("a", "x", "b", "a")); d != "" {
				t.Fatal(d)
			}
			return len(asked) == n
		})
		n := len(asked)
		// What is known as missing is asked for again when NegativeTTL is over; another process needs no
		// source.
		source["x"] = 9
		eventually(t, "x is found", func() bool { return len(get("x").Missing) == 0 })
		if len(asked) == n || len(asked) > n+3 {
			t.Fatalf("the source was asked %d times for x", len(asked)-n)
		}
		reader := newRemote(t, c, name, lookup.RemoteConfig[string, int]{})
		if f, err := reader.GetMany(ctx, []string{"x", "y"}); err != nil || f.Values[0] != 9 || len(f.Missing) != 1 {
			t.Fatal(f, err)
		}
		// A change in Redis ends what the process has cached.
		if err := r.Put(ctx, map[string]int{"a": 100}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the new a", func() bool { return get("a").Values[0] == 100 })
		if err := r.Forget(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the source's a", func() bool { return get("a").Values[0] == 1 })
		// A value that does not decode has a name.
		do := c.Do(ctx, c.B().Set().Key(name+":lookup:b").Value("+rotten").Build())
		if do.Error() != nil {
			t.Fatal(do.Error())
		}
		eventually(t, "an error", func() bool {
			_, err := r.GetMany(ctx, []string{"b"})
			return errors.Is(err, lookup.ErrDecode)
		})
	})
}

// However many callers need a key at once, the source is asked once. A caller that gives up cancels
// no other.
func TestRemoteSingleFlight(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	var calls atomic.Int32
	gate := make(chan struct{})
	r := newRemote(t, c, servertest.Prefix(t), lookup.RemoteConfig[string, int]{
		Fetch: func(ctx context.Context, keys []string) (map[string]int, error) {
			calls.Add(1)
			select {
			case <-gate:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return map[string]int{"a": 1}, nil
		},
	})
	ctx, giveUp := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Add(1)
	go func() {
		defer all.Done()
		if _, err := r.GetMany(ctx, []string{"a"}); !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up got %v", err)
		}
	}()
	eventually(t, "the first fetch", func() bool { return calls.Load() == 1 })
	for range 20 {
		all.Add(1)
		go func() {
			defer all.Done()
			if f, err := r.GetMany(t.Context(), []string{"a", "x"}); err != nil || f.Values[0] != 1 || len(f.Missing) != 1 {
				t.Errorf("%+v, %v", f, err)
			}
		}()
	}
	giveUp()
	eventually(t, "another caller fetches", func() bool { return calls.Load() >= 2 })
	close(gate)
	all.Wait()
	if n := calls.Load(); n > 4 { // a and x may first be fetched apart, and x was not among the keys that were given up
		t.Errorf("21 callers made %d fetches", n)
	}
}

func TestRemoteFromPostgres(t *testing.T) {
	t.Parallel()
	db, c := servertest.Postgres(t), servertest.Redis(t)
	if _, err := db.Exec(t.Context(), `CREATE TABLE products (sku text PRIMARY KEY, price int); INSERT INTO products VALUES ('a', 1), ('b', 2)`); err != nil {
		t.Fatal(err)
	}
	r := newRemote(t, c, servertest.Prefix(t), lookup.RemoteConfig[string, int]{
		Fetch: lookup.FetchQuery[string, int](db, "SELECT sku, price FROM products WHERE sku = ANY($1)"), Chunk: 2,
	})
	f, err := r.GetMany(t.Context(), []string{"b", "c", "a", "d", "e"})
	if d := cmp.Diff(lookup.Result[int]{Values: []int{2, 0, 1, 0, 0}, Missing: []int{1, 3, 4}}, f); err != nil || d != "" {
		t.Fatal(err, d)
	}
	db.Close() // from now on Redis must have it all, the missing ones too
	// This process may have cached them as unknown, and the invalidation may still be on its way.
	eventually(t, "Redis has them", func() bool {
		f, err = r.GetMany(t.Context(), []string{"a", "c"})
		return err == nil
	})
	if f.Values[0] != 1 || len(f.Missing) != 1 {
		t.Fatal(f)
	}
	if _, err = r.GetMany(t.Context(), []string{"new"}); err == nil {
		t.Fatal("the source is away, and GetMany returned no error")
	}
}

// An entry that the server would not read is an error that names its key and the setting. It breaks
// no connection: what is around it, and the version before, stay.
func TestEntryOverASettingOfTheServer(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	for _, setting := range []string{"proto-max-bulk-len", "client-query-buffer-limit"} {
		c := servertest.OwnRedis(t, "--"+setting, fmt.Sprint(limit)).Client(t)
		ctx := t.Context()
		refused := func(what string, err error) {
			t.Helper()
			var e *lookup.EntryError
			if !errors.Is(err, lookup.ErrEncode) || !errors.As(err, &e) || !strings.Contains(e.Key, "large") ||
				!strings.Contains(err.Error(), setting) || !strings.Contains(err.Error(), fmt.Sprint(limit)) {
				t.Errorf("%s: %s: got %.300v, want an EntryError that names the key, the setting and its value", setting, what, err)
			}
		}
		for _, size := range []int{limit, 3 * limit} {
			source := map[string]string{"a": "1", "fits": strings.Repeat("x", limit-1000)}
			name := servertest.Prefix(t)
			table, err := lookup.New(ctx, c, name, lookup.Config[string, string]{
				Load: lookup.FromMap(func(context.Context) (map[string]string, error) { return source, nil }),
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := table.Refresh(ctx); err != nil {
				t.Fatal(err)
			}
			source["large"] = strings.Repeat("x", size)
			_, err = table.Refresh(ctx)
			refused("Refresh", err)
			if s, err := table.Snapshot(); err != nil || s.Len() != 2 {
				t.Errorf("%s: got %v, want the version of 2 entries", setting, err)
			}
			remote, err := lookup.NewRemote(ctx, c, name, lookup.RemoteConfig[string, string]{
				Fetch:  func(context.Context, []string) (map[string]string, error) { return source, nil },
				Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			refused("Put", remote.Put(ctx, source))
			for range 2 { // what cannot be stored is served from the source, each time
				r, err := remote.GetMany(ctx, []string{"a", "fits", "large"})
				if err != nil || len(r.Missing) > 0 || r.Values[0] != "1" || r.Values[1] != source["fits"] || r.Values[2] != source["large"] {
					t.Errorf("%s: got %d missing, %v, want the entries of the source", setting, len(r.Missing), err)
				}
			}
		}
	}
}
