package dedup_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
	"pgregory.net/rapid"
)

func newClock(t testing.TB) (*redisxtest.Clock, rueidis.Client) {
	t.Helper()
	return redisxtest.NewClock(t, time.UnixMilli(1_700_000_000_000))
}

// The edge of the window is exact to the millisecond, wherever in its life the table is.
func TestEdgeOfTheWindow(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	for i, offset := range []time.Duration{0, time.Millisecond, 10 * time.Minute, 30 * time.Minute, 59*time.Minute + 59*time.Second, time.Hour - time.Millisecond} {
		d := open(t, c, fmt.Sprint("w", i), dedup.Config{Window: time.Hour})
		claim(t, d, dedup.Batch{Root: "first", Records: 1}, nil, "opens the table")
		k.Advance(offset)
		a, b := dedup.Batch{Root: "a", Records: 1}, dedup.Batch{Root: "b", Records: 1}
		want(t, claim(t, d, a, nil, "x"), fresh)
		k.Advance(59*time.Minute + 59*time.Second)
		want(t, claim(t, d, b, nil, "x"), dup)
		want(t, claim(t, d, a, nil, "x"), fresh)
		k.Advance(999 * time.Millisecond)
		want(t, claim(t, d, b, nil, "x"), dup)
		if seen, _ := d.Seen(t.Context(), "x"); !seen[0] {
			t.Error("not seen 1 ms before the edge")
		}
		k.Advance(time.Millisecond)
		if seen, _ := d.Seen(t.Context(), "x"); seen[0] {
			t.Error("seen at the edge")
		}
		want(t, claim(t, d, b, nil, "x"), fresh)
		want(t, claim(t, d, a, nil, "x"), dup)
	}
}

// When the stream stops, all keys expire.
func TestEverythingExpires(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	d := open(t, c, "w", dedup.Config{Window: time.Hour, ExpectedIDs: 1})
	claim(t, d, dedup.Batch{Root: "undone", Records: 1}, nil, "x")
	undo(t, c, d, dedup.Claim{Root: "undone", ID: "x"})
	for i := range 12 {
		claim(t, d, dedup.Batch{Root: fmt.Sprint(i), Records: 200}, nil, names(fmt.Sprint(i, "-"), 0, 200)...)
		k.Advance(17 * time.Minute)
	}
	if len(k.Keys()) < 2 {
		t.Fatalf("only %d keys", len(k.Keys()))
	}
	gone := func() {
		t.Helper()
		k.Advance(time.Hour + time.Hour/8)
		if keys := k.Keys(); len(keys) != 0 {
			t.Fatalf("%d keys are left: %q …", len(keys), keys[0])
		}
	}
	gone()
	claim(t, d, dedup.Batch{Root: "once", Records: 1000}, nil, names("", 0, 1000)...)
	gone()
}

// A server whose clock is set back, by an operator or a failover, forgets nothing, and claims age
// at once again. When it is set right, nothing is forgotten either.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{time.Millisecond, time.Minute, time.Hour, 2 * 365 * 24 * time.Hour} {
		for _, window := range []time.Duration{time.Second, 10 * time.Minute, 3 * time.Hour} {
			t.Run(fmt.Sprint(by, window), func(t *testing.T) {
				t.Parallel()
				k, c := newClock(t)
				d := open(t, c, "w", dedup.Config{Window: window, ExpectedIDs: 1})
				batch := func(root string, n int) dedup.Batch { return dedup.Batch{Root: root, Records: n} }
				want(t, claim(t, d, batch("a", 1), nil, "x"), fresh)
				k.SetTo(k.Now.Add(-by))
				want(t, claim(t, d, batch("b", 2), nil, "x", "y"), dup, fresh)
				if got := stats(t, d).ClockBehind; got != by {
					t.Errorf("Stats: the clock is %v ahead, want %v", got, by)
				}
				for i := range 2 { // a table that is full is replaced meanwhile
					claim(t, d, batch(fmt.Sprint("c", i), fillsTable), nil, names(fmt.Sprint(i, "-"), 0, fillsTable)...)
				}
				k.Advance(window - time.Millisecond)
				if by > window { // or the pause may be the correction of the clock
					want(t, claim(t, d, batch("d", 2), nil, "x", "y"), dup, dup)
					k.Advance(time.Millisecond)
					want(t, claim(t, d, batch("e", 2), nil, "x", "y"), fresh, fresh)
				}
				want(t, claim(t, d, batch("f", 1), nil, "z"), fresh)
				k.SetTo(k.Now.Add(by)) // right again
				want(t, claim(t, d, batch("g", 1), nil, "z"), dup)
				if got := stats(t, d).ClockBehind; got != 0 {
					t.Errorf("Stats: the clock is %v ahead after it was set right, want 0", got)
				}
				k.Advance(window)
				want(t, claim(t, d, batch("h", 1), nil, "z"), fresh)
			})
		}
	}
}

