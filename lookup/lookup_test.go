package lookup_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/redis/rueidis"
)

// source is a table that tests change under the loader.
type source struct {
	mu    sync.Mutex
	m     map[string]int
	err   error
	loads atomic.Int32
	gate  chan struct{} // if not nil, a load waits for it
}

func (s *source) set(m map[string]int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m, s.err = m, err
}

func (s *source) load(ctx context.Context) (map[string]int, error) {
	s.loads.Add(1)
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.m), s.err
}

func newTable(t testing.TB, c rueidis.Client, name string, cfg lookup.Config[string, int]) *lookup.Table[string, int] {
	t.Helper()
	table, err := lookup.New(t.Context(), c, name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func refresh(t testing.TB, table *lookup.Table[string, int]) lookup.RefreshResult {
	t.Helper()
	r, err := table.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs the table until the end of the test.
func run(t testing.TB, table *lookup.Table[string, int]) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// eventually waits for a condition that another goroutine or process brings about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	from := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Since(from) > 2*time.Minute {
			t.Fatalf("%s: not within 2 minutes", what)
		}
		<-tick.C
	}
}

func keysOf(t testing.TB, c rueidis.Client, name string) []string {
	t.Helper()
	keys, err := c.Do(t.Context(), c.B().Keys().Pattern("*"+name+"*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestRefreshAndRead(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		src := &source{m: map[string]int{"a": 1, "b": 2}}
		table := newTable(t, c, name, lookup.Config[string, int]{Load: lookup.FromMap(src.load), Chunk: 1, Keep: 50 * time.Millisecond})
		if _, err := table.Snapshot(); !errors.Is(err, lookup.ErrNotLoaded) {
			t.Fatalf("Snapshot before any refresh: %v", err)
		}
		if err := table.Sync(t.Context()); !errors.Is(err, lookup.ErrNotLoaded) {
			t.Fatalf("Sync before any refresh: %v", err)
		}
		r := refresh(t, table)
		if !r.Done || r.Entries != 2 {
			t.Fatalf("%+v", r)
		}
		one, err := table.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := one.Get("b"); v != 2 || !ok || one.Len() != 2 || one.Version() != r.Version {
			t.Fatalf("b is %d, %v; %d entries of version %s", v, ok, one.Len(), one.Version())
		}
		f := one.GetMany([]string{"b", "x", "a", "y"})
		if d := cmp.Diff(lookup.Result[int]{Values: []int{2, 0, 1, 0}, Missing: []int{1, 3}, Version: r.Version}, f); d != "" {
			t.Fatal(d)
		}

		// Another process gets the same version; a taken snapshot never changes; the old version goes.
		other := newTable(t, c, name, lookup.Config[string, int]{})
		if err := other.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		src.set(map[string]int{"b": 3}, nil)
		refresh(t, table)
		two, _ := table.Snapshot()
		if v, _ := one.Get("b"); v != 2 {
			t.Fatal("a snapshot has changed")
		}
		if _, ok := two.Get("a"); ok || two.Version() == one.Version() {
			t.Fatal("a is still in the new version")
		}
		old, _ := other.Snapshot()
		if old.Version() != one.Version() {
			t.Fatal("the other process changed without Sync")
		}
		if err := other.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now, _ := other.Snapshot(); now.Version() != two.Version() {
			t.Fatal("Sync did not bring the new version")
		}
		eventually(t, "the old version goes", func() bool { return len(keysOf(t, c, name)) == 2 }) // current, and one part of one entry
		if _, err := other.Refresh(t.Context()); !errors.Is(err, lookup.ErrNoLoader) {
			t.Fatalf("Refresh without a loader: %v", err)
		}
	})
}

