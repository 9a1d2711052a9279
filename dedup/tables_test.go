package dedup_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
)

// Ids of all lengths, many copies within a call and between calls, gaps, batches that are
// redelivered with part of their verdicts, in tables that are too small at first: each verdict is
// what a map would say.
func TestMixedCalls(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		d := open(t, c, name, dedup.Config{ExpectedIDs: 1})
		m := &model{window: time.Hour, holders: make(map[string]holder)}
		now := time.Now()
		rounds, calls := 8, 0
		switch {
		case strings.HasSuffix(t.Name(), "/shared"):
			rounds = servertest.Rounds(30)
		case strings.HasSuffix(t.Name(), "/miniredis"):
			rounds = 4
		}
		for i := range rounds {
			n, universe := 1+r.IntN(2500), 1+r.IntN(6000)
			ids := make([]string, n)
			for j := range ids {
				id := r.IntN(universe)
				ids[j] = fmt.Sprint(id, strings.Repeat("x", id%40+id%97/96*980))
			}
			b := dedup.Batch{Root: fmt.Sprint("root", i), Offset: r.IntN(3) * 70_000, Records: n}
			guarded := r.IntN(2) == 0
			if guarded {
				b.Guard = guard(t, c, name, fmt.Sprint(i))
			}
			said := make([]dedup.Verdict, n)
			for range 1 + r.IntN(3) {
				var pos []int32
				var some []string
				share := r.IntN(4)
				for j := range ids {
					if r.IntN(4) >= share {
						pos, some = append(pos, int32(j)), append(some, ids[j])
					}
				}
				calls++
				for k, v := range claim(t, d, b, pos, some...) {
					p := pos[k]
					if said[p] == 0 || !guarded {
						said[p] = m.claim(now, b.Root, b.Offset+int(p), some[k])
					}
					if v != said[p] {
						t.Fatalf("call %d, position %d of %d: %.20s is %v, want %v", calls, p, n, some[k], v, said[p])
					}
				}
			}
			for id, h := range m.holders { // some are given back, and the next claim takes them
				if r.IntN(10) == 0 {
					undo(t, c, d, dedup.Claim{Root: h.root, Place: h.place, ID: id})
					delete(m.holders, id)
				}
				if r.IntN(300) == 0 {
					break
				}
			}
		}
		var all []string
		for id := range m.holders {
			all = append(all, id)
		}
		seen, err := d.Seen(t.Context(), all...)
		if err != nil {
			t.Fatal(err)
		}
		for i, yes := range seen {
			if !yes {
				t.Fatalf("%.20s is held and not seen", all[i])
			}
		}
	})
}

// One id thousands of times, in one call and call after call: time and memory stay what a single
// one takes.
func TestOneIDManyTimes(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{ExpectedIDs: 1})
		mini := strings.HasSuffix(t.Name(), "/miniredis") // which is slow, but not for what is meant here
		same := make([]string, map[bool]int{true: 500, false: 5000}[mini])
		for i := range same {
			same[i] = "the same"
		}
		for i := range 10 {
			for j, v := range claim(t, d, dedup.Batch{Root: fmt.Sprint(i), Records: len(same)}, nil, same...) {
				if (v == fresh) != (i == 0 && j == 0) {
					t.Fatalf("call %d, position %d: %v", i, j, v)
				}
			}
		}
		if keys, _ := do(t, c, c.B().Keys().Pattern("{"+name+"}:dedup:t:*").Build()).AsStrSlice(); len(keys) > 1+5000*18/32000+1 {
			t.Errorf("%d keys for one id", len(keys)) // the first call's copies cost an entry each, no later one does
		}
	})
}

// Duplicates among new ids cost no memory either, but for those of the first call that has many.
func TestDuplicatesTakeNoMemory(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	d := open(t, c, name, dedup.Config{})
	old := names("old", 0, 500)
	claim(t, d, dedup.Batch{Root: "old", Records: 500}, nil, old...)
	for i := range 40 {
		ids := append(names(fmt.Sprint(i, "-"), 0, 500), old...)
		rand.Shuffle(len(ids), func(a, b int) { ids[a], ids[b] = ids[b], ids[a] })
		claim(t, d, dedup.Batch{Root: fmt.Sprint(i), Records: len(ids)}, nil, ids...)
	}
	if n, fresh := logged(t, c, name), 500*41; n > fresh*26*11/10 {
		t.Errorf("%d bytes of log for %d ids", n, fresh)
	}
}