// A clock that was ahead and is set back while only Seen is called: ids leave the window all the
// same.
func TestClockSetBackBeforeSeen(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	d := open(t, c, "w", dedup.Config{Window: time.Minute})
	want(t, claim(t, d, dedup.Batch{Root: "a", Records: 1}, nil, "x"), fresh)
	k.SetTo(k.Now.Add(-time.Hour))
	for _, yes := range []bool{true, false} {
		if seen, err := d.Seen(t.Context(), "x"); err != nil || seen[0] != yes {
			t.Fatalf("Seen: got %v, %v, want %v", seen, err, yes)
		}
		k.Advance(time.Minute)
	}
}

// After the server's clock was set back, the keys outlive their last id by that much. This is no
// damage.
func TestAuditAfterClockSetBack(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	d := open(t, c, "w", dedup.Config{Window: time.Minute})
	want(t, claim(t, d, dedup.Batch{Root: "a", Records: 1}, nil, "x"), fresh)
	k.SetTo(k.Now.Add(-time.Hour))
	want(t, claim(t, d, dedup.Batch{Root: "b", Records: 1}, nil, "x"), dup)
	k.Advance(30 * time.Second)
	want(t, claim(t, d, dedup.Batch{Root: "c", Records: 1}, nil, "y"), fresh)
	k.Advance(time.Minute)
	a, err := d.Audit(t.Context())
	if err != nil || a.Balanced() != nil || len(k.Keys()) < 2 {
		t.Errorf("got %v, %v, with the keys %q", err, a.Balanced(), k.Keys())
	}
}

// Clear also begins anew with the server's clock.
func TestClearAfterClockSetBack(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	d := open(t, c, "w", dedup.Config{Window: time.Hour})
	want(t, claim(t, d, dedup.Batch{Root: "a", Records: 1}, nil, "x"), fresh)
	k.SetTo(k.Now.AddDate(-2, 0, 0))
	if err := d.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := stats(t, d).ClockBehind; got != 0 {
		t.Errorf("the clock is %v ahead after Clear, want 0", got)
	}
	want(t, claim(t, d, dedup.Batch{Root: "b", Records: 1}, nil, "x"), fresh)
	k.Advance(time.Hour)
	want(t, claim(t, d, dedup.Batch{Root: "c", Records: 1}, nil, "x"), fresh)
}

// What was forgotten is counted until it would have left; it must not be taken from what came
// later.
func TestStatsAfterForget(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	d := open(t, c, "w", dedup.Config{Window: 80 * time.Minute, ExpectedIDs: 2000})
	old := names("old", 0, 1000)
	claim(t, d, dedup.Batch{Root: "a", Records: 1000}, nil, old...)
	k.Advance(11 * time.Minute)
	claim(t, d, dedup.Batch{Root: "b", Records: 1}, nil, "x")
	if n, err := d.Forget(t.Context(), old...); n != 1000 || err != nil {
		t.Fatal(n, err)
	}
	k.Advance(time.Minute)
	claim(t, d, dedup.Batch{Root: "c", Records: 500}, nil, names("new", 0, 500)...)
	k.Advance(79 * time.Minute)
	if n := stats(t, d).IDs; n < 490 || n > 510 {
		t.Errorf("Stats: got %d ids, want about 500", n)
	}
}

