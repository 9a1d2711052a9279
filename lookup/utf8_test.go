package lookup_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/redis/rueidis"
)

type town struct{ Country, Code string }

type note struct {
	Text string
	More map[string]any  `json:",omitempty"`
	Raw  json.RawMessage `json:",omitempty"`
}

// A value that JSON would change is refused: the table never holds another one in its town.
func TestTextThatJSONCannotHold(t *testing.T) {
	t.Parallel()
	c := servertest.Miniredis(t)
	source := map[town]note{}
	table, err := lookup.New(t.Context(), c, servertest.Prefix(t), lookup.Config[town, note]{
		Load: lookup.FromMap(func(context.Context) (map[town]note, error) { return source, nil }),
	})
	if err != nil {
		t.Fatal(err)
	}
	good := map[town]note{
		{"DE", "1"}:      {Text: "\ufffd", Raw: json.RawMessage(`"\ufffd"`)},
		{"\ufffd", "2"}:  {Text: `\ufffd`, More: map[string]any{`\\ufffd`: "ü"}},
		{`\ufffd`, "\b"}: {Text: "<&\u2028>"},
	}
	source = good
	if _, err := table.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := table.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range good {
		got, ok := s.Get(k)
		if d := cmp.Diff(want, got); !ok || d != "" {
			t.Errorf("%q: %v %s", k, ok, d)
		}
	}
	for what, bad := range map[string]map[town]note{
		"value":        {{"DE", "80331"}: {Text: "M\xfcnchen"}},
		"nested value": {{"DE", "80331"}: {More: map[string]any{"a": []any{"\xff"}}}},
		"nested key":   {{"DE", "80331"}: {More: map[string]any{"\xff": 1}}},
		"key":          {{"DE", "80331\xff"}: {}},
	} {
		source = bad
		_, err := table.Refresh(t.Context())
		if !errors.Is(err, lookup.ErrEncode) || !strings.Contains(err.Error(), "80331") || !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("%s: got %v, want %v with the key", what, err, lookup.ErrEncode)
		}
	}
}

