package console_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline/console"
	"github.com/headrace/headrace/window"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// fillWindows adds windows of so many keys: one that is open and one that is due for each, with a
// late event that missed it. One more is held by a closer, and one more is dead.
func (r *rig) fillWindows(keys int) {
	r.t.Helper()
	ctx := r.t.Context()
	add := func(key string, events ...window.Event) {
		r.t.Helper()
		_, err := r.windows.Add(ctx, key, events...)
		must(r.t, err)
	}
	closed := func(key string) {
		r.t.Helper()
		add(key, window.Event{At: noon, Data: "a"}, window.Event{At: noon.Add(time.Second), Data: "b"}, window.Event{At: noon.Add(time.Minute), Data: "c"})
	}
	closed(fmt.Sprint("held ", keys))
	closed(fmt.Sprint("dead ", keys))
	taken, err := r.windows.CloseDue(ctx, 2)
	must(r.t, err)
	for _, w := range taken {
		if strings.HasPrefix(w.Key, "dead") {
			must(r.t, r.windows.Release(ctx, w, window.ReleaseOptions{Failure: "no <b>warehouse</b>\x1b"}))
		}
	}
	for i := range keys {
		key := fmt.Sprintf("k%03d <i>\xff", i)
		closed(key)
		add(key, window.Event{At: noon.Add(2 * time.Second), Data: fmt.Sprintf("late %03d <i>", i)})
	}
}

func (r *rig) window(name, more string) *console.WindowDetail {
	r.t.Helper()
	d := read[console.TablesPage](r, "tables.json?window="+url.QueryEscape(name)+more)
	if len(d.Warnings) > 0 || d.Window == nil || d.Window.Name != name {
		r.t.Fatalf("%s: got %+v with the warnings %v, want the windows", more, d.Window, d.Warnings)
	}
	return d.Window
}

// keysOf pages through a list.
func (r *rig) keysOf(name, list string) (keys []string) {
	r.t.Helper()
	for after := ""; len(keys) < 1000; {
		d, next := r.window(name, "&list="+list+"&after="+after), ""
		for _, l := range d.Lists {
			for _, w := range l.Windows {
				keys = append(keys, w.Key)
			}
			next = l.Next
		}
		if d.Late != nil {
			for _, e := range d.Late.Events {
				keys = append(keys, e.Payload.Text)
			}
			next = d.Late.Next
		}
		if after = next; after == "" {
			break
		}
	}
	slices.Sort(keys)
	return keys
}

// A store of windows is shown whether the console has it or only its name.
func TestWindowsAreListedAndPaged(t *testing.T) {
	t.Parallel()
	const keys = 60 // more than one page
	r := newRig(t, rigOptions{})
	r.fillWindows(keys)
	name := r.windows.Name()
	byNames, err := console.Open(t.Context(), r.redis, r.pool, console.Names{Queue: r.queue.Name(), Table: "items", Windows: []string{name, name + "-none"}})
	must(t, err)
	var open, due, late []string
	for i := range keys {
		due = append(due, fmt.Sprintf(`k%03d <i>\xff`, i))
		late = append(late, fmt.Sprintf("late %03d <i>", i))
	}
	open = append(slices.Clone(due), "dead 60", "held 60")
	slices.Sort(open)
	for _, p := range []console.Pipeline{r.pipe, byNames} {
		r.pipe = p
		r.serve(nil)
		d := read[console.TablesPage](r, "tables.json")
		if s := d.Windows[0].Stats; s == nil || s.Due != keys || s.Leased != 1 || s.Dead != 1 || s.Late != keys || d.Windows[0].Imbalance != "" {
			t.Errorf("got %+v, want the counts of the windows", d.Windows[0])
		}
		for list, want := range map[string][]string{"open": open, "due": due, "leased": {"held 60"}, "dead": {"dead 60"}, "late": late} {
			if got := r.keysOf(name, list); !slices.Equal(got, want) {
				t.Errorf("the list %s: got %d of %q, want %d", list, len(got), got, len(want))
			}
		}
		all := r.window(name, "")
		if len(all.Lists) != 4 || len(all.Lists[3].Windows) != 20 || all.Late == nil || len(all.Late.Events) != 20 || all.Late.Next == "" {
			t.Fatalf("got %+v, want the first 20 of each list", all)
		}
		if w := all.Lists[1].Windows[0]; !w.Start.Equal(noon) || !w.End.Equal(noon.Add(time.Minute)) || w.Events != 2 || w.Reason != window.ReasonWatermark {
			t.Errorf("got %+v, want the window of noon with 2 events", w)
		}
		if w := all.Lists[0].Windows[0]; w.Failures != 1 || w.Failure != `no <b>warehouse</b>\x1b` {
			t.Errorf("got %+v, want the failure with its escape", w)
		}
		if e := all.Late.Events[0]; e.Start == nil || !e.Start.Equal(noon) || e.End == nil || !e.At.Equal(noon.Add(2*time.Second)) {
			t.Errorf("got %+v, want the window that it missed", e)
		}
		contains(t, r.get("tables"), `href="tables?window=`+url.QueryEscape(name)+`"`)
		contains(t, r.get("tables?window="+url.QueryEscape(name)), "k000 &lt;i&gt;", "late 000 &lt;i&gt;", "2026-01-02 12:00:00.000 UTC to 2026-01-02 12:01:00.000 UTC",
			"no &lt;b&gt;warehouse&lt;/b&gt;", "list=late&amp;after=")
	}
	// The other name is not used yet, and then it is.
	if d := r.window(name+"-none", ""); !d.Missing || d.Stats != nil || len(d.Lists) != 0 {
		t.Errorf("got %+v, want that the windows are missing", d)
	}
	contains(t, r.get("tables?window="+url.QueryEscape(name+"-none")), "No program has used this name yet")
	contains(t, r.get("tables"), "not used yet")
	_, err = window.New(t.Context(), r.redis, name+"-none", window.Config{Size: time.Minute})
	must(t, err)
	eventually(t, func() error {
		if d := r.window(name+"-none", ""); d.Missing || len(d.Lists) != 4 {
			return fmt.Errorf("got %+v, want empty lists", d)
		}
		return nil
	})
	for query, want := range map[string]int{"?window=nothing": 404, "?window=" + name + "&list=done": 400, "?window=" + name + "&list=late&after=*": 400, "?window=" + name + "&list=late&after=eA": 400, "?window=" + name + "&after=eA": 400} {
		if got := r.request(http.MethodGet, r.base+"tables"+query, nil); got.status != want {
			t.Errorf("%s: got %d, want %d\n%s", query, got.status, want, got.body)
		}
	}
	r.serve(func(c *console.Config) { c.HidePayloads = true })
	if e := r.window(name, "&list=late").Late.Events[0]; !e.Payload.Hidden || e.Payload.Text != "" || e.Payload.Bytes != 12 {
		t.Errorf("got %+v, want the payload hidden", e.Payload)
	}
	if _, err := console.Open(t.Context(), r.redis, r.pool, console.Names{Queue: name, Table: "items", Windows: []string{"a{b"}}); !errors.Is(err, window.ErrConfig) {
		t.Errorf("a bad name: got %v, want ErrConfig", err)
	}
}