// A longer window takes effect at once, or its first claims would end too early.
func TestWindowGrows(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	short := open(t, c, "w", dedup.Config{Window: 20 * time.Minute})
	long := open(t, c, "w", dedup.Config{Window: 24 * time.Hour})
	want(t, claim(t, short, dedup.Batch{Root: "a", Records: 1}, nil, "x"), fresh)
	k.Advance(4 * time.Minute)
	want(t, claim(t, long, dedup.Batch{Root: "b", Records: 1}, nil, "y"), fresh)
	k.Advance(21 * time.Minute)
	want(t, claim(t, long, dedup.Batch{Root: "c", Records: 2}, nil, "x", "y"), fresh, dup)
}

// Windows of two lengths by turns; claims keep the one that they were made with.
func TestWindowIsChanged(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	short := open(t, c, "w", dedup.Config{Window: 20 * time.Minute})
	long := open(t, c, "w", dedup.Config{Window: time.Hour})
	want(t, claim(t, short, dedup.Batch{Root: "a", Records: 1}, nil, "x"), fresh)
	k.Advance(10 * time.Minute)
	want(t, claim(t, long, dedup.Batch{Root: "b", Records: 2}, nil, "x", "y"), dup, fresh)
	k.Advance(15 * time.Minute)
	want(t, claim(t, long, dedup.Batch{Root: "c", Records: 2}, nil, "x", "y"), fresh, dup)
	k.Advance(40 * time.Minute)
	want(t, claim(t, long, dedup.Batch{Root: "d", Records: 2}, nil, "x", "y"), dup, dup)
}

// fillsTable is how many ids fill the smallest table.
const fillsTable = 650

// model is what the window promises, in a few lines.
type model struct {
	window  time.Duration
	holders map[string]holder
}

type holder struct {
	root  string
	place int
	at    time.Time
}

func (m *model) claim(now time.Time, root string, place int, id string) dedup.Verdict {
	h, ok := m.holders[id]
	if ok && now.Sub(h.at) < m.window {
		if h.root == root && h.place == place {
			return fresh
		}
		return dup
	}
	m.holders[id] = holder{root, place, now}
	return fresh
}

// job is a batch of a queue: it is claimed again and again, in part or in whole, split, and
// acknowledged.
type job struct {
	batch dedup.Batch
	ids   []string
	said  []dedup.Verdict // 0: not claimed yet
	gone  bool
}

