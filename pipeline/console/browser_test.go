package console_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/headrace/headrace/internal/servers"
	"github.com/headrace/headrace/pipeline/console"
	"github.com/headrace/headrace/queue"
)

// browser is a Chromium. It notes what a page should not do: errors in its console, and requests to
// elsewhere.
type browser struct {
	t   *testing.T // the running one
	ctx context.Context

	mu     sync.Mutex
	origin string // of all requests
	faults []string
}

// of begins a test of the console of a rig.
func (b *browser) of(t *testing.T, r *rig) {
	t.Helper()
	b.t = t
	b.run(chromedp.Navigate("about:blank")) // the page of the test before does not load itself again
	b.mu.Lock()
	defer b.mu.Unlock()
	b.origin, b.faults = r.server.URL, nil
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := servers.Browser(t.Context(), func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(time.Minute))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 10*time.Minute) // only detects a hang
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	b := &browser{t: t, ctx: ctx}
	t.Cleanup(func() { _ = chromedp.Cancel(ctx); cancel() })
	chromedp.ListenTarget(ctx, func(event any) {
		switch e := event.(type) {
		case *cdpruntime.EventExceptionThrown:
			b.fault("exception: %v", e.ExceptionDetails)
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError || e.Entry.Level == log.LevelWarning {
				b.fault("%s: %s (%s)", e.Entry.Level, e.Entry.Text, e.Entry.URL)
			}
		case *network.EventRequestWillBeSent:
			b.mu.Lock()
			elsewhere := !strings.HasPrefix(e.Request.URL, b.origin+"/")
			b.mu.Unlock()
			if elsewhere {
				b.fault("request to elsewhere: %s", e.Request.URL)
			}
		}
	})
	b.run(network.Enable(), log.Enable())
	return b
}

func (b *browser) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

// clean fails the test if a page did what it should not do.
func (b *browser) clean(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.faults {
		t.Error(f)
	}
	b.faults = nil
}

