package console_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/pipeline/console"
	"github.com/headrace/headrace/queue"
)

func TestOverviewAccountsForEachRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.push("a1 ok", "a2 ok", "a1 ok", "a3 filter", "a4 refuse", "a5 poison", "malformed")
	r.run()
	r.push("b1 ok", "b2 ok")
	var o console.Overview
	eventually(t, func() error { // the stores are compared when two readings are the same
		o = read[console.Overview](r, "overview.json")
		if o.Note != "" {
			return fmt.Errorf("the stores are not compared: %s", o.Note)
		}
		return nil
	})
	if len(o.Warnings) != 0 || o.Verdict.State != "ok" {
		t.Errorf("got warnings %v and verdict %v, want none and ok", o.Warnings, o.Verdict)
	}
	got := map[string]string{}
	for _, l := range o.Books {
		got[l.Name] = l.Sum
		if l.Imbalance != 0 {
			t.Errorf("the line %s is off by %d", l.Name, l.Imbalance)
		}
	}
	for name, want := range map[string]string{
		"Redis":    "taken 7 = acked 6 + in flight 0 + dead 1 + discarded 0",
		"Postgres": "records 6 = kept 2 + duplicates 1 + filtered 1 + rejected 2",
		"rows":     "rows of the kept 2 = promoted 2 + conflicts 0 + rejected by a rule 0",
		"between":  "committed 6 = acked 6 + committed and not yet acked 0",
	} {
		if got[name] != want {
			t.Errorf("the line %s: got %q, want %q", name, got[name], want)
		}
	}
	if o.Queue.Ready != 2 || o.Queue.Dead != 1 {
		t.Errorf("got ready %d and dead %d, want 2 and 1", o.Queue.Ready, o.Queue.Dead)
	}
	var kept, rejected int64
	for _, m := range o.Minutes {
		kept, rejected = kept+m.Kept, rejected+m.Rejected
	}
	if kept != 2 || rejected != 2 {
		t.Errorf("throughput: got kept %d and rejected %d, want 2 and 2", kept, rejected)
	}
	codes := map[string]int64{}
	for _, c := range o.Codes {
		codes[c.Code] = c.Open
	}
	if codes["refused"] != 1 || codes["malformed"] != 1 {
		t.Errorf("rejects by code: got %v, want refused 1 and malformed 1", codes)
	}
	contains(t, r.get(""), "Nothing is lost and nothing is stuck.", "taken 7 = acked 6 &#43; in flight 0", "<data value=\"2\"")
}

func TestBooksAreTheSameOverTheWholeLedger(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.push("a1 ok", "a2 refuse")
	r.run()
	// An old batch: it is in the part that is summed once.
	if _, err := r.pool.Exec(t.Context(), `INSERT INTO items_ledger (id, kind, root, root_offset, records, kept, staged, promoted, sealed_at, committed_at)
		VALUES (gen_random_uuid(), 'promoted', gen_random_uuid(), 0, 5, 5, 5, 5, now() - interval '3 days', now() - interval '3 days')`); err != nil {
		t.Fatal(err)
	}
	for range 2 { // of the second reading the old part is not summed again
		o := read[console.Overview](r, "overview.json")
		if i := slices.IndexFunc(o.Books, func(l console.BookLine) bool { return l.Name == "Postgres" }); i < 0 ||
			o.Books[i].Sum != "records 7 = kept 6 + duplicates 0 + filtered 0 + rejected 1" {
			t.Errorf("got %v, want 7 records", o.Books)
		}
	}
}