// Emptying needs consent; a failed load is not an empty one; whatever fails, the old snapshot
// serves and nothing stays behind in Redis.
func TestFailedRefreshKeepsTheOldVersion(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	src := &source{m: map[string]int{"a": 1}}
	var load lookup.Loader[string, int]
	bad := false
	cfg := lookup.Config[string, int]{
		Load: func(ctx context.Context, put func(string, int) error) error { return load(ctx, put) },
		Values: lookup.Codec[int]{
			Encode: func(v int) ([]byte, error) {
				if v < 0 {
					return nil, errors.New("negative")
				}
				return fmt.Append(nil, v), nil
			},
			Decode: func(b []byte) (v int, err error) {
				if bad {
					return 0, errors.New("rotten")
				}
				_, err = fmt.Sscan(string(b), &v)
				return v, err
			},
		},
	}
	table := newTable(t, c, name, cfg)
	load = lookup.FromMap(src.load)
	first := refresh(t, table)
	broken := errors.New("the source is away")
	for what, tc := range map[string]struct {
		load lookup.Loader[string, int]
		want error
		text string
	}{
		"empty":  {func(context.Context, func(string, int) error) error { return nil }, lookup.ErrEmpty, "the source is empty"},
		"failed": {func(context.Context, func(string, int) error) error { return broken }, broken, "the source is away"},
		"half":   {func(_ context.Context, put func(string, int) error) error { return errors.Join(put("x", 1), broken) }, broken, "the source is away"},
		"duplicate": {func(_ context.Context, put func(string, int) error) error {
			return cmpOr(put("x", 1), put("y", 1), put("x", 2))
		}, lookup.ErrDuplicateKey, `duplicate key: "x"`},
		"encode": {func(_ context.Context, put func(string, int) error) error { return put("x", -1) }, lookup.ErrEncode, `cannot encode entry: key "x": negative`},
		"decode": {func(_ context.Context, put func(string, int) error) error { bad = true; return put("x", 1) }, lookup.ErrDecode,
			`cannot decode entry: key "x": rotten`},
	} {
		load = tc.load
		_, err := table.Refresh(t.Context())
		bad = false
		if want := fmt.Sprintf("lookup: table %q: %s", name, tc.text); !errors.Is(err, tc.want) || err.Error() != want {
			t.Errorf("%s: got %v, want %s", what, err, want)
		}
		s, err := table.Snapshot()
		if err != nil || s.Version() != first.Version || s.Len() != 1 {
			t.Errorf("%s: the old snapshot is gone: %v", what, err)
		}
		if keys := keysOf(t, c, name); len(keys) != 2 {
			t.Errorf("%s: left behind: %v", what, keys)
		}
	}
	cfg.AllowEmpty = true
	load = func(context.Context, func(string, int) error) error { return nil }
	table = newTable(t, c, name, cfg)
	if r := refresh(t, table); r.Entries != 0 || !r.Done {
		t.Fatalf("%+v", r)
	}
	if s, err := table.Snapshot(); err != nil || s.Len() != 0 {
		t.Fatal("not empty", err)
	}
}

// A version that has lost entries, or all of them, becomes no snapshot.
func TestIncompleteVersion(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		src := &source{m: map[string]int{"a": 1, "b": 2}}
		writer := newTable(t, c, name, lookup.Config[string, int]{Load: lookup.FromMap(src.load)})
		reader := newTable(t, c, name, lookup.Config[string, int]{})
		old := refresh(t, writer)
		if err := reader.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := refresh(t, writer)
		key := "{" + name + "}:lookup:v:" + r.Version + ":0"
		for _, field := range []string{"a", "b"} {
			if err := c.Do(t.Context(), c.B().Hdel().Key(key).Field(field).Build()).Error(); err != nil {
				t.Fatal(err)
			}
			if err := reader.Sync(t.Context()); !errors.Is(err, lookup.ErrIncomplete) {
				t.Fatalf("without %s: %v, want ErrIncomplete", field, err)
			}
			if s, err := reader.Snapshot(); err != nil || s.Version() != old.Version || s.Len() != 2 {
				t.Fatalf("the old snapshot is gone: %v", err)
			}
		}
		refresh(t, writer) // repairs it
		if err := reader.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func cmpOr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestTwoRefreshersDoTheWorkOnce(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		src := &source{m: map[string]int{"a": 1}, gate: make(chan struct{})}
		cfg := lookup.Config[string, int]{Load: lookup.FromMap(src.load)}
		results := make(chan lookup.RefreshResult, 10)
		for range cap(results) {
			table := newTable(t, c, name, cfg)
			go func() {
				r, err := table.Refresh(context.WithoutCancel(t.Context()))
				if err != nil {
					t.Error(err)
				}
				if s, err := table.Snapshot(); err != nil || s.Version() != r.Version {
					t.Errorf("after its refresh a process has not the version it was told: %v", err)
				}
				results <- r
			}()
		}
		eventually(t, "a load begins", func() bool { return src.loads.Load() == 1 })
		close(src.gate)
		done := 0
		for range cap(results) {
			if r := <-results; r.Done {
				done++
			}
		}
		if n := src.loads.Load(); n != 1 && done == int(n) {
			t.Logf("%d of 10 began after the first had ended", n-1)
		}
		if n := int(src.loads.Load()); n != done || n > 2 {
			t.Fatalf("10 refreshes at once read the source %d times, %d say that they did", n, done)
		}
	})
}