func TestAgainstTheModel(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		name := fmt.Sprint("w", n)
		window := time.Duration(rapid.SampledFrom([]int{10, 1000, 60_000, 3_600_000}).Draw(rt, "window")) * time.Millisecond
		d, err := dedup.New(t.Context(), c, name, dedup.Config{Window: window, ExpectedIDs: 1})
		if err != nil {
			rt.Fatal(err)
		}
		m := &model{window: window, holders: make(map[string]holder)}
		var jobs []*job
		// The server's clock is set back by a year, and right again. The window's clock goes on.
		ahead := time.Duration(0)
		now := func() time.Time { return k.Now.Add(ahead) }
		defer func() { k.SetTo(now()) }() // or many sequences together set it to before 1970
		id := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("id", rapid.IntRange(0, 40).Draw(t, "id")) })
		pick := func(rt *rapid.T) *job {
			if len(jobs) == 0 {
				rt.Skip("no batch yet")
			}
			return jobs[rapid.IntRange(0, len(jobs)-1).Draw(rt, "batch")]
		}
		rt.Repeat(map[string]func(*rapid.T){
			"seal": func(rt *rapid.T) {
				ids := rapid.SliceOfN(id, 1, 12).Draw(rt, "ids")
				j := &job{ids: ids, said: make([]dedup.Verdict, len(ids))}
				j.batch = dedup.Batch{Root: fmt.Sprint("root", len(jobs)), Records: len(ids)}
				if rapid.Bool().Draw(rt, "guarded") {
					j.batch.Guard = guard(t, c, name, fmt.Sprint(len(jobs)))
				}
				jobs = append(jobs, j)
			},
			"split": func(rt *rapid.T) {
				j := pick(rt)
				if j.gone || len(j.ids) < 2 {
					rt.Skip("cannot be split")
				}
				at := rapid.IntRange(1, len(j.ids)-1).Draw(rt, "at")
				var kept string
				if j.batch.Guard != "" {
					kept, _ = c.Do(t.Context(), c.B().Hget().Key(j.batch.Guard).Field("r:dedup").Build()).ToString()
				}
				for _, r := range [][2]int{{0, at}, {at, len(j.ids)}} {
					child := &job{ids: j.ids[r[0]:r[1]], said: append([]dedup.Verdict(nil), j.said[r[0]:r[1]]...)}
					child.batch = dedup.Batch{Root: j.batch.Root, Offset: j.batch.Offset + r[0], Records: r[1] - r[0]}
					if j.batch.Guard != "" {
						child.batch.Guard = guard(t, c, name, fmt.Sprint(len(jobs)))
						if kept != "" { // as the queue slices every such field
							c.Do(t.Context(), c.B().Hset().Key(child.batch.Guard).FieldValue().FieldValue("r:dedup", kept[r[0]:r[1]]).Build())
						}
					}
					jobs = append(jobs, child)
				}
				c.Do(t.Context(), c.B().Del().Key(j.batch.Guard).Build())
				j.gone = true
			},
			"claim": func(rt *rapid.T) {
				j := pick(rt)
				var pos []int32
				var ids []string
				for i, id := range j.ids {
					if rapid.IntRange(0, 3).Draw(rt, "leave out") != 0 {
						pos, ids = append(pos, int32(i)), append(ids, id)
					}
				}
				got, err := d.Claim(t.Context(), j.batch, pos, ids)
				if j.gone && j.batch.Guard != "" {
					if len(ids) > 0 && !errors.Is(err, dedup.ErrGone) {
						rt.Fatalf("claim for a batch that is gone: %v, %v", got, err)
					}
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				for i, p := range pos {
					want := j.said[p]
					if want == 0 || j.batch.Guard == "" {
						want = m.claim(now(), j.batch.Root, j.batch.Offset+int(p), ids[i])
						j.said[p] = want
					}
					if got[i] != want {
						rt.Fatalf("%v position %d (%s): %v, want %v", j.batch, p, ids[i], got[i], want)
					}
				}
			},
			"give back": func(rt *rapid.T) {
				j := pick(rt)
				i := rapid.IntRange(0, len(j.ids)-1).Draw(rt, "position")
				claimed := dedup.Claim{Root: j.batch.Root, Place: j.batch.Offset + i, ID: j.ids[i]}
				h, ok := m.holders[claimed.ID]
				holds := ok && h.root == claimed.Root && h.place == claimed.Place
				if rapid.Bool().Draw(rt, "through the queue") {
					undo(t, c, d, claimed)
				} else {
					n, err := d.Release(t.Context(), claimed)
					if want := holds && now().Sub(h.at) < window; err != nil || (n == 1) != want {
						rt.Fatalf("Release: %d, %v, want %v", n, err, want)
					}
				}
				if holds {
					delete(m.holders, claimed.ID)
				}
			},
			"acknowledge": func(rt *rapid.T) {
				j := pick(rt)
				c.Do(t.Context(), c.B().Del().Key(j.batch.Guard).Build())
				j.gone = true
			},
			"forget": func(rt *rapid.T) {
				id := id.Draw(rt, "id")
				if _, err := d.Forget(t.Context(), id); err != nil {
					rt.Fatal(err)
				}
				delete(m.holders, id)
			},
			"wait": func(rt *rapid.T) {
				ms := window.Milliseconds()
				k.Advance(time.Duration(rapid.OneOf(
					rapid.Int64Range(0, 3),
					rapid.Int64Range(ms-1, ms+1),
					rapid.Int64Range(0, 2*ms),
				).Draw(rt, "ms")) * time.Millisecond)
			},
			"set the clock": func(rt *rapid.T) {
				by := 365 * 24 * time.Hour
				if ahead > 0 {
					by = -by
				}
				// Only a call shows how far the clock had come before.
				claim(t, d, dedup.Batch{Root: "tick", Records: 1}, nil, "tick")
				k.SetTo(k.Now.Add(-by))
				ahead += by
				claim(t, d, dedup.Batch{Root: "tick", Records: 1}, nil, "tick")
			},
			"crowd": func(rt *rapid.T) { // fills the table, and the next one
				if len(jobs)%4 != 0 {
					rt.Skip("not now")
				}
				ids := names(fmt.Sprint(len(jobs), "-"), 0, fillsTable)
				for i, v := range claim(t, d, dedup.Batch{Root: fmt.Sprint("crowd", len(jobs)), Records: len(ids)}, nil, ids...) {
					if want := m.claim(now(), fmt.Sprint("crowd", len(jobs)), i, ids[i]); v != want {
						rt.Fatalf("crowd id %d: %v, want %v", i, v, want)
					}
				}
			},
			"": func(rt *rapid.T) {
				ids := make([]string, 41)
				for i := range ids {
					ids[i] = fmt.Sprint("id", i)
				}
				seen, err := d.Seen(t.Context(), ids...)
				if err != nil {
					rt.Fatal(err)
				}
				for i, id := range ids {
					h, ok := m.holders[id]
					if want := ok && now().Sub(h.at) < window; seen[i] != want {
						rt.Fatalf("%s seen: %v, want %v", id, seen[i], want)
					}
				}
			},
		})
	})
}

