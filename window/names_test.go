package window_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

// splitNames is the number of names above which a set of names goes on in buckets.
const splitNames = 16384

// fill adds names of windows that no program has to a set.
func fill(t *testing.T, c rueidis.Client, set string, score time.Time, name string) {
	t.Helper()
	const script = "for i = 1, ARGV[1] do redis.call('ZADD', KEYS[1], ARGV[2], string.format(ARGV[3], i)) end"
	err := c.Do(t.Context(), c.B().Eval().Script(script).Numkeys(1).Key(set).
		Arg(strconv.Itoa(splitNames+1), strconv.FormatInt(score.UnixMilli(), 10), name).Build()).Error()
	if err != nil && !rueidis.IsRedisNil(err) {
		t.Fatal(err)
	}
}

// sizes returns the sorted sets of a prefix with the number of their members, and checks that every
// key expires.
func sizes(t *testing.T, c rueidis.Client, prefix string) map[string]int64 {
	t.Helper()
	keys, err := c.Do(t.Context(), c.B().Keys().Pattern(prefix+"*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, key := range keys {
		if ttl, err := c.Do(t.Context(), c.B().Pttl().Key(key).Build()).AsInt64(); err != nil || ttl <= 0 {
			t.Errorf("%s expires in %d ms, %v, want a time to live", key, ttl, err)
		}
		if n, err := c.Do(t.Context(), c.B().Zcard().Key(key).Build()).AsInt64(); err == nil {
			out[strings.TrimPrefix(key, prefix)] = n
		}
	}
	return out
}

// pages reads all windows of a phase, page by page.
func pages(t *testing.T, w *window.Store, phase window.Phase, n int) (all []string) {
	t.Helper()
	for cursor := ""; ; {
		page, next, err := w.Windows(t.Context(), phase, cursor, n)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page {
			all = append(all, s.Key+" "+s.Start.Format("15:04:05"))
		}
		if cursor = next; cursor == "" {
			return all
		}
	}
}

// No set of names is large: the server frees each in a few milliseconds when it expires. In buckets
// the names are as they are in one key: none is lost, none comes twice, all come in order.
func TestManyNames(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	c := own.Client(t)
	const prefix = "{names}:window:"
	w := named(t, c, "names", window.Config{Size: time.Second, Lateness: 24 * time.Hour, Idle: time.Millisecond, Remember: -1})
	far := time.Now().Add(24 * time.Hour)
	// Names from before the split stay in the first key, until a call changes them.
	add(t, w, "k", at(0, "x"), at(time.Second, "y"))
	for _, set := range []string{"expiry", "idle", "due", "leases"} {
		fill(t, c, prefix+set, far, "1 1 other%d")
	}
	fill(t, c, prefix+"open:k", noon.Add(time.Hour), "%d 3600000")
	var events []window.Event
	for i := range 200 {
		events = append(events, at(time.Duration(199-i)*time.Second, "x"))
	}
	redisxtest.CheckWork(t, own.URL, "200 windows", func() {
		want(t, "added", add(t, w, "k", events...), window.AddResult{New: 199, Repeated: 1})
	})
	for i := range 40 {
		add(t, w, fmt.Sprintf("key %02d", i), at(0, "x"))
	}
	n := sizes(t, c, prefix)
	for _, set := range []string{"expiry", "idle", "open"} {
		name := ""
		if set == "open" {
			name = ":k"
		}
		buckets, members := 0, int64(0)
		for b := 1; b <= 64; b++ {
			in := n[fmt.Sprintf("%s.%d%s", set, b, name)]
			members += in
			if in > 0 {
				buckets++
			}
		}
		if n[set+name] > splitNames+3 || buckets < 20 || members < 40 {
			t.Errorf("%s%s has %d names in its first key and %d in %d buckets, want the new ones spread over the buckets",
				set, name, n[set+name], members, buckets)
		}
	}
	// What is no window is removed, so that the rest can be counted.
	for _, set := range []string{"expiry", "idle", "due", "leases", "open:k"} {
		score := far
		if set == "open:k" {
			score = noon.Add(time.Hour)
		}
		if err := c.Do(t.Context(), c.B().Zremrangebyscore().Key(prefix+set).Min(strconv.FormatInt(score.UnixMilli(), 10)).Max("inf").Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	all := pages(t, w, window.PhaseOpen, 1000)
	want(t, "open windows in small pages", pages(t, w, window.PhaseOpen, 7), all)
	if len(all) != 240 {
		t.Errorf("got %d open windows, want 240", len(all))
	}
	var ends []time.Time
	for after := (time.Time{}); ; {
		page, err := w.OpenWindows(t.Context(), "k", after, 7)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, o := range page {
			ends = append(ends, o.End)
		}
		after = ends[len(ends)-1]
	}
	if len(ends) != 200 || !slices.IsSortedFunc(ends, time.Time.Compare) {
		t.Errorf("got %d open windows of one key, want 200 in the order of their ends", len(ends))
	}
	balanced(t, w)
	if first := closeDue(t, w, 1); len(first) != 1 {
		t.Fatalf("got %d windows, want 1", len(first))
	} else if err := w.Release(t.Context(), first[0], window.ReleaseOptions{}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for len(seen) < 240 {
		var closed []window.ClosedWindow
		redisxtest.CheckWork(t, own.URL, "a close of 100 windows", func() { closed = closeDue(t, w, 100) })
		if len(closed) == 0 {
			t.Fatalf("got %d windows, want 240", len(seen))
		}
		for _, x := range closed {
			id := fmt.Sprint(x.Key, x.Start)
			if seen[id] {
				t.Errorf("%s comes twice", id)
			}
			seen[id] = true
		}
		leased := pages(t, w, window.PhaseLeased, 1000)
		want(t, "leased windows in small pages", pages(t, w, window.PhaseLeased, 30), leased)
		want(t, "leased", len(leased), len(closed))
		for i, x := range closed {
			if i == 0 {
				if err := w.Extend(t.Context(), x, time.Hour); err != nil {
					t.Error(err)
				}
			}
			if err := w.Done(t.Context(), x); err != nil {
				t.Error(err)
			}
		}
	}
	st := balanced(t, w)
	want(t, "events", st.Events, window.EventCounts{Added: 241, Done: 241})
	if n := sizes(t, c, prefix); len(n) > 0 {
		t.Errorf("got %v, want no set left", n)
	}
	// A name without windows goes on in one key.
	closeDue(t, w, 1)
	if n, err := c.Do(t.Context(), c.B().Hexists().Key(prefix+"meta").Field("namessplit").Build()).AsInt64(); err != nil || n != 0 {
		t.Errorf("without windows the sets are still in buckets: %d, %v", n, err)
	}
	if n, err := c.Do(t.Context(), c.B().Hexists().Key(prefix+"marks:k").Field("opensplit").Build()).AsInt64(); err != nil || n != 1 {
		t.Errorf("got %d, %v, want that the open windows of k are known to be in buckets until it gets an event", n, err)
	}
}

// split returns a store whose sets of names are in buckets.
func split(t *testing.T, c rueidis.Client, name string, cfg window.Config) *window.Store {
	t.Helper()
	w := named(t, c, name, cfg)
	prefix := "{" + name + "}:window:"
	hset(t, c, prefix+"meta", "namessplit", "1")
	for i := range 30 {
		hset(t, c, prefix+fmt.Sprint("marks:k", i), "opensplit", "1")
		add(t, w, fmt.Sprint("k", i), at(0, "a"), at(time.Second, "b"))
	}
	return w
}

// Names avoid a bucket of another type, Audit names it, and Repair gives up what it held.
func TestBucketOfNamesOfAnotherType(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	logger, _ := collect()
	cfg := window.Config{Size: time.Second, Lateness: -1, Remember: -1, Logger: logger}
	w := split(t, c, name, cfg)
	prefix := "{" + name + "}:window:"
	for _, set := range []string{"idle", "due", "leases", "dead", "expiry"} {
		for b := 1; b <= 64; b += 2 {
			if err := c.Do(t.Context(), c.B().Set().Key(fmt.Sprintf("%s%s.%d", prefix, set, b)).Value("x").Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 30 {
		add(t, w, fmt.Sprint("k", i), at(2*time.Second, "c"))
	}
	for _, x := range closeDue(t, w, 100) {
		if err := w.Done(t.Context(), x); err != nil {
			t.Error(err)
		}
	}
	if _, err := w.Audit(t.Context()); err == nil || !strings.Contains(err.Error(), "must be zset") {
		t.Errorf("Audit: got %v, want an error that names a bucket", err)
	}
	if _, err := w.Stats(t.Context()); err == nil || !strings.Contains(err.Error(), prefix) {
		t.Errorf("Stats: got %v, want an error that names a bucket", err)
	}
	for range 3 {
		if _, err := w.Repair(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, x := range closeDue(t, w, 100) {
		if err := w.Done(t.Context(), x); err != nil {
			t.Error(err)
		}
	}
	st := balanced(t, w)
	want(t, "events", st.Events, window.EventCounts{Added: 90, Done: 60, Open: 30})
}

// The record of all windows is deleted by hand, and with it the seed of the buckets and the note
// that there are any.
func TestBucketsOfAnotherSeed(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	logger, _ := collect()
	cfg := window.Config{Size: time.Second, Lateness: -1, Remember: -1, Logger: logger}
	split(t, c, name, cfg)
	meta := "{" + name + "}:window:meta"
	if err := c.Do(t.Context(), c.B().Del().Key(meta).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	w := named(t, c, name, cfg)
	hset(t, c, meta, "namessplit", "1")
	seen := map[string]bool{}
	for _, x := range closeDue(t, w, 100) {
		if seen[x.Key] {
			t.Errorf("%s comes twice", x.Key)
		}
		seen[x.Key] = true
		if err := w.Done(t.Context(), x); err != nil {
			t.Error(err)
		}
	}
	want(t, "windows", len(seen), 30)
	want(t, "afterwards", show(closeDue(t, w, 100)...), []string{})
}

// The sets stay in buckets while one of them has a name: from a bucket that is read again after the
// next split, a key would come back with an old time, and its windows would be closed too early.
func TestBucketsAreReadUntilAllAreEmpty(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	logger, _ := collect()
	w := split(t, c, name, window.Config{Size: time.Second, Lateness: 24 * time.Hour, Remember: -1, Logger: logger})
	prefix := "{" + name + "}:window:"
	for b := range 65 { // all windows are at the end of their retention, and no key is idle yet
		key := prefix + "expiry"
		if b > 0 {
			key += fmt.Sprint(".", b)
		}
		members, err := c.Do(t.Context(), c.B().Zrange().Key(key).Min("0").Max("-1").Build()).AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			if err := c.Do(t.Context(), c.B().Zadd().Key(key).ScoreMember().ScoreMember(1, m).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	closeDue(t, w, 1)
	closeDue(t, w, 1) // 50 windows at a time
	if st := balanced(t, w); st.Windows != 0 || st.Keys != 30 {
		t.Errorf("got %d windows and %d keys, want none and the 30 that are not idle yet", st.Windows, st.Keys)
	}
}