// A refresher that sleeps past its lock must not put its old data over newer.
func TestOvertakenRefresh(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	src := &source{m: map[string]int{"a": 1}, gate: make(chan struct{})}
	slow := newTable(t, c, name, lookup.Config[string, int]{Load: lookup.FromMap(src.load)})
	failed := make(chan error, 1)
	go func() {
		_, err := slow.Refresh(context.WithoutCancel(t.Context()))
		failed <- err
	}()
	eventually(t, "the load begins", func() bool { return src.loads.Load() == 1 })
	if err := c.Do(t.Context(), c.B().Del().Key("{"+name+"}:lookup:lock").Build()).Error(); err != nil { // as if it had run out
		t.Fatal(err)
	}
	newer := &source{m: map[string]int{"a": 2}}
	fast := newTable(t, c, name, lookup.Config[string, int]{Load: lookup.FromMap(newer.load)})
	refresh(t, fast)
	close(src.gate)
	if err := <-failed; !errors.Is(err, lookup.ErrOvertaken) {
		t.Fatalf("the overtaken refresh: %v, want ErrOvertaken", err)
	}
	if err := fast.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, _ := fast.Snapshot()
	if v, _ := s.Get("a"); v != 2 {
		t.Fatalf("a is %d: old data has come back", v)
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	for want, cfg := range map[string]lookup.Config[string, int]{
		"Config.MaxAge is -1s, must be at least 20ms":                  {MaxAge: -time.Second},
		"Config.RefreshInterval is -1ns, must be 0 or more":            {RefreshInterval: -1},
		"Config.RefreshInterval is 1ns, must be 0 without Config.Load": {RefreshInterval: 1},
		"Config.Keep is -1ns, must be at least 1ms":                    {Keep: -1},
		"Config.Chunk is 10001, must be 1 to 10000":                    {Chunk: 10001},
		"Keys has one of Encode and Decode, must have both or neither": {Keys: lookup.Codec[string]{Decode: func([]byte) (string, error) { return "", nil }}},
		"Config.Stale is 2, must be StaleServe or StaleFail":           {Stale: 2},
	} {
		_, err := lookup.New(t.Context(), c, "w", cfg)
		wantConfigErr(t, err, want)
	}
	for want, cfg := range map[string]lookup.RemoteConfig[string, int]{
		"RemoteConfig.TTL is -1ns, must be at least 1ms":         {TTL: -1},
		"RemoteConfig.NegativeTTL is -1ns, must be at least 1ms": {NegativeTTL: -1},
		"RemoteConfig.LocalTTL is -1ns, must be at least 1ms":    {LocalTTL: -1},
		"RemoteConfig.Chunk is -1, must be 1 to 10000":           {Chunk: -1},
	} {
		_, err := lookup.NewRemote(t.Context(), c, "w", cfg)
		wantConfigErr(t, err, want)
	}
	_, err := lookup.New(t.Context(), c, "a}", lookup.Config[string, int]{})
	wantConfigErr(t, err, `name is "a}", must have no brace: it would break the hash tag of the keys`)
	_, err = lookup.New(t.Context(), c, "a", lookup.Config[*string, int]{})
	wantConfigErr(t, err, "the key type is *string, must have a kind of string, integer, struct, array, bool or float, or a Codec in Keys")
	// One key in Redis belongs to one remote table: its name ends at the first separator.
	for _, name := range []string{"a:lookup:b", "a:lookup", ":lookup"} {
		_, err = lookup.NewRemote(t.Context(), c, name, lookup.RemoteConfig[string, int]{})
		wantConfigErr(t, err, fmt.Sprintf("name is %q, must not contain \":lookup:\" or end in \":lookup\"", name))
	}
}

func wantConfigErr(t *testing.T, err error, text string) {
	t.Helper()
	if want := "lookup: invalid configuration: " + text; !errors.Is(err, lookup.ErrConfig) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