// serverTime returns the clock of a server.
func serverTime(t testing.TB, c rueidis.Client) time.Time {
	t.Helper()
	v, err := do(t, c, c.B().Time().Build()).AsStrSlice()
	if err != nil || len(v) != 2 {
		t.Fatal(v, err)
	}
	s, err1 := strconv.ParseInt(v[0], 10, 64)
	us, err2 := strconv.ParseInt(v[1], 10, 64)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return time.UnixMicro(s*1_000_000 + us).Truncate(time.Millisecond)
}

// The same edge on every real server: what its own clock proves must hold.
func TestEdgeOnTheServersClock(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		if strings.HasSuffix(t.Name(), "/miniredis") {
			return // its keys expire by another clock, which moves in steps; TestAgainstTheModel moves both
		}
		const window = 150 * time.Millisecond
		d := open(t, c, servertest.Prefix(t), dedup.Config{Window: window})
		type span struct{ from, to time.Time }
		held := make(map[string]span)
		within, after := 0, 0
		for i := 0; within < 50 || after < 50; i++ {
			id := fmt.Sprint("id", i%17)
			s := span{from: serverTime(t, c)}
			v := claim(t, d, dedup.Batch{Root: fmt.Sprint(i), Records: 1}, nil, id)[0]
			s.to = serverTime(t, c)
			h, ok := held[id]
			switch {
			case ok && s.to.Sub(h.from) < window:
				within++
				if v != dup {
					t.Fatalf("%s: got %v at most %v after its claim, want %v", id, v, s.to.Sub(h.from), dup)
				}
			case !ok || s.from.Sub(h.to) >= window:
				after++
				if v != fresh {
					t.Fatalf("%s: got %v at least %v after its claim, want %v", id, v, s.from.Sub(h.to), fresh)
				}
			}
			if v == fresh {
				held[id] = s
			}
		}
	})
}