// A remote table serves an entry that it cannot store from the source, and the others as ever.
func TestRemoteEntryThatCannotBeStored(t *testing.T) {
	t.Parallel()
	c, name := servertest.Miniredis(t), servertest.Prefix(t)
	source := map[town]string{{"DE", "1"}: "a", {"DE", "2"}: "M\xfcnchen", {"D\xff", "3"}: "c"}
	cfg := lookup.RemoteConfig[town, string]{
		Logger: slog.New(slog.DiscardHandler),
		Fetch: func(_ context.Context, keys []town) (map[town]string, error) {
			found := map[town]string{}
			for _, k := range keys {
				if v, ok := source[k]; ok {
					found[k] = v
				}
			}
			return found, nil
		},
	}
	keys := []town{{"DE", "1"}, {"DE", "2"}, {"D\xff", "3"}, {"D\xfe", "3"}, {"D\ufffd", "3"}}
	want := lookup.Result[string]{Values: []string{"a", "M\xfcnchen", "c", "", ""}, Missing: []int{3, 4}}
	for range 2 {
		r, err := lookup.NewRemote(t.Context(), c, name, cfg)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.GetMany(t.Context(), keys)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%v %s", err, d)
		}
		if err := r.Put(t.Context(), map[town]string{keys[1]: source[keys[1]]}); !errors.Is(err, lookup.ErrEncode) {
			t.Errorf("put: got %v, want %v", err, lookup.ErrEncode)
		}
	}
	// Without a source, nothing but the first is known.
	r, err := lookup.NewRemote(t.Context(), c, name, lookup.RemoteConfig[town, string]{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.GetMany(t.Context(), keys)
	if d := cmp.Diff(lookup.Result[string]{Values: []string{"a", "", "", "", ""}, Missing: []int{1, 2, 3, 4}}, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
}

// A key that Redis cannot hold costs no other key of a call: the source may have it.
func TestRemoteKeyThatCannotBeStored(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t, "--proto-max-bulk-len", "1048576").Client(t)
	ctx := t.Context()
	nan, inf := math.NaN(), math.Inf(1)
	remoteKeys(t, c, lookup.RemoteConfig[float64, int]{}, map[float64]int{1: 1, inf: 2, nan: 3}, []float64{1, nan, inf, -inf, nan}, []int{1, 3, 4})
	type point struct{ X, Y float64 }
	remoteKeys(t, c, lookup.RemoteConfig[point, int]{}, map[point]int{{1, 2}: 1, {inf, 0}: 2}, []point{{1, 2}, {nan, 1}, {inf, 0}, {0, inf}}, []int{1, 3})
	year := func(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }
	remoteKeys(t, c, lookup.RemoteConfig[time.Time, int]{}, map[time.Time]int{year(2026): 1, year(300_000): 2},
		[]time.Time{year(2026), year(-1), year(300_000), {}}, []int{1, 3})
	long := strings.Repeat("x", 2<<20)
	remoteKeys(t, c, lookup.RemoteConfig[string, int]{}, map[string]int{"": 1, long: 2}, []string{"", long + "y", long, "\x00"}, []int{1, 3})
	odd := lookup.Codec[int]{
		Encode: func(k int) ([]byte, error) {
			if k < 0 {
				return nil, errors.New("negative")
			}
			return []byte(strconv.Itoa(k)), nil
		},
		Decode: func(b []byte) (int, error) { return strconv.Atoi(string(b)) },
	}
	remoteKeys(t, c, lookup.RemoteConfig[int, int]{Keys: odd}, map[int]int{1: 1, -1: 2}, []int{1, -2, -1, 3}, []int{1, 3})
	anyFloat := lookup.Codec[float64]{ // it has bytes for a NaN, which a map does not find
		Encode: func(k float64) ([]byte, error) { return []byte(fmt.Sprint(k)), nil },
		Decode: func(b []byte) (float64, error) { return strconv.ParseFloat(string(b), 64) },
	}
	remoteKeys(t, c, lookup.RemoteConfig[float64, int]{Keys: anyFloat}, map[float64]int{1: 1, nan: 3, 2: 2}, []float64{1, nan, 2}, []int{1})

	for what, codec := range map[string]lookup.Codec[float64]{"JSON": {}, "a codec of its own": anyFloat} {
		table, err := lookup.New(ctx, c, servertest.Prefix(t), lookup.Config[float64, int]{
			Keys: codec, Load: lookup.FromMap(func(context.Context) (map[float64]int, error) { return map[float64]int{1: 1, nan: 2}, nil }),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := table.Refresh(ctx); !errors.Is(err, lookup.ErrEncode) || !strings.Contains(err.Error(), "NaN") {
			t.Errorf("a table with NaN, %s: got %v, want %v with the key", what, err, lookup.ErrEncode)
		}
	}
}

// remoteKeys looks up keys twice, with a source and without: missing has the indexes of those that
// the source lacks.
func remoteKeys[K comparable](t *testing.T, c rueidis.Client, cfg lookup.RemoteConfig[K, int], source map[K]int, keys []K, missing []int) {
	t.Helper()
	ctx, name := t.Context(), servertest.Prefix(t)
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.Fetch = func(context.Context, []K) (map[K]int, error) { return source, nil }
	want := lookup.Result[int]{Values: make([]int, len(keys)), Missing: missing}
	for i, k := range keys {
		want.Values[i] = source[k]
	}
	for range 2 {
		r, err := lookup.NewRemote(ctx, c, name, cfg)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.GetMany(ctx, keys)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%T: %v %s", keys[0], err, d)
		}
	}
	cfg.Fetch = nil
	r, err := lookup.NewRemote(ctx, c, name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.GetMany(ctx, keys); err != nil || got.Values[0] != 1 || slices.Contains(got.Missing, 0) {
		t.Errorf("%T without a source: got %v, %v, want the first key", keys[0], got, err)
	}
	if err := r.Forget(ctx, keys...); err != nil {
		t.Errorf("%T: got %v, want the keys that Redis holds forgotten", keys[0], err)
	}
	eventually(t, "the first key is forgotten", func() bool { // its invalidation may still be on its way
		got, err := r.GetMany(ctx, keys[:1])
		return err == nil && len(got.Missing) == 1
	})
}
