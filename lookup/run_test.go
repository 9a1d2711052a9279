package lookup_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/redis/rueidis"
)

// With Run, a new version is everywhere within 100 ms.
func TestSignal(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		src := &source{m: map[string]int{"v": 0}}
		writer := newTable(t, c, name, lookup.Config[string, int]{Load: lookup.FromMap(src.load)})
		refresh(t, writer)
		readers := make([]*lookup.Table[string, int], 5)
		for i := range readers {
			readers[i] = newTable(t, c, name, lookup.Config[string, int]{MaxAge: time.Hour, OnError: func(err error) { t.Error(err) }})
			run(t, readers[i])
		}
		sees := func(version string) func() bool {
			return func() bool {
				for _, r := range readers {
					if s, err := r.Snapshot(); err != nil || s.Version() != version {
						return false
					}
				}
				return true
			}
		}
		s, _ := writer.Snapshot()
		eventually(t, "everybody has the first version", sees(s.Version()))
		// Run may still be about to subscribe: the first signals may find nobody.
		eventually(t, "everybody listens", func() bool {
			n, err := c.Do(t.Context(), c.B().PubsubNumsub().Channel("{"+name+"}:lookup:changed").Build()).AsIntMap()
			return err == nil && n["{"+name+"}:lookup:changed"] == int64(len(readers))
		})
		worst := time.Duration(0)
		for i := range 5 {
			src.set(map[string]int{"v": i}, nil)
			r := refresh(t, writer)
			worst = max(worst, eventually(t, "everybody has the new version", sees(r.Version)))
		}
		t.Logf("slowest of 5 refreshes reached 5 processes after %v", worst)
		if worst > 100*time.Millisecond {
			t.Errorf("a new version took %v to reach everybody: more than 100 ms", worst)
		}
	})
}

// MaxAge holds although no signal is ever sent: the pointer is set by hand here.
func TestLostSignals(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	src := &source{m: map[string]int{"v": 1}}
	writer := newTable(t, c, name, lookup.Config[string, int]{Load: lookup.FromMap(src.load)})
	refresh(t, writer)
	pointer, err := c.Do(t.Context(), c.B().Get().Key("{"+name+"}:lookup").Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	reader := newTable(t, c, name, lookup.Config[string, int]{MaxAge: 400 * time.Millisecond})
	run(t, reader)
	eventually(t, "the first version", func() bool { _, err := reader.Snapshot(); return err == nil })
	key := "{" + name + "}:lookup:v:by-hand"
	c.Do(t.Context(), c.B().Hset().Key(key).FieldValue().FieldValue("v", "2").Build())
	made := pointer[strings.LastIndexByte(pointer, ' '):]
	c.Do(t.Context(), c.B().Set().Key("{"+name+"}:lookup").Value("by-hand 1"+made).Build())
	took := eventually(t, "the new version", func() bool { s, _ := reader.Snapshot(); return s.Version() == "by-hand" })
	if took > 400*time.Millisecond {
		t.Errorf("took %v, more than MaxAge", took)
	}
}

// When Redis is away the data stays; trust ends after MaxAge where that was asked for.
func TestStale(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	c := s.Client(t)
	src := &source{m: map[string]int{"a": 1}}
	serve := newTable(t, c, "w", lookup.Config[string, int]{Load: lookup.FromMap(src.load), MaxAge: 200 * time.Millisecond})
	fail := newTable(t, c, "w", lookup.Config[string, int]{MaxAge: 200 * time.Millisecond, Stale: lookup.StaleFail})
	refresh(t, serve)
	run(t, serve)
	run(t, fail)
	eventually(t, "both have it", func() bool { _, err := fail.Snapshot(); return err == nil })
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Fail fails", func() bool { _, err := fail.Snapshot(); return errors.Is(err, lookup.ErrStale) })
	if _, err := fail.GetMany(t.Context(), []string{"a"}); !errors.Is(err, lookup.ErrStale) {
		t.Errorf("GetMany: %v", err)
	}
	if snap, err := serve.Snapshot(); err != nil || snap.Len() != 1 {
		t.Errorf("Serve does not serve: %v", err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Fail is well again", func() bool { _, err := fail.Snapshot(); return err == nil })
}

// However many processes Run with Every, a version is refreshed once when its time has come.
func TestEvery(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		src := &source{m: map[string]int{"a": 1}}
		var tables []*lookup.Table[string, int]
		for range 4 {
			table := newTable(t, c, name, lookup.Config[string, int]{Load: lookup.FromMap(src.load), RefreshInterval: 300 * time.Millisecond})
			tables = append(tables, table)
			run(t, table)
		}
		took := eventually(t, "three loads", func() bool { return src.loads.Load() >= 3 })
		if took < 500*time.Millisecond {
			t.Errorf("4 processes loaded 3 times in %v: more often than every 300 ms", took)
		}
		eventually(t, "all have a snapshot", func() bool {
			for _, table := range tables {
				if _, err := table.Snapshot(); err != nil {
					return false
				}
			}
			return true
		})
	})
}