func TestUnbalancedBooksAreTheVerdict(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.push("a1 ok", "a2 ok")
	r.run()
	if err := r.redis.Do(t.Context(), r.redis.B().Hincrby().Key("{"+r.queue.Name()+"}:queue:stat").Field("acked").Increment(-1).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	o := read[console.Overview](r, "overview.json")
	if o.Verdict.State != "lost" {
		t.Errorf("got %v, want lost", o.Verdict)
	}
	contains(t, r.get(""), `class="verdict lost"`, "off by 1")
}

func TestAStuckPromotionIsTheVerdict(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	if _, err := r.pool.Exec(t.Context(), "UPDATE items_control SET failed_since = now() - interval '5 minutes', failures = 7, failure = 'disk full <b>'"); err != nil {
		t.Fatal(err)
	}
	o := read[console.Overview](r, "overview.json")
	if o.Verdict.State != "stuck" || len(o.Stalls) != 1 || o.Stalls[0].Failures != 7 {
		t.Errorf("got %v with stalls %v, want stuck with 7 failures", o.Verdict, o.Stalls)
	}
	contains(t, r.get(""), "promoting", "7 failures", "disk full &lt;b&gt;")
}

func TestQueueShowsWhereItsRecordsAre(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	ctx := t.Context()
	r.push("h1 ok", "l1 ok", "l2 ok", "w1 ok", "r1 ok", "r2 ok")
	must(t, r.queue.PushAt(ctx, time.Now().Add(time.Hour), []byte("d1 ok"), []byte("d2 ok")))
	lease := func(n int) *queue.Batch {
		b, err := r.queue.TryLease(ctx, queue.LeaseOptions{Records: n, Duration: time.Hour})
		must(t, err)
		return b
	}
	handed := lease(1)
	must(t, r.queue.Handoff(ctx, handed))
	leased := lease(2)
	waits := lease(1)
	must(t, r.queue.Release(ctx, waits, queue.ReleaseOptions{Delay: time.Hour, Failure: "it\x1b[31m broke"}))
	q := read[console.QueuePage](r, "queue.json")
	for _, c := range []struct {
		name    string
		set     console.BatchSet
		id      string
		records int64
	}{{"leased", q.Batches.Leased, leased.ID, 2}, {"waiting", q.Batches.Waiting, waits.ID, 1}, {"handed off", q.Batches.HandedOff, handed.ID, 1}} {
		if c.set.Total != 1 || len(c.set.Batches) != 1 || c.set.Batches[0].ID != c.id || c.set.Batches[0].Records != c.records || c.set.Batches[0].Attempt != 1 {
			t.Errorf("%s: got %+v, want batch %s with %d records", c.name, c.set, c.id, c.records)
		}
	}
	if w := q.Batches.Waiting.Batches; len(w) == 1 && w[0].Reason != `it\x1b[31m broke` {
		t.Errorf("got the reason %q, want the escape visible", w[0].Reason)
	}
	if len(q.Batches.Delayed) != 1 || q.Batches.Delayed[0].Records != 2 || q.Batches.Delayed[0].Left <= 0 {
		t.Errorf("got the delayed pushes %+v, want one of 2 records that is not due", q.Batches.Delayed)
	}
	var head []string
	for _, p := range q.Head {
		head = append(head, p.Text)
	}
	if !slices.Equal(head, []string{"r1 ok", "r2 ok"}) {
		t.Errorf("got the head %q, want r1 and r2", head)
	}
	s, err := r.queue.Stats(ctx)
	must(t, err)
	if s.Ready != 2 || s.LeasedBatches != 1 || s.WaitingBatches != 1 || s.HandedOffBatches != 1 {
		t.Errorf("the pages changed the queue: %+v", s)
	}
}

// bury puts records into the dead-letter list.
func (r *rig) bury(records ...string) {
	r.t.Helper()
	ctx := r.t.Context()
	r.push(records...)
	for range records {
		b, err := r.queue.TryLease(ctx, queue.LeaseOptions{Records: 1})
		must(r.t, err)
		must(r.t, r.queue.Settle(ctx, b, queue.Resolution{}))
	}
}

func TestDeadLettersPageAndFilter(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	var records []string
	for i := range 120 {
		records = append(records, fmt.Sprintf("d%03d <i>", i))
	}
	r.bury(records...)
	var seen []string
	after := ""
	for range 3 {
		d := read[console.DeadPage](r, "dead.json?after="+url.QueryEscape(after))
		for _, l := range d.Letters {
			seen = append(seen, l.Payload.Text)
		}
		after = d.Next
	}
	if after != "" {
		t.Errorf("got the cursor %q after the last page, want none", after)
	}
	slices.Sort(seen)
	if !slices.Equal(seen, records) {
		t.Errorf("three pages have %d letters, want each of %d once", len(seen), len(records))
	}
	d := read[console.DeadPage](r, "dead.json?reason=nothing+like+it")
	if len(d.Letters) != 0 {
		t.Errorf("got %d letters with another reason, want 0", len(d.Letters))
	}
	d = read[console.DeadPage](r, "dead.json")
	one := read[console.DeadPage](r, "dead.json?id="+d.Letters[0].ID)
	if one.Letter == nil || one.Letter.Payload.Text != d.Letters[0].Payload.Text {
		t.Errorf("got %+v, want the letter %s", one.Letter, d.Letters[0].ID)
	}
	contains(t, r.get("dead"), "d119 &lt;i&gt;", "Older")
}

func TestRejectsPageAndFilter(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	var records []string
	for i := range 70 {
		records = append(records, fmt.Sprintf("r%02d refuse", i))
	}
	r.push(append(records, "malformed")...)
	r.run()
	first := read[console.RejectsPage](r, "rejects.json?code=refused")
	second := read[console.RejectsPage](r, fmt.Sprintf("rejects.json?code=refused&before=%d", first.Next))
	if len(first.Rejects) != 50 || len(second.Rejects) != 20 || second.Next != 0 {
		t.Errorf("got %d and %d rejects and the cursor %d, want 50, 20 and 0", len(first.Rejects), len(second.Rejects), second.Next)
	}
	x := first.Rejects[0]
	if x.Code != "refused" || x.Payload.Text != x.Key+" refuse" || x.Reason != "as "+x.Key+" asked" {
		t.Errorf("got %+v, want its own payload and reason", x)
	}
	for query, want := range map[string]int{"code=malformed": 1, "source=rule": 0, "within=1h&code=malformed": 1, "code=none": 0} {
		if got := read[console.RejectsPage](r, "rejects.json?"+query); len(got.Rejects) != want {
			t.Errorf("%s: got %d rejects, want %d", query, len(got.Rejects), want)
		}
	}
	if found := r.find("r07"); len(found) != 1 || found[0].Location != "rejected" || found[0].Code != "refused" {
		t.Errorf("find r07: got %+v, want its reject", found)
	}
	b := read[console.BatchesPage](r, "batches.json?id="+x.Batch)
	if b.Batch == nil || !b.Batch.Balanced() || b.Batch.Worker != "worker-1" || len(b.Rejects) == 0 {
		t.Errorf("got the batch %+v with %d rejects, want a balanced one of worker-1", b.Batch, len(b.Rejects))
	}
}

// place is a place of a record, as its JSON has it.
type place struct {
	Location string `json:"location"`
	Batch    string `json:"batch"`
	Code     string `json:"code"`
	Worker   string `json:"worker"`
	Row      string `json:"row"`
	Position int    `json:"position"`
}

func (r *rig) find(id string) []place {
	r.t.Helper()
	return read[struct {
		Found struct {
			Places []place `json:"places"`
		} `json:"found"`
	}](r, "find.json?id="+url.QueryEscape(id)).Found.Places
}

// TestFindFollowsARecord looks for records in each place, by the flow and by names alone.
func TestFindFollowsARecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.push("a1 ok", "a2 refuse", "a3 poison")
	r.run()
	r.push("a4 ok", "a5 ok")
	b, err := r.queue.TryLease(t.Context(), queue.LeaseOptions{Records: 1, Duration: time.Hour, Worker: "worker-7"})
	must(t, err)
	byNames, err := console.Open(t.Context(), r.redis, r.pool, console.Names{Queue: r.queue.Name(), Table: r.pipe.Table})
	must(t, err)
	for _, p := range []console.Pipeline{r.pipe, byNames} {
		r.pipe = p
		r.serve(nil)
		for id, want := range map[string]string{"a1": "promoted", "a2": "rejected", "a3": "dead", "a4": "leased", "a5": "ready", b.ID: "leased"} {
			found := r.find(id)
			if len(found) != 1 || found[0].Location != want {
				t.Errorf("find %s: got %+v, want it %s", id, found, want)
				continue
			}
			if id == "a1" && !strings.Contains(found[0].Row, `"ok"`) {
				t.Errorf("find a1: got the row %q, want it", found[0].Row)
			}
			if id == "a4" && (found[0].Worker != "worker-7" || found[0].Batch != b.ID) {
				t.Errorf("find a4: got %+v, want batch %s of worker-7", found[0], b.ID)
			}
			contains(t, r.get("find?id="+url.QueryEscape(id)), "<h2>"+want)
		}
		if found := r.find("none"); len(found) != 0 {
			t.Errorf("find none: got %+v, want nothing", found)
		}
	}
	if q := read[console.QueuePage](r, "queue.json"); len(q.Batches.Leased.Batches) != 1 || q.Batches.Leased.Batches[0].Worker != "worker-7" {
		t.Errorf("got the leased batches %+v, want one of worker-7", q.Batches.Leased.Batches)
	}
}

