package console_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/headrace/headrace/pipeline/console"
	"github.com/headrace/headrace/queue"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// plan asks what an action will do, and act does it. Both are JSON.
func (r *rig) plan(form url.Values) console.ActionPage {
	r.t.Helper()
	return read[console.ActionPage](r, "do.json?"+form.Encode())
}

func (r *rig) act(form url.Values) console.ActionResult {
	r.t.Helper()
	got := r.request(http.MethodPost, r.base+"do.json", strings.NewReader(form.Encode()))
	var page console.ActionPage
	if err := json.Unmarshal([]byte(got.body), &page); err != nil || got.status != http.StatusOK || page.Result == nil {
		r.t.Fatalf("%v: got %d %s, want that it was done", form, got.status, got.body)
	}
	if page.Result.Error != "" {
		r.t.Fatalf("%v: %s", form, page.Result.Error)
	}
	return *page.Result
}

func (r *rig) stats() queue.Stats {
	r.t.Helper()
	s, err := r.queue.Stats(r.t.Context())
	must(r.t, err)
	return s
}

func actingRig(t *testing.T, log *bytes.Buffer) *rig {
	t.Helper()
	r := newRig(t, rigOptions{})
	r.serve(func(c *console.Config) {
		c.Authorize = allow
		if log != nil {
			c.Logger = slog.New(slog.NewJSONHandler(log, nil))
		}
	})
	return r
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	r := actingRig(t, &log)
	r.push("a1 ok", "a2 ok", "a3 ok")
	if p := r.plan(url.Values{"action": {"pause"}}); p.Plan.Records != 3 || p.Result != nil || r.stats().Paused {
		t.Errorf("got %+v, want a plan about 3 records that changes nothing", p)
	}
	r.act(url.Values{"action": {"pause"}})
	if !r.stats().Paused {
		t.Error("the queue is not paused")
	}
	if o := read[console.Overview](r, "overview.json"); o.Verdict.State != "stuck" || !strings.Contains(o.Verdict.Text, "paused") {
		t.Errorf("got %v, want that the queue is paused", o.Verdict)
	}
	r.act(url.Values{"action": {"resume"}})
	if r.stats().Paused {
		t.Error("the queue is still paused")
	}
	contains(t, log.String(), `"who":"anna"`, `"action":"pause"`, `"action":"resume"`, r.queue.Name())
	if h := read[console.HealthPage](r, "health.json"); len(h.Actions) != 2 || h.Actions[0].Who != "anna" || h.Actions[0].Action.Kind != console.ActionKindResume {
		t.Errorf("got the last actions %+v, want resume and pause by anna", h.Actions)
	}
}

func TestRequeueAndDiscard(t *testing.T) {
	t.Parallel()
	r := actingRig(t, nil)
	r.bury("d0 x", "d1 x", "d2 x", "d3 x", "d4 x", "d5 x")
	letters := read[console.DeadPage](r, "dead.json").Letters
	some := url.Values{"action": {"discard"}, "id": {letters[0].ID, letters[1].ID}}
	if p := r.plan(some); p.Plan.Records != 2 || !p.Plan.Danger {
		t.Errorf("got the plan %+v, want 2 dead letters and a warning", p.Plan)
	}
	if d := r.act(some); d.Records != 2 {
		t.Errorf("discarded %d, want 2", d.Records)
	}
	if d := r.act(some); d.Records != 0 {
		t.Errorf("discarded %d a second time, want 0", d.Records)
	}
	if d := r.act(url.Values{"action": {"requeue"}, "id": {letters[2].ID}}); d.Records != 1 {
		t.Errorf("requeued %d, want 1", d.Records)
	}
	none := url.Values{"action": {"requeue"}, "all": {"1"}, "reason": {"no such reason"}}
	if p, d := r.plan(none), r.act(none); p.Plan.Records != 0 || d.Records != 0 {
		t.Errorf("with another reason: got %d and %d, want 0", p.Plan.Records, d.Records)
	}
	all := url.Values{"action": {"requeue"}, "all": {"1"}}
	if p, d := r.plan(all), r.act(all); p.Plan.Records != 3 || d.Records != 3 {
		t.Errorf("all: got %d and %d, want 3", p.Plan.Records, d.Records)
	}
	if s := r.stats(); s.Dead != 0 || s.Discarded != 2 || s.Requeued != 4 || s.Balanced() != nil {
		t.Errorf("got %+v, want discarded 2 and requeued 4", s)
	}
}

func TestReplayAndResolve(t *testing.T) {
	t.Parallel()
	r := actingRig(t, nil)
	r.push("bad1", "bad2", "bad3", "bad4", "r1 refuse", "r2 refuse")
	r.run()
	rejects := read[console.RejectsPage](r, "rejects.json?code=malformed").Rejects
	slices.SortFunc(rejects, func(a, b console.Reject) int { return strings.Compare(a.Payload.Text, b.Payload.Text) })
	edited := url.Values{"action": {"replay"}, "id": {itoa(rejects[0].ID)}, "edited": {"1"}, "payload": {"bad1 ok"}}
	if p := r.plan(url.Values{"action": {"replay"}, "id": {itoa(rejects[0].ID)}}); p.Plan.Edit == nil || p.Plan.Edit.Text != "bad1" {
		t.Errorf("got the plan %+v, want the payload to edit", p.Plan)
	}
	r.act(edited)
	r.act(url.Values{"action": {"replay"}, "id": {itoa(rejects[1].ID)}, "payload": {"ignored without edited"}})
	got := r.request(http.MethodPost, r.base+"do", strings.NewReader(edited.Encode()))
	if got.status != http.StatusBadRequest || !strings.Contains(got.body, "resolved already") {
		t.Errorf("a second replay: got %d, want 400", got.status)
	}
	r.run()
	rows := map[string]int{}
	for _, id := range []string{"bad1", "bad2"} {
		var n int
		must(t, r.pool.QueryRow(t.Context(), "SELECT count(*) FROM items WHERE id = $1", id).Scan(&n))
		rows[id] = n
	}
	if rows["bad1"] != 1 || rows["bad2"] != 0 {
		t.Errorf("got the rows %v, want bad1 in the table and bad2 rejected again", rows)
	}
	if d := r.act(url.Values{"action": {"resolve"}, "id": {itoa(rejects[2].ID)}}); d.Records != 1 {
		t.Errorf("resolved %d, want 1", d.Records)
	}
	all := url.Values{"action": {"resolve"}, "all": {"1"}, "code": {"refused"}}
	if p, d := r.plan(all), r.act(all); p.Plan.Records != 2 || d.Records != 2 {
		t.Errorf("resolve by code: got %d and %d, want 2", p.Plan.Records, d.Records)
	}
	left := read[console.RejectsPage](r, "rejects.json").Rejects
	if len(left) != 2 {
		t.Errorf("%d rejects are open, want bad4, and bad2 again", len(left))
	}
}

