package window_test

import (
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
)

// Each key is overwritten with another type, in turn. A call that fails because of it names the
// key, and no other key changes its type.
func TestWrongTypeNamesTheKey(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	ctx := t.Context()
	marked := 0
	for _, suffix := range []string{
		"meta", "idle", "due", "leases", "dead", "expiry", "late:", "marks:open", "open:open", "slide:sliding",
		"info:" + windowName(0, time.Minute, "due"), "info:" + windowName(0, time.Minute, "open"), "info:" + windowName(0, time.Minute, "dead"),
		"events:" + windowName(0, time.Minute, "due"), "events:" + windowName(0, time.Minute, "open"), "events:" + windowName(0, time.Minute, "dead"),
	} {
		e := newEdited(t, c, 0)
		w := e.w
		add(t, w, "sliding", window.Event{At: time.Now(), Data: "now"})
		open, err := w.OpenWindows(ctx, "open", time.Time{}, 10)
		if err != nil {
			t.Fatal(err)
		}
		dead, _, err := w.DeadWindows(ctx, "", 10)
		if err != nil {
			t.Fatal(err)
		}
		late, _, err := w.Late(ctx, "", 10)
		if err != nil {
			t.Fatal(err)
		}
		key := e.key(suffix)
		if n, err := c.Do(ctx, c.B().Del().Key(key).Build()).AsInt64(); err != nil || n != 1 {
			t.Errorf("%s: got %d, %v, want a key that there is", key, n, err)
		}
		if err := c.Do(ctx, c.B().Rpush().Key(key).Element("x").Build()).Error(); err != nil {
			t.Fatal(err)
		}
		failed := 0
		check := func(call string, err error) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
				return
			}
			failed++
			if !strings.Contains(err.Error(), key) {
				t.Errorf("%s: %s: got %v, want an error that names the key", key, call, err)
			}
		}
		_, err = w.Stats(ctx)
		check("Stats", err)
		_, _, err = w.Late(ctx, "", 10)
		check("Late", err)
		for _, phase := range []window.Phase{window.PhaseOpen, window.PhaseDue, window.PhaseLeased, window.PhaseDead} {
			_, _, err = w.Windows(ctx, phase, "", 10)
			check("Windows of "+string(phase), err)
		}
		_, err = w.OpenWindows(ctx, "open", time.Time{}, 10)
		check("OpenWindows", err)
		_, err = w.ReadOpen(ctx, open[0])
		check("ReadOpen", err)
		_, _, err = w.DeadWindows(ctx, "", 10)
		check("DeadWindows", err)
		_, err = w.ReadDead(ctx, dead[0])
		check("ReadDead", err)
		_, err = w.Count(ctx, "sliding", noon, time.Now())
		check("Count", err)
		_, err = w.Range(ctx, "sliding", noon, time.Now())
		check("Range", err)
		_, _, err = w.RangePage(ctx, "sliding", noon, time.Now(), "", 10)
		check("RangePage", err)
		_, err = w.Last(ctx, "sliding", time.Minute)
		check("Last", err)
		_, err = w.LastCount(ctx, "sliding", time.Minute)
		check("LastCount", err)
		_, err = window.Open(ctx, c, w.Name())
		check("Open", err)
		_, err = window.New(ctx, c, w.Name(), window.Config{Size: time.Minute, Keep: time.Hour})
		check("New", err)
		_, err = w.Add(ctx, "open", at(5, "more"))
		check("Add", err)
		_, err = w.Add(ctx, "sliding", window.Event{At: time.Now(), Data: "more"})
		check("Add to a sliding window", err)
		_, err = w.Add(ctx, "due", at(5, "too late"))
		check("Add of a late event", err)
		check("DiscardLate", w.DiscardLate(ctx, late...))
		check("Extend", w.Extend(ctx, e.leased, time.Hour))
		check("Release", w.Release(ctx, e.leased, window.ReleaseOptions{}))
		check("Done", w.Done(ctx, e.leased))
		_, err = w.Requeue(ctx, dead...)
		check("Requeue", err)
		_, err = w.Discard(ctx, dead...)
		check("Discard", err)
		_, err = w.CloseDue(ctx, 10)
		check("CloseDue", err)
		if _, err := w.Audit(ctx); err != nil && !strings.Contains(err.Error(), key) {
			t.Errorf("%s: Audit: got %v, want an error that names the key", key, err)
		}
		if failed > 0 {
			marked++
		}
		a, err := w.Repair(ctx)
		if err != nil {
			t.Errorf("%s: Repair: %v", key, err)
		}
		if n := strings.Count(strings.Join(a.Differences, "\n"), "type is "); n > 1 || n == 1 && !strings.Contains(strings.Join(a.Differences, "\n"), key) {
			t.Errorf("%s: got %q, want no other key of another type", key, a.Differences)
		}
	}
	if marked < 10 {
		t.Errorf("got %d keys about which a call failed, want 10 or more", marked)
	}
}