func TestTablesAndHealth(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	d := read[console.TablesPage](r, "tables.json")
	if len(d.Views) != 1 || d.Views[0].View != "items_by_kind" || !d.Views[0].Populated {
		t.Errorf("got the views %+v, want items_by_kind, populated", d.Views)
	}
	if len(d.Windows) != 1 || d.Windows[0].Stats == nil || d.Windows[0].Imbalance != "" {
		t.Errorf("got the windows %+v, want one that balances", d.Windows)
	}
	// The lookup table was never loaded: that is a warning and not a failure of the page.
	if len(d.Lookups) != 1 || d.Lookups[0].Stats != nil || len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0].Part, "-products") {
		t.Errorf("got the lookups %+v and warnings %+v, want a warning for the table that was never loaded", d.Lookups, d.Warnings)
	}
	h := read[console.HealthPage](r, "health.json")
	names := map[string]bool{}
	for _, c := range h.Checks {
		names[c.Name] = true
		if c.Found == "" {
			t.Errorf("the check %s found nothing", c.Name)
		}
	}
	if !names["Redis version"] || !names["Postgres version"] {
		t.Errorf("got the checks %v, want both stores", names)
	}
	for path, want := range map[string]string{"livez": "ok\n", "readyz": "ok\n"} {
		if got := r.request(http.MethodGet, r.server.URL+"/headrace/"+path, nil); got.status != http.StatusOK || got.body != want {
			t.Errorf("%s: got %d %q, want 200 %q", path, got.status, got.body, want)
		}
	}
}