func TestRefreshPromoteReconcileAudit(t *testing.T) {
	t.Parallel()
	r := actingRig(t, nil)
	r.push("a1 ok")
	r.run()
	for _, c := range []struct {
		form url.Values
		unit string
		n    int64
	}{
		{url.Values{"action": {"refresh-view"}}, "views", 1},
		{url.Values{"action": {"refresh-view"}, "name": {"items_by_kind"}}, "views", 1},
		{url.Values{"action": {"refresh-lookup"}, "name": {r.pipe.Lookups[0].Name()}}, "tables", 1},
		{url.Values{"action": {"promote"}}, "batches", 0},
		{url.Values{"action": {"reconcile"}}, "batches", 0},
		{url.Values{"action": {"audit"}}, "batches", 0},
	} {
		if p := r.plan(c.form); p.Plan.Unit != c.unit || p.Plan.Records != c.n {
			t.Errorf("%v: got the plan %+v, want %d %s", c.form, p.Plan, c.n, c.unit)
		}
		r.act(c.form)
	}
	var n int
	must(t, r.pool.QueryRow(t.Context(), "SELECT n FROM items_by_kind").Scan(&n))
	if n != 1 {
		t.Errorf("the view counts %d, want 1", n)
	}
	if d := read[console.TablesPage](r, "tables.json"); d.Lookups[0].Stats == nil || d.Lookups[0].Stats.Entries != 1 {
		t.Errorf("got %+v, want a lookup table with 1 entry", d.Lookups)
	}
	if got := r.request(http.MethodGet, r.base+"do?action=refresh-lookup&name=none", nil); got.status != http.StatusNotFound {
		t.Errorf("another lookup table: got %d, want 404", got.status)
	}
}

func TestAuthorizeDecidesAboutEachAction(t *testing.T) {
	t.Parallel()
	var asked []string
	r := newRig(t, rigOptions{})
	r.serve(func(c *console.Config) {
		c.Authorize = func(_ *http.Request, a console.Action) (string, error) {
			asked = append(asked, fmt.Sprint(a.Kind, a.Pipeline))
			if a.Kind == console.ActionKindPause {
				return "bert", nil
			}
			return "bert", errors.New("bert only pauses")
		}
	})
	r.act(url.Values{"action": {"pause"}})
	got := r.request(http.MethodPost, r.base+"do", strings.NewReader("action=resume"))
	if got.status != http.StatusForbidden || !strings.Contains(got.body, "bert only pauses") || !r.stats().Paused {
		t.Errorf("resume: got %d, paused %v; want 403 with the reason, and that the queue stays paused", got.status, r.stats().Paused)
	}
	if want := []string{"pause" + r.queue.Name(), "resume" + r.queue.Name()}; !slices.Equal(asked, want) {
		t.Errorf("asked about %q, want %q", asked, want)
	}
}

func badConfigurations(t *testing.T, r *rig) {
	for want, change := range map[string]func(*console.Config){
		"Config.Pipelines is empty":                       func(c *console.Config) { c.Pipelines = nil },
		"Config.Pipelines[0].Queue is nil":                func(c *console.Config) { c.Pipelines[0].Queue = nil },
		"Config.Pipelines[0].Redis is nil":                func(c *console.Config) { c.Pipelines[0].Redis = nil },
		"Config.Pipelines[0].Postgres is nil":             func(c *console.Config) { c.Pipelines[0].Postgres = nil },
		`Config.Pipelines[0].Table is ""`:                 func(c *console.Config) { c.Pipelines[0].Table = "" },
		"Config.Pipelines[0].High is -1":                  func(c *console.Config) { c.Pipelines[0].High = -1 },
		"must differ from that of every earlier pipeline": func(c *console.Config) { c.Pipelines = append(c.Pipelines, c.Pipelines[0]) },
		"Config.Interval is 1ns, must be 100ms to 1m0s":   func(c *console.Config) { c.Interval = 1 },
		"Config.Timeout is 1h0m0s, must be 50ms to 10s":   func(c *console.Config) { c.Timeout = 3600e9 },
	} {
		cfg := console.Config{Pipelines: []console.Pipeline{r.pipe}}
		change(&cfg)
		if _, err := console.New(cfg); !errors.Is(err, console.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want ErrConfig with %q", err, want)
		}
	}
	if _, err := console.Open(context.Background(), nil, nil, console.Names{}); !errors.Is(err, console.ErrConfig) {
		t.Errorf("Open without stores: got %v, want ErrConfig", err)
	}
}
