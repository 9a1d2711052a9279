package window_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

// noNumbers are texts that the package never writes where it counts.
var noNumbers = []string{"many", "", "1.5", "9223372036854775807", "1e3", "0x10", " 7", "nan", strings.Repeat("9", 400)}

// edited is a store with a window in each state, of which one is edited.
type edited struct {
	w      *window.Store
	leased window.ClosedWindow
}

// key returns a key of the package.
func (e edited) key(s string) string { return "{" + e.w.Name() + "}:window:" + s }

// newEdited makes one. Each of its sets has more events more.
func newEdited(t *testing.T, c rueidis.Client, more int) edited {
	t.Helper()
	return newEditedNamed(t, c, servertest.Prefix(t), more)
}

func newEditedNamed(t *testing.T, c rueidis.Client, name string, more int) edited {
	t.Helper()
	events := append([]window.Event{at(0, "1"), at(1, "2")}, many(more, time.Second)...)
	late := many(more, time.Second)
	for i := range late {
		late[i].Data = "late " + late[i].Data
	}
	logger, _ := collect()
	e := edited{w: named(t, c, name, window.Config{
		Size: time.Minute, Keep: time.Hour, Lateness: -1, Idle: time.Hour, LeaseDuration: time.Hour, MaxFailures: 1, Logger: logger,
	})}
	for _, key := range []string{"dead", "leased"} {
		add(t, e.w, key, append(slices.Clone(events), at(time.Minute, "3"))...)
	}
	for _, x := range closeDue(t, e.w, 2) {
		if x.Key == "leased" {
			e.leased = x
		} else if err := e.w.Release(t.Context(), x, window.ReleaseOptions{Failure: "no"}); err != nil {
			t.Fatal(err)
		}
	}
	add(t, e.w, "due", append(slices.Clone(events), at(time.Minute, "3"))...)
	add(t, e.w, "due", append(late, at(0, "late"))...)
	add(t, e.w, "open", events...)
	now := time.Now()
	for i := range more {
		late[i] = window.Event{At: now, Data: fmt.Sprint("now ", i)}
	}
	add(t, e.w, "sliding", late[:more]...)
	balanced(t, e.w)
	return e
}

// Whatever someone has written where the package keeps numbers, names and times: only a call about
// that very key fails for good, the neighbours are closed, Audit names the edit, and Repair leaves
// books that balance.
func TestNumbersOverwrittenByHand(t *testing.T) {
	t.Parallel()
	name := func(key string) string { return windowName(0, time.Minute, key) }
	edits := map[string][]string{ // what Audit must name → the command, with keys without their prefix
		"names no window 1": {"ZADD", "due", "1", "garbage"},
		"names no window 2": {"ZADD", "leases", "1", "12 0 zero size"},
		"names no window 3": {"ZADD", "expiry", "1", strings.Repeat("9", 30) + " 60000 far"},
		"names no window 4": {"ZADD", "dead", "1", ""},
		"must be hash 1":    {"SET", "info:" + name("due"), "x"},
		"must be hash 2":    {"SET", "marks:open", "x"},
		"must be zset 1":    {"SET", "open:open", "x"},
		"must be zset 2":    {"SET", "events:" + name("open"), "x"},
		"must be zset 4":    {"SET", "events:" + name("due"), "x"},
		"must be zset 5":    {"SET", "events:" + name("dead"), "x"},
		"must be hash 6":    {"SET", "info:" + name("leased"), "x"},
		"must be zset 3":    {"SET", "slide:open", "x"},
		"score in due":      {"ZADD", "due", "+inf", name("due")},
		"score in leases":   {"ZADD", "leases", "1e300", name("leased")},
		"score in expiry":   {"ZADD", "expiry", "+inf", name("open")},
		"":                  {"ZADD", "open:open", "5", "garbage"},
		" ":                 {"HSET", "marks:open", "newest", "9007199254740991", "floor", "1e3", "size", "many", "sizes", "5:0,99999999999999999999:1,x:y"},
		"  ":                {"ZADD", "late:", "17", "garbage"},
		"   ":               {"ZADD", "late:", "+inf", "watermark 9 9 9 -1 x"},
		"    ":              {"HSET", "meta", "size", "many", "clock", "9007199254740991", "offset", "-5", "latesplit", ""},
		"     ":             {"ZADD", "idle", "-inf", "nobody"},
	}
	for i, state := range []string{"open", "due", "leased", "dead"} {
		for j, field := range []string{"n", "attempt", "failures"} {
			text := noNumbers[(3*i+j)%len(noNumbers)]
			edits[fmt.Sprintf("%s = %.60s", field, text)+strings.Repeat(" ", i)] = []string{"HSET", "info:" + name(state), field, text}
		}
	}
	for i, book := range []string{"added", "open", "due", "leased", "dead", "done", "discarded", "expired"} {
		edits[fmt.Sprintf("%s = \"%.60s", book, noNumbers[i])] = []string{"HSET", "meta", book, noNumbers[i]}
	}
	c := servertest.Redis(t)
	for what, edit := range edits {
		checkEdit(t, c, what, edit, 0)
	}
}