func TestPipelineOfNamesHasNoTableYet(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	p, err := console.Open(t.Context(), r.redis, r.pool, console.Names{Queue: r.queue.Name(), Table: "not_there"})
	must(t, err)
	r.pipe = p
	r.serve(nil)
	o := read[console.Overview](r, "overview.json")
	if len(o.Books) != 1 || o.Books[0].Name != "Redis" {
		t.Errorf("got the books %v, want those of Redis alone", o.Books)
	}
	for _, g := range o.Warnings {
		if !strings.Contains(g.Reason, "does not have the table yet") {
			t.Errorf("got the warning %+v, want that there is no table yet", g)
		}
	}
	if len(o.Warnings) == 0 {
		t.Error("got no warnings, want those of the table")
	}
}

func TestViewsAreReadByTheirName(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	want := read[console.TablesPage](r, "tables.json").Views
	for set, n := range map[string]int{"items": 1, "none": 0} {
		p, err := console.Open(t.Context(), r.redis, r.pool, console.Names{Queue: r.queue.Name(), Table: "items", Views: set})
		must(t, err)
		r.pipe = p
		r.serve(func(c *console.Config) { c.Authorize = allow })
		d := read[console.TablesPage](r, "tables.json")
		if len(d.Warnings) != 0 || len(d.Views) != n || !d.HasViews || !d.Refreshes {
			t.Errorf("the set %s: got %+v, want %d views that can be refreshed", set, d, n)
		}
		if n == 1 && (d.Views[0].View != want[0].View || !d.Views[0].RefreshedAt.Equal(want[0].RefreshedAt) || d.Views[0].Duration != want[0].Duration) {
			t.Errorf("got %+v, want %+v", d.Views[0], want[0])
		}
		refresh := url.Values{"action": {"refresh-view"}}
		if p := r.plan(refresh); p.Plan.Unit != "views" || p.Plan.Records != int64(n) {
			t.Errorf("the set %s: got the plan %+v, want %d views", set, p.Plan, n)
		}
		if n == 1 {
			r.act(refresh)
			if d := read[console.TablesPage](r, "tables.json"); d.Views[0].Refreshes != want[0].Refreshes+1 {
				t.Errorf("after a refresh: got %+v, want one more than %d refreshes", d.Views[0], want[0].Refreshes)
			}
		}
		r.get("tables")
	}
	if _, err := console.Open(t.Context(), r.redis, r.pool, console.Names{Queue: r.queue.Name(), Table: "items", Views: `a"b`}); !errors.Is(err, console.ErrConfig) {
		t.Errorf("a bad name: got %v, want ErrConfig", err)
	}
}