// A log that is at its end, which is 4 GB: another table takes the claims, and what the first one
// has stays known.
func TestTheLogIsFull(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{})
		ids := names("", 0, 600)
		claim(t, d, dedup.Batch{Root: "a", Records: 300}, nil, ids[:300]...)
		key := "{" + name + "}:dedup:state"
		state, _ := do(t, c, c.B().Get().Key(key).Build()).ToString()
		f := strings.SplitN(state, " ", 7)
		f[5] = "4294967000" // the tail
		do(t, c, c.B().Set().Key(key).Value(strings.Join(f, " ")).Build())
		servertest.Eventually(t, "a millisecond has passed", func() bool {
			claim(t, d, dedup.Batch{Root: "b", Records: 300}, nil, ids[300:]...)
			state, _ := do(t, c, c.B().Get().Key(key).Build()).ToString()
			return strings.Count(state, `"id"`) == 2
		})
		for i, v := range claim(t, d, dedup.Batch{Root: "c", Records: 600}, nil, ids...) {
			if v != dup {
				t.Fatalf("id %d is %v", i, v)
			}
		}
		for i, v := range claim(t, d, dedup.Batch{Root: "a", Records: 300}, nil, ids[:300]...) {
			if v != fresh {
				t.Fatalf("id %d is %v for the place that holds it", i, v)
			}
		}
		if n := stats(t, d).IDs; n != 600 {
			t.Errorf("Stats: got %d ids, want 600", n)
		}
	})
}

// A table that was made for millions, when thousands come: it gives way to a smaller one.
func TestATableShrinks(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	large := open(t, c, "w", dedup.Config{Window: time.Minute, ExpectedIDs: 400_000})
	small := open(t, c, "w", dedup.Config{Window: time.Minute, ExpectedIDs: 1})
	claim(t, large, dedup.Batch{Root: "a", Records: 1}, nil, "x")
	index := func() (n int) {
		for _, key := range k.Keys() {
			if strings.HasSuffix(key, ":i0") {
				v, _ := do(t, c, c.B().Strlen().Key(key).Build()).AsInt64()
				n = max(n, int(v))
			}
		}
		return n
	}
	if n := index(); n < 4_000_000 {
		t.Fatalf("an index of %d bytes for 400,000 ids", n)
	}
	for i := range 60 {
		k.Advance(5 * time.Second)
		want(t, claim(t, small, dedup.Batch{Root: fmt.Sprint(i), Records: 2}, nil, fmt.Sprint("y", i), fmt.Sprint("y", i-3)), fresh, map[bool]dedup.Verdict{true: fresh, false: dup}[i < 3])
	}
	if n := index(); n > 10_000 {
		t.Errorf("an index of %d bytes for some ten ids", n)
	}
}

// Claims that are given back in one go, more than one call takes.
func TestUndoOfMany(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	d := open(t, c, servertest.Prefix(t), dedup.Config{})
	ids := names("", 0, 6000)
	claim(t, d, dedup.Batch{Root: "a", Records: len(ids)}, nil, ids...)
	claims := make([]dedup.Claim, len(ids))
	for i, id := range ids {
		claims[i] = dedup.Claim{Root: "a", Place: i, ID: id}
	}
	claims[2345].Root = "another"
	all, err := d.Undo(t.Context(), claims)
	if err != nil || len(all) != len(ids) {
		t.Fatal(len(all), err)
	}
	for i, u := range all {
		if (len(u) == 1) != (i != 2345) {
			t.Fatalf("claim %d: %+v", i, u)
		}
	}
	undo(t, c, d, claims[5990:]...)
	for i, v := range claim(t, d, dedup.Batch{Root: "b", Records: len(ids)}, nil, ids...) {
		if (v == fresh) != (i >= 5990) {
			t.Fatalf("id %d is %v", i, v)
		}
	}
}

