package lookup_test

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

// A duration outside of its range is an error that names the field, the value and the range. A
// huge one works.
func TestExtremeDurations(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	ctx := t.Context()
	const longest = time.Duration(math.MaxInt64)
	load := lookup.FromMap(func(context.Context) (map[string]int, error) { return map[string]int{"a": 1}, nil })
	all := func(d time.Duration) map[string]error {
		table := func(cfg lookup.Config[string, int]) error {
			cfg.Load = load
			tab, err := lookup.New(ctx, c, servertest.Prefix(t), cfg)
			if err != nil {
				return err
			}
			for range 2 { // the second one lets the first version expire after Keep
				if _, err := tab.Refresh(ctx); err != nil {
					return err
				}
			}
			s, err := tab.Snapshot()
			if err == nil && s.Len() != 1 {
				t.Errorf("%v: got %d entries, want 1", d, s.Len())
			}
			return err
		}
		remote := func(cfg lookup.RemoteConfig[string, int]) error {
			cfg.Fetch = func(context.Context, []string) (map[string]int, error) { return map[string]int{"a": 1}, nil }
			r, err := lookup.NewRemote(ctx, c, servertest.Prefix(t), cfg)
			if err != nil {
				return err
			}
			for range 2 {
				got, err := r.GetMany(ctx, []string{"a", "b"})
				if err != nil || got.Values[0] != 1 || len(got.Missing) != 1 {
					t.Errorf("%v: got %v, %v, want a and not b", d, got, err)
				}
			}
			return r.Put(ctx, map[string]int{"b": 2})
		}
		return map[string]error{
			"Config.MaxAge":            table(lookup.Config[string, int]{MaxAge: d, Stale: lookup.StaleFail}),
			"Config.RefreshInterval":   table(lookup.Config[string, int]{RefreshInterval: d}),
			"Config.Keep":              table(lookup.Config[string, int]{Keep: d}),
			"RemoteConfig.TTL":         remote(lookup.RemoteConfig[string, int]{TTL: d}),
			"RemoteConfig.NegativeTTL": remote(lookup.RemoteConfig[string, int]{NegativeTTL: d}),
			"RemoteConfig.LocalTTL":    remote(lookup.RemoteConfig[string, int]{LocalTTL: d}),
		}
	}
	for _, d := range []time.Duration{math.MinInt64, -1} {
		for field, err := range all(d) {
			if !errors.Is(err, lookup.ErrConfig) || !strings.Contains(err.Error(), field+" is "+d.String()+", must be ") {
				t.Errorf("%s of %v: got %v, want ErrConfig with the field, the value and the range", field, d, err)
			}
		}
	}
	for field, err := range all(longest) {
		if err != nil {
			t.Errorf("%s of %v: got %v, want a table that works", field, longest, err)
		}
	}
}

// A version whose time was read from no clock has the largest or the smallest age, and not one that
// has overflowed.
func TestExtremeAge(t *testing.T) {
	t.Parallel()
	c, name := servertest.Redis(t), servertest.Prefix(t)
	table := newTable(t, c, name, lookup.Config[string, int]{})
	for made, young := range map[int64]bool{1 << 53: true, time.Now().UnixMilli() + 18_446_744_073_709: true, 0: false} {
		text := "1 id 1 1 " + strconv.FormatInt(made, 10)
		if err := c.Do(t.Context(), c.B().Set().Key("{"+name+"}:lookup:current").Value(text).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		if s, err := table.Stats(t.Context()); err != nil || young != (s.Age < -50*365*24*time.Hour) || young == (s.Age > 50*365*24*time.Hour) {
			t.Errorf("made at %d ms: got an age of %v, %v", made, s.Age, err)
		}
	}
}