func (b *browser) run(actions ...chromedp.Action) {
	b.t.Helper()
	if err := chromedp.Run(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// text returns the text of an element.
func (b *browser) text(selector string) (text string) {
	b.t.Helper()
	b.run(chromedp.Text(selector, &text, chromedp.ByQuery))
	return text
}

// look makes the browser light or dark, and so wide.
func look(width int64, dark bool) chromedp.Action {
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	return chromedp.Tasks{
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
		chromedp.EmulateViewport(width, 900),
	}
}

// shot saves a picture of the page where HEADRACE_SCREENSHOTS names a folder.
func (b *browser) shot(name string) {
	b.t.Helper()
	dir := os.Getenv("HEADRACE_SCREENSHOTS")
	if dir == "" {
		return
	}
	var png []byte
	b.run(chromedp.FullScreenshot(&png, 100))
	must(b.t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
}

// allow lets everyone act.
func allow(*http.Request, console.Action) (string, error) { return "anna", nil }

// busyRig is a pipeline with something on every page, and an hour of history.
func busyRig(t *testing.T) *rig {
	r := newRig(t, rigOptions{})
	r.pipe.Name = "orders"
	r.serve(func(c *console.Config) {
		c.Authorize = allow
		c.Links = []console.Link{{Text: "Grafana", URL: r.server.URL + "/grafana"}}
	})
	for i := range 12 {
		r.push(fmt.Sprintf("a%d ok", i), fmt.Sprintf("r%d refuse", i), fmt.Sprintf("a%d ok", i), fmt.Sprintf("malformed%d", i))
	}
	r.push("p1 poison", "p2 poison", "f1 filter")
	r.run()
	ctx := t.Context()
	if _, err := r.pool.Exec(ctx, `INSERT INTO items_ledger (id, kind, root, root_offset, records, kept, duplicates, filtered, rejected, staged, promoted, worker, attempt, sealed_at, staged_at, committed_at)
		SELECT id, 'promoted', id, 0, n, n - d - f - r, d, f, r, n - d - f - r, n - d - f - r, 'worker-' || 1 + m % 3, 1, at - lag, at - lag * 0.4, at
		FROM (SELECT (lpad(to_hex((extract(epoch FROM at - lag) * 1000)::bigint), 12, '0') || '7' || substr(md5(m::text), 1, 3) || '8' || substr(md5(m::text), 4, 15))::uuid AS id, *
		      FROM (SELECT m, now() - m * interval '47 seconds' AS at, make_interval(secs => 0.2 + 2.5 * abs(sin(m / 9.0)) ^ 6) AS lag,
		                   (9000 + 4000 * sin(m / 8.0))::int AS n, 300 + (m * 37) % 400 AS d, 100 AS f, CASE WHEN m % 11 < 2 THEN 700 ELSE 40 END AS r
		            FROM generate_series(1, 76) m WHERE m NOT BETWEEN 38 AND 41) x) y`); err != nil {
		t.Fatal(err)
	}
	// The queue has acknowledged what the ledger holds.
	var records int64
	must(t, r.pool.QueryRow(ctx, "SELECT sum(records) FROM items_ledger WHERE kind = 'promoted'").Scan(&records))
	stat := "{" + r.queue.Name() + "}:queue:stat"
	more := records - r.stats().Acked
	for _, field := range []string{"taken", "acked"} {
		must(t, r.redis.Do(ctx, r.redis.B().Hincrby().Key(stat).Field(field).Increment(more).Build()).Error())
	}
	for i := range 400 {
		r.push(fmt.Sprintf(`b%d {"order": %d, "note": "<b>wait</b>"}`, i, 70_000+i))
	}
	must(t, r.queue.PushAt(ctx, time.Now().Add(time.Hour), []byte("later ok")))
	for range 3 {
		b, err := r.queue.TryLease(ctx, queue.LeaseOptions{Records: 40, Duration: time.Hour})
		must(t, err)
		if b.Attempt == 1 && r.stats().HandedOffBatches == 0 {
			must(t, r.queue.Handoff(ctx, b))
		}
	}
	now := time.Now()
	started := now.Add(-41 * time.Minute)
	for at := started; at.Before(now.Add(-20 * time.Second)); at = at.Add(10 * time.Second) {
		x := at.Sub(started).Minutes()
		s := queue.Stats{Ready: int64(420 + 300*math.Sin(x/4)), InFlight: int64(160 + 40*math.Sin(x*3)), Taken: int64(x * 10_000), Acked: int64(x * 10_000)}
		if x > 20 && x < 24 {
			continue
		}
		r.handler.Sample(started, at, s)
	}
	return r
}

// pageNames are the pages of a pipeline.
var pageNames = []string{"", "queue", "dead", "rejects", "find?id=r1", "batches", "tables", "health", "do?action=pause", "../../"}

// audit looks for what makes a page hard to use: an equal of the rules of axe that apply here.
const audit = `(() => {
  const faults = [];
  const name = (e) => (e.getAttribute("aria-label") || e.textContent || e.title || "").trim();
  for (const e of document.querySelectorAll("a[href], button")) if (!name(e)) faults.push("without a name: " + e.outerHTML.slice(0, 80));
  for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea")) if (!e.labels.length && !e.getAttribute("aria-label")) faults.push("without a label: " + e.outerHTML.slice(0, 80));
  for (const t of document.querySelectorAll("table")) {
    if (!t.caption) faults.push("a table without a caption");
    for (const r of t.tBodies[0].rows) if (!r.querySelector("th[scope=row]")) faults.push("a row without a header: " + r.textContent.slice(0, 60));
    for (const h of t.querySelectorAll("thead th")) if (h.scope !== "col" || !name(h)) faults.push("a column without a header");
  }
  for (const e of document.querySelectorAll("[role=region]")) if (!name(e)) faults.push("a region without a name");
  for (const e of document.querySelectorAll("svg[role=img]")) if (!e.getAttribute("aria-label")) faults.push("a chart without a text");
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push("an id twice: " + id);
  for (const e of document.querySelectorAll("[aria-labelledby]")) if (!document.getElementById(e.getAttribute("aria-labelledby"))) faults.push("labelled by nothing");
  if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
  if (document.querySelectorAll("main").length !== 1 || !document.querySelector("header")) faults.push("landmarks are missing");
  if (!document.documentElement.lang || !document.title) faults.push("no language or title");
  let level = 1;
  for (const e of document.querySelectorAll("h1, h2, h3")) { const l = +e.tagName[1]; if (l > level + 1) faults.push("a heading too deep: " + e.textContent); level = l; }
  const rgb = (c) => c.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => { const f = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n; n = walker.nextNode();) {
    const e = n.parentElement;
    if (!n.data.trim() || e.closest("svg, script, datalist, .hidden, .skip, [hidden]") || !e.checkVisibility()) continue;
    const a = light(rgb(getComputedStyle(e).color)), b = light(behind(e));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faults.push("contrast " + contrast.toFixed(1) + ": " + n.data.trim().slice(0, 40));
  }
  return faults;
})()`

// patience only detects a hang.
var patience = chromedp.WithPollingTimeout(5 * time.Minute)

// sideways reports whether a page is wider than the window.
const sideways = `document.documentElement.scrollWidth > document.documentElement.clientWidth`

// TestInABrowser runs one browser through all of the console.
func TestInABrowser(t *testing.T) {
	b := newBrowser(t)
	t.Run("each page", func(t *testing.T) { eachPage(t, b) })
	t.Run("by keyboard", func(t *testing.T) { byKeyboard(t, b) })
	t.Run("a record from push to row", func(t *testing.T) { pushToRow(t, b) })
	t.Run("without script", func(t *testing.T) { withoutScript(t, b) })
}

// eachPage looks at each page, light and dark, on a phone and on a wall, while a load runs.
func eachPage(t *testing.T, b *browser) {
	r := busyRig(t)
	defer r.startLoad().stop() // after the figures of the rig
	b.of(t, r)
	r.fillWindows(3)
	for _, name := range append(slices.Clone(pageNames), "tables?window="+url.QueryEscape(r.windows.Name())) {
		b.run(look(1280, false), chromedp.Navigate(r.base+name), chromedp.WaitVisible("h1", chromedp.ByQuery))
		file := "console-" + strings.NewReplacer(url.QueryEscape(r.windows.Name()), "", "?", "-", "=", "-", "../../", "index").Replace(name)
		for _, l := range []struct {
			name  string
			width int64
			dark  bool
		}{{"light", 1280, false}, {"dark", 1280, true}, {"narrow", 360, false}, {"wide", 2560, true}} {
			var faults []string
			var wide bool
			b.run(look(l.width, l.dark), chromedp.Evaluate(audit, &faults), chromedp.Evaluate(sideways, &wide))
			if len(faults) > 0 || wide {
				t.Errorf("page %q, %s: wider than the window %v, faults:\n%s", name, l.name, wide, strings.Join(faults, "\n"))
			}
			b.shot(file + "-" + l.name)
		}
	}
	b.clean(t)
}

// byKeyboard goes through pages with the Tab key. The focus visits what can be used in the order in
// which a reader meets it, and is visible there.
func byKeyboard(t *testing.T, b *browser) {
	r := newRig(t, rigOptions{})
	r.pipe.Name = "orders"
	r.push("a1 ok", "r1 refuse", "p1 poison")
	r.run()
	r.serve(func(c *console.Config) { c.Authorize = allow })
	b.of(t, r)
	const usable = `[...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, [tabindex='0']")].filter((e) => !e.disabled && e.checkVisibility())`
	for _, page := range []string{"", "dead", "rejects", "do?action=pause"} {
		var all int
		b.run(look(1280, false), chromedp.Navigate(r.base+page), chromedp.WaitVisible("h1", chromedp.ByQuery), chromedp.Evaluate(usable+".length", &all))
		visited := make([]int, 0, all)
		for range min(all, 30) {
			var at struct {
				Place   int
				Outline bool
				Text    string
			}
			b.run(chromedp.KeyEvent(kb.Tab), chromedp.Evaluate(`(() => {
				const e = document.activeElement, s = getComputedStyle(e), box = e.getBoundingClientRect();
				return {Place: `+usable+`.indexOf(e), Outline: s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 && box.right > 0 && box.bottom > 0, Text: e.outerHTML.slice(0, 80)};
			})()`, &at))
			if !at.Outline {
				t.Errorf("page %q: the focus is not to be seen at %s", page, at.Text)
			}
			visited = append(visited, at.Place)
		}
		if !slices.IsSorted(visited) || len(visited) == 0 || visited[0] != 0 || visited[len(visited)-1] < len(visited)-1 {
			t.Errorf("page %q: the focus visits %v of %d, want each in its order", page, visited, all)
		}
	}
	var skipped bool
	b.run(chromedp.Navigate(r.base), chromedp.WaitVisible("h1", chromedp.ByQuery), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter),
		chromedp.Evaluate(`document.activeElement.id === "main"`, &skipped))
	if !skipped {
		t.Error("the first link does not lead to the content")
	}
	b.clean(t)
}

// pushToRow follows records through the console during a load, while they are pushed, rejected,
// corrected in the browser and promoted, and does each action on the way.
func pushToRow(t *testing.T, b *browser) {
	r := newRig(t, rigOptions{})
	r.pipe.Name = "orders"
	r.serve(func(c *console.Config) { c.Authorize = allow })
	l := r.startLoad()
	defer l.stop()
	b.of(t, r)
	open := func(page string) {
		t.Helper()
		b.run(chromedp.Navigate(r.base+page), chromedp.WaitVisible("h1", chromedp.ByQuery))
	}
	click := func(selector string) {
		t.Helper()
		_, err := chromedp.RunResponse(b.ctx, chromedp.Click(selector, chromedp.ByQuery))
		must(t, err)
	}
	confirm := func(touches, want string) {
		t.Helper()
		contains(t, b.text(".touches"), touches)
		click("main form button")
		contains(t, b.text(".verdict.ok"), want)
	}
	poll := func(part, want string) { // the script loads the page again
		t.Helper()
		b.run(chromedp.Poll(fmt.Sprintf(`document.querySelector("[data-live=%s]").textContent.includes(%q)`, part, want), nil, patience))
	}

	open("queue")
	click(`a[href="do?action=pause"]`)
	confirm("record", "The queue is paused.")
	eventually(t, func() error { // the producer fills the queue up, and no worker leases
		if s := r.stats(); s.Ready < loadDepth || s.LeasedBatches > 0 {
			return fmt.Errorf("got %+v, want a full queue and no leases", s)
		}
		return nil
	})
	r.push("order-16 odd", "order-17 odd", "order-18 poison", "order-19 poison")
	open("find?id=order-17")
	contains(t, b.text("[data-live=found]"), "ready", "Before it")
	open("queue")
	poll("figures", "paused")
	contains(t, b.text("[data-live=head]"), "load-")
	click(`a[href="do?action=resume"]`)
	confirm("record", "The queue is resumed.")
	open("dead")
	poll("count", "2 dead letters")

	rejects := make(map[string]int64)
	eventually(t, func() error {
		for _, reject := range read[console.RejectsPage](r, "rejects.json?code=odd").Rejects {
			rejects[reject.Key] = reject.ID
		}
		if len(rejects) != 2 {
			return fmt.Errorf("got the rejects %v, want both orders", rejects)
		}
		return nil
	})
	open("rejects?code=odd")
	click(fmt.Sprintf("a[href='rejects?id=%d']", rejects["order-17"]))
	contains(t, b.text("main pre"), "order-17 odd")
	click(`a[href^="do?action=replay"]`)
	b.run(chromedp.SetValue("textarea", "order-17 ok", chromedp.ByQuery), chromedp.Click("input[type=checkbox][name=edited]", chromedp.ByQuery))
	confirm("1 reject", "The record was pushed into the queue, and the reject is resolved.")
	open("rejects?code=odd")
	b.run(chromedp.Click(fmt.Sprintf("input[name=id][value='%d']", rejects["order-16"]), chromedp.ByQuery))
	click(`button[value=resolve]`)
	confirm("1 reject", "1 reject was resolved.")

	open("dead?reason=order-18")
	b.run(chromedp.Click("tbody input[type=checkbox]", chromedp.ByQuery))
	click(`button[value=discard]`)
	contains(t, b.text(".touches"), "This cannot be undone.")
	confirm("1 dead letter", "1 dead letter was discarded.")
	open("dead?reason=order-19")
	click("tbody th a")
	click(`a[href^="do?action=requeue"]`)
	confirm("1 dead letter", "1 dead letter was requeued.")
	for _, a := range []struct{ page, link, touches, want string }{
		{"tables", "refresh-lookup", "1 table", "1 entry is current."},
		{"tables", "refresh-view", "1 view", "The refresh took"},
		{"queue", "promote", "batch", "promoted."},
		{"queue", "reconcile", "batch", "were compared with the table."},
		{"queue", "audit", "batch", "0 differences from the books."},
	} {
		open(a.page)
		click(fmt.Sprintf("a[href^='do?action=%s']", a.link))
		confirm(a.touches, a.want)
	}
	l.stop()
	r.run()

	var kind string
	var rows int
	must(t, r.pool.QueryRow(t.Context(), "SELECT kind, (SELECT count(*) FROM items) FROM items WHERE id = 'order-17'").Scan(&kind, &rows))
	if want := l.rows + 1; kind != "ok" || rows != want {
		t.Errorf("got the kind %q and %d rows, want the corrected one and %d: those of the load and one more", kind, rows, want)
	}
	q := r.stats()
	if want := int64(l.pushed) + 3; q.Acked != want || q.Dead != 1 || q.Discarded != 1 || q.Balanced() != nil {
		t.Errorf("got %+v (%v), want %d acknowledged, one dead and one discarded", q, q.Balanced(), want)
	}
	open("")
	poll("books", "discarded 1")
	poll("verdict", "Nothing is lost and nothing is stuck.")
	open("dead")
	contains(t, b.text("tbody"), "order-19")
	open("find?id=order-17")
	contains(t, b.text("main"), "promoted", "order-17")
	b.clean(t)
}

// withoutScript loads each page with JavaScript switched off.
func withoutScript(t *testing.T, b *browser) {
	r := newRig(t, rigOptions{})
	r.push("a1 ok", "a2 refuse")
	r.run()
	b.of(t, r)
	b.run(emulation.SetScriptExecutionDisabled(true))
	for name, want := range map[string]string{"": "Nothing is lost", "rejects": "refused", "batches": "promoted", "health": "Redis version"} {
		b.run(chromedp.Navigate(r.base + name))
		var html string
		b.run(chromedp.OuterHTML("main", &html, chromedp.ByQuery))
		contains(t, html, want)
	}
	b.clean(t)
}