// The most ids that one call may have, in a window that was made for one.
func TestTheLargestCall(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	d := open(t, c, servertest.Prefix(t), dedup.Config{ExpectedIDs: 1})
	claim(t, d, dedup.Batch{Root: "first", Records: 1}, nil, "x")
	ids := names("", 0, dedup.MaxIDs)
	for _, root := range []string{"a", "b"} {
		for i, v := range claim(t, d, dedup.Batch{Root: root, Records: len(ids)}, nil, ids...) {
			if (v == fresh) != (root == "a") {
				t.Fatalf("%s: id %d is %v", root, i, v)
			}
		}
	}
}

// Long ids in many runs fill chunks, not tables.
func TestLongIDsStayInOneTable(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	d := open(t, c, name, dedup.Config{ExpectedIDs: 50_000})
	long := strings.Repeat("x", 880)
	for i := range 3 {
		ids := names("", i*10_000, 10_000)
		for j := range ids {
			ids[j] += long
		}
		claim(t, d, dedup.Batch{Root: fmt.Sprint(i), Records: len(ids)}, nil, ids...)
	}
	state, _ := do(t, c, c.B().Get().Key("{"+name+"}:dedup:state").Build()).ToString()
	if n := strings.Count(state, `"id"`); n != 1 {
		t.Errorf("%d tables", n)
	}
	if err := d.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// An id that is rejected and claimed again, a thousand times, and ids that are released: what was
// given back costs nothing later.
func givenBackAgainAndAgain(t *testing.T, c rueidis.Client) {
	d := open(t, c, servertest.Prefix(t), dedup.Config{ExpectedIDs: 1})
	round := func(i int) {
		root := fmt.Sprint(i)
		want(t, claim(t, d, dedup.Batch{Root: root, Records: 1}, nil, "poison"), fresh)
		if i%2 == 0 {
			undo(t, c, d, dedup.Claim{Root: root, ID: "poison"})
		} else if n, err := d.Release(t.Context(), dedup.Claim{Root: root, ID: "poison"}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	for i := range 1000 {
		round(i)
	}
	if stats := commandCalls(t, c, "getrange", func() { round(1000) }); stats > 40 {
		t.Errorf("a claim and an undo read %d entries", stats)
	}
}

// commandCalls counts how often the server runs a command while f runs.
func commandCalls(t *testing.T, c rueidis.Client, command string, f func()) int {
	t.Helper()
	calls := func() int {
		info, _ := do(t, c, c.B().Info().Section("commandstats").Build()).ToString()
		_, rest, found := strings.Cut(info, "cmdstat_"+command+":calls=")
		if !found {
			return 0
		}
		count, _, _ := strings.Cut(rest, ",")
		n, err := strconv.Atoi(count)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := calls()
	f()
	return calls() - before
}

// Calls of new ids and calls of known ones by turns: duplicates still cost no memory.
func TestKnownAndNewByTurns(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	d := open(t, c, name, dedup.Config{})
	old := names("old", 0, 999)
	claim(t, d, dedup.Batch{Root: "old", Records: len(old)}, nil, old...)
	for i := range 60 {
		claim(t, d, dedup.Batch{Root: fmt.Sprint("n", i), Records: 10}, nil, names(fmt.Sprint("n", i, "-"), 0, 10)...)
		claim(t, d, dedup.Batch{Root: fmt.Sprint("k", i), Records: 1000}, nil, append(old[:999:999], fmt.Sprint("k", i))...)
	}
	if n, fresh := logged(t, c, name), 999+60*11; n > fresh*60+2*26_000 {
		t.Errorf("%d bytes of log for %d ids", n, fresh)
	}
}

// logged returns the length of the log of a window's only table.
func logged(t *testing.T, c rueidis.Client, name string) int {
	t.Helper()
	state, _ := do(t, c, c.B().Get().Key("{"+name+"}:dedup:state").Build()).ToString()
	var layout, wall, ahead, lost, last, tail int
	if _, err := fmt.Sscan(state, &layout, &wall, &ahead, &lost, &last, &tail); err != nil || strings.Count(state, `"id"`) != 1 {
		t.Fatal(state, err)
	}
	return tail
}