// A lookup table is shown by its name alone, also before it is loaded, and is not refreshed.
func TestLookupsAreReadByTheirName(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	loaded, none := r.pipe.Lookups[0], r.queue.Name()+"-none"
	refresher, ok := loaded.(interface {
		Refresh(ctx context.Context) (lookup.RefreshResult, error)
	})
	if !ok {
		t.Fatal("the table of the rig cannot be refreshed")
	}
	want, err := refresher.Refresh(t.Context())
	must(t, err)
	p, err := console.Open(t.Context(), r.redis, r.pool, console.Names{Queue: r.queue.Name(), Table: "items", Lookups: []string{loaded.Name(), none}})
	must(t, err)
	r.pipe = p
	r.serve(func(c *console.Config) { c.Authorize = allow })
	var d console.TablesPage
	eventually(t, func() error {
		if d = read[console.TablesPage](r, "tables.json"); len(d.Warnings) != 0 {
			return fmt.Errorf("got the warnings %v, want none", d.Warnings)
		}
		return nil
	})
	if len(d.Lookups) != 2 || d.Lookups[0].Refreshes || d.Lookups[1].Refreshes {
		t.Fatalf("got %+v, want two tables that cannot be refreshed", d)
	}
	if s := d.Lookups[0].Stats; s == nil || s.Version != want.Version || s.Entries != 1 {
		t.Errorf("got %+v, want the version %s with 1 entry", s, want.Version)
	}
	if s := d.Lookups[1].Stats; d.Lookups[1].Name != none || s == nil || s.Version != "" {
		t.Errorf("got %+v, want %s without a version", d.Lookups[1], none)
	}
	contains(t, r.get("tables"), "never loaded", loaded.Name())
	if _, err := console.Open(t.Context(), r.redis, r.pool, console.Names{Queue: r.queue.Name(), Table: "items", Lookups: []string{"a{b"}}); !errors.Is(err, lookup.ErrConfig) {
		t.Errorf("a bad name: got %v, want ErrConfig", err)
	}
}

// The overview counts what each stage did with the records that were committed lately.
func TestTheOverviewHasTheStages(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.push("a1 ok", "a1 ok", "a2 refuse", "a3 filter", "malformed")
	r.run()
	var o console.Overview
	eventually(t, func() error {
		if o = read[console.Overview](r, "overview.json"); len(o.Stages) == 0 {
			return fmt.Errorf("no stages yet, the warnings are %v", o.Warnings)
		}
		return nil
	})
	want := []console.StageLine{
		{Stage: "decode", Entered: 5, Rejected: 1, Passed: 4}, {Stage: "dedup", Entered: 4, Duplicates: 1, Passed: 3},
		{Stage: "wanted", Entered: 3, Filtered: 1, Passed: 2}, {Stage: "judge", Entered: 2, Rejected: 1, Passed: 1},
	}
	if !slices.Equal(o.Stages, want) || o.StagesSince == nil || !o.StagesSince.Before(o.At) {
		t.Errorf("got %+v since %v, want %+v and a time before the page", o.Stages, o.StagesSince, want)
	}
	contains(t, r.get(""), "What the stages did")
}