// The same for one of the keys that a large set has.
func TestBucketOfAnotherType(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	for _, key := range []string{"due", "leased", "open"} {
		checkEdit(t, c, "must be zset", []string{"SET", "events.17:" + windowName(0, time.Minute, key), "x"}, 4000)
	}
	checkEdit(t, c, "must be zset", []string{"SET", "slide.17:sliding", "x"}, 4000)
	checkEdit(t, c, "must be zset", []string{"SET", "late.17:", "x"}, 4000)
}

func checkEdit(t *testing.T, c rueidis.Client, what string, edit []string, more int) {
	t.Helper()
	e, ctx := newEdited(t, c, more), t.Context()
	w := e.w
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%.200q: "+format, append([]any{edit}, args...)...)
	}
	key := e.key(edit[1])
	if more > 0 {
		if kind, err := c.Do(ctx, c.B().Type().Key(key).Build()).ToString(); err != nil || kind != "zset" {
			t.Fatalf("%s is a %s, %v, want a set of events", key, kind, err)
		}
	}
	cmd := append([]string{edit[0], key}, edit[2:]...)
	if err := c.Do(ctx, c.B().Arbitrary(cmd...).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	mark := strings.TrimRight(strings.TrimRight(what, " 123456"), " ")
	if a, err := w.Audit(ctx); mark != "" && !strings.Contains(strings.Join(a.Differences, "\n"), mark) {
		fail("Audit reports %q, %v, want one with %q", a.Differences, err, mark)
	}
	about := func(err error) bool { return err != nil && !strings.Contains(err.Error(), "WRONGTYPE") }
	ofLate := strings.HasPrefix(edit[1], "late.") // the calls about late events fail until the repair
	if _, err := w.Stats(ctx); about(err) || err != nil && !ofLate {
		fail("stats: %v", err)
	}
	if late, _, err := w.Late(ctx, "", 100); about(err) || err != nil && !ofLate || err == nil && len(late) < 1 {
		fail("late: got %d events, %v, want 1 or more", len(late), err)
	}
	_, _, err := w.DeadWindows(ctx, "", 100)
	if err != nil {
		fail("dead windows: %v", err)
	}
	if _, err := w.OpenWindows(ctx, "open", time.Time{}, 10); about(err) {
		fail("open windows: %v", err)
	}
	if _, err := w.Add(ctx, "open", at(2, "more")); about(err) {
		fail("add to the open window: %v", err)
	}
	if more > 0 { // some of these go to the bucket that was overwritten
		events, late := many(300, time.Second), many(300, time.Second)
		for i := range events {
			events[i].Data, late[i].Data = "more "+events[i].Data, "too "+late[i].Data
		}
		want(t, "added", add(t, w, "open", events...), window.AddResult{New: 300})
		want(t, "repeated", add(t, w, "open", events...), window.AddResult{Repeated: 300})
		want(t, "late", add(t, w, "due", late...), window.AddResult{Late: 300})
		for i := range events {
			events[i].At = time.Now()
		}
		want(t, "added now", add(t, w, "sliding", events...), window.AddResult{New: 300})
	}
	if err := w.Extend(ctx, e.leased, time.Hour); err != nil && !strings.Contains(err.Error(), "lease lost") {
		fail("extend: %v", err)
	}
	add(t, w, "neighbour", at(0, "1"), at(time.Minute, "2"))
	found := false
	for range 2 { // an edited window may take a place of the first call
		closed, err := w.CloseDue(ctx, 10)
		if err != nil {
			fail("close: %v", err)
		}
		for _, x := range closed {
			found = found || x.Key == "neighbour"
			if err := w.Done(ctx, x); err != nil {
				fail("done: %v", err)
			}
		}
	}
	if !found {
		fail("the neighbour was not closed")
	}
	for range 3 {
		if _, err := w.Repair(ctx); err != nil {
			fail("repair: %v", err)
		}
	}
	a, err := w.Audit(ctx)
	if err != nil || a.Balanced() != nil {
		fail("after the repair: %v, %q", err, a.Differences)
	}
	st, err := w.Stats(ctx)
	if err != nil || st.Balanced() != nil || st.Events.Added < 8 {
		fail("after the repair: %v, %+v", err, st)
	}
	if _, err := w.Add(ctx, "open", at(3, "more yet")); err != nil {
		fail("add after the repair: %v", err)
	}
	if _, _, err := w.Late(ctx, "", 100); err != nil {
		fail("late after the repair: %v", err)
	}
	if _, err := w.Last(ctx, "sliding", time.Hour); err != nil {
		fail("the last hour after the repair: %v", err)
	}
}