func TestNamesAndIDsOfAnyKind(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{name: "/ä%2F..?#日本"})
	id := "a/b?c=d&e#f%2Fü日"
	r.push(id+" refuse", "plain refuse")
	r.run()
	contains(t, r.get(""), "日本", "Nothing is lost")
	index := r.request(http.MethodGet, r.server.URL+"/headrace/", nil)
	contains(t, index.body, "日本")
	if got := r.request(http.MethodGet, strings.TrimSuffix(r.base, "/"), nil); got.status != http.StatusMovedPermanently ||
		got.header.Get("Location") != "./"+r.base[strings.LastIndex(strings.TrimSuffix(r.base, "/"), "/")+1:] {
		t.Errorf("without the slash: got %d to %q, want a relative redirect", got.status, got.header.Get("Location"))
	}
	if found := r.find(id); len(found) != 1 || found[0].Code != "refused" {
		t.Errorf("find %q: got %+v, want its reject", id, found)
	}
	contains(t, r.get("find?id="+url.QueryEscape(id)), "as "+strings.ReplaceAll(id, "&", "&amp;")+" asked")
}

func unknownAddresses(t *testing.T, r *rig) {
	for path, want := range map[string]int{
		"p/none/": 404, "p/": 404, "nothing": 404, "p/none/queue/more": 404,
		"p/" + r.queue.Name() + "/nothing":              404,
		"p/" + r.queue.Name() + "/dead?after=x":         400,
		"p/" + r.queue.Name() + "/batches?id=x":         400,
		"p/" + r.queue.Name() + "/rejects?id=x":         400,
		"p/" + r.queue.Name() + "/rejects?within=soon":  400,
		"p/" + r.queue.Name() + "/rejects?id=999999999": 404,
		"p/" + r.queue.Name() + "/dead?id=none":         404,
		"p/" + r.queue.Name() + "/do?action=none":       400,
		"../../../etc/passwd":                           404,
	} {
		got := r.request(http.MethodGet, r.server.URL+"/headrace/"+path, nil)
		if got.status != want && got.status != http.StatusMovedPermanently && got.status != http.StatusTemporaryRedirect {
			t.Errorf("%s: got %d, want %d", path, got.status, want)
		}
	}
	if got := r.request(http.MethodPost, r.base+"queue", strings.NewReader("a=b")); got.status != http.StatusMethodNotAllowed {
		t.Errorf("POST of a page: got %d, want 405", got.status)
	}
	if got := r.request(http.MethodGet, r.base+"nothing.json", nil); !strings.HasPrefix(got.header.Get("Content-Type"), "application/json") {
		t.Errorf("an error of a JSON page has the type %q, want JSON", got.header.Get("Content-Type"))
	}
}

// The console prepares no statement: a pooler that does not follow those would run it on a
// connection of the server that does not have it.
func TestTheConsolePreparesNoStatement(t *testing.T) {
	t.Parallel()
	var one *pgxpool.Pool
	r := newRig(t, rigOptions{config: func(c *console.Config) {
		cfg := c.Pipelines[0].Postgres.Config()
		cfg.MaxConns = 1
		var err error
		one, err = pgxpool.NewWithConfig(t.Context(), cfg)
		must(t, err)
		c.Pipelines[0].Postgres = one
		c.Authorize = func(*http.Request, console.Action) (string, error) { return "someone", nil }
	}})
	defer one.Close()
	r.push("a1 ok", "a4 refuse", "malformed")
	r.run()
	for _, path := range []string{"overview.json", "queue.json", "batches.json", "batches.json?kind=promoted", "rejects.json", "rejects.json?code=malformed&open=1", "tables.json", "health.json"} {
		read[any](r, path)
	}
	_, err := console.CheckPostgres(t.Context(), one)
	must(t, err)
	rows, err := one.Query(t.Context(), "SELECT statement FROM pg_prepared_statements", pgx.QueryExecModeExec)
	must(t, err)
	prepared, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	if len(prepared) > 0 {
		t.Errorf("prepared %q, want nothing", prepared)
	}
}
