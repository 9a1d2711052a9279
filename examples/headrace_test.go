package examples_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/window"
)

// cli calls headrace on a test's own servers.
type cli struct {
	t   *testing.T
	env []string
}

// ok runs a verb that must succeed, and returns its output.
func (c cli) ok(line string) string {
	c.t.Helper()
	r := run(c.t, "headrace", c.env, strings.Fields(line)...)
	if r.code != 0 {
		c.t.Fatalf("headrace %s: exit code %d\n%s%s", line, r.code, r.out, r.err)
	}
	for _, l := range strings.Split(r.out, "\n") {
		if n := utf8.RuneCountInString(l); n > 80 && !strings.Contains(l, `{"`) && !strings.HasPrefix(line, "schema") && !strings.HasPrefix(line, "grants") && !strings.HasPrefix(line, "find") && !strings.HasPrefix(line, "rejects list") && !strings.Contains(line, "-json") {
			c.t.Errorf("headrace %s: a line of %d columns: %s", line, n, l)
		}
	}
	return r.out
}

// fails runs a verb that must fail with one line that contains a text.
func (c cli) fails(line, want string) {
	c.t.Helper()
	r := run(c.t, "headrace", c.env, strings.Fields(line)...)
	if r.code != 1 || !strings.Contains(r.err, want) || strings.Count(r.err, "\n") != 1 {
		c.t.Errorf("headrace %s: exit code %d\n%s%s\nwant 1 and one line with %q", line, r.code, r.out, r.err, want)
	}
}

// shows runs a verb and checks that its output contains texts.
func (c cli) shows(line string, want ...string) {
	c.t.Helper()
	out := strings.Join(strings.Fields(c.ok(line)), " ")
	for _, w := range want {
		if !strings.Contains(out, w) {
			c.t.Errorf("headrace %s: the output lacks %q:\n%s", line, w, out)
		}
	}
}

// object runs a verb with -json and decodes its output into v. A field that v does not have is an
// error.
func (c cli) object(line string, v any) {
	c.t.Helper()
	dec := json.NewDecoder(strings.NewReader(c.ok(line + " -json")))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil || dec.More() {
		c.t.Errorf("headrace %s -json: %v, or more than one object", line, err)
	}
}

func equal[V comparable](t *testing.T, what string, got, want V) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// leaseOne pushes a record for a lease.
func leaseOne(t *testing.T, q *queue.Queue) queue.LeaseOptions {
	t.Helper()
	if err := q.Push(t.Context(), []byte("held")); err != nil {
		t.Fatal(err)
	}
	return queue.LeaseOptions{Records: 1}
}

// buryLetters makes dead letters of payloads, in an empty queue that buries at the first failure.
func buryLetters(t *testing.T, q *queue.Queue, failure string, payloads ...string) {
	t.Helper()
	ctx := t.Context()
	before, err := q.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, payload := range payloads {
		if err := q.Push(ctx, []byte(payload)); err != nil {
			t.Fatal(err)
		}
		b, err := q.Lease(ctx, queue.LeaseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Release(ctx, b, queue.ReleaseOptions{Failure: failure}); err != nil {
			t.Fatal(err)
		}
		eventually(t, payload+" is buried", func() bool { // by the lease after the back-off
			_, _ = q.TryLease(ctx, queue.LeaseOptions{})
			st, err := q.Stats(ctx)
			return err == nil && st.Dead == before.Dead+int64(i+1)
		})
		buried := time.Now().UnixMilli() // letters of one millisecond are listed in any order
		eventually(t, "that millisecond is over", func() bool { return time.Now().UnixMilli() > buried })
	}
}

// fillWindows adds events to windows of a minute: one window is open, one is due, and an event is
// late.
func fillWindows(t *testing.T, s stores, name string) {
	t.Helper()
	w, err := window.New(t.Context(), s.redis.Client(t), name, window.Config{Size: time.Minute, Lateness: -1})
	if err != nil {
		t.Fatal(err)
	}
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for _, at := range []time.Duration{0, time.Minute, time.Second} {
		if _, err := w.Add(t.Context(), "Berlin", window.Event{At: noon.Add(at), Data: at.String()}); err != nil {
			t.Fatal(err)
		}
	}
}

// hostileLetters lists dead letters whose reasons and payloads would write to the operator's
// terminal, on more than one page, and records like them that wait.
func hostileLetters(t *testing.T, s stores, c cli) {
	t.Helper()
	const reason = "\x1b[2J\n\u202e\x9b"
	q, err := queue.New(t.Context(), s.redis.Client(t), "hostile", queue.Config{Lease: queue.LeaseConfig{Records: 1, MaxFailures: 1, Backoff: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	buryLetters(t, q, reason, strings.Fields("a b c d e f g h i j k l \x1b[31mm")...)
	if err := q.Push(t.Context(), []byte("\x1b[31m<b>\x00"), []byte("\xff"), []byte("plain")); err != nil {
		t.Fatal(err)
	}
	type letter struct {
		ID, Died, Reason            string
		FirstSeen                   string `json:"first_seen"`
		Attempts, Failures, Crashes int
		Payload                     string
	}
	var page, rest struct {
		Dead []letter
		Next string
	}
	c.object("dead list -queue hostile -n 12", &page)
	equal(t, "letters on the first page", len(page.Dead), 12)
	c.object("dead list -queue hostile -n 12 -after "+page.Next, &rest)
	equal(t, "letters on the last page", len(rest.Dead), 1)
	equal(t, "the cursor behind the last page", rest.Next, "")
	letters := append(page.Dead, rest.Dead...) // those that died in one millisecond are in any order
	last := letters[slices.IndexFunc(letters, func(l letter) bool { return strings.Contains(c.ok("dead show -queue hostile "+l.ID), "[31mm") })].ID
	for line, lines := range map[string]int{
		"dead list -queue hostile": 13, "dead list -queue hostile -n 5": 6, "dead show -queue hostile " + last: 5, "peek -queue hostile": 3,
		"peek -queue hostile -n 2": 2,
	} {
		out := c.ok(line)
		equal(t, "lines of headrace "+line, strings.Count(out, "\n"), lines)
		if seen := strings.ReplaceAll(out, "\n", ""); program.Clean(seen) != seen {
			t.Errorf("headrace %s prints a control character: %q", line, out)
		}
	}
	c.shows("dead show -queue hostile "+last, `\x1b[2J\n\u202e\x9b`, `\x1b[31mm`)
	none := "01890a5d-ac96-774b-bcce-b302099a8057"
	c.fails("dead requeue -queue hostile "+none, "1 of 1 ids are not those of a dead letter")
	c.fails("dead discard -yes -queue hostile "+last+" "+none, "1 of 2 ids are not those of a dead letter")
	c.shows("dead discard -yes -all -queue hostile", "discarded 12 dead letters")
	c.ok("clear all -yes -queue hostile")
	c.fails("stats -queue mistyped", "no record was ever taken from the queue mistyped, so it may not be the queue of the table orders")
}

// windowsByName asks for windows that are there, that are not, and whose books are off.
func windowsByName(t *testing.T, s stores, c cli) {
	t.Helper()
	c.shows("stats -window sales", "sales: not used yet")
	c.fails("audit -window sales", "there are no windows of this name: sales")
	c.fails("doctor -window sales", "1 of 17 checks failed")
	fillWindows(t, s, "sales")
	c.shows("stats -window sales -window other", "sales: open keys 1, due 1 (for up to", "leased 0, dead 0, late events 1, events 2", "other: not used yet")
	c.shows("audit -window sales", "sales: 2 windows are as their books have them")
	c.shows("doctor -window sales", "✓ Windows sales layout 3, size 1m0s, sliding window none")
	redis := s.redis.Client(t)
	if err := redis.Do(t.Context(), redis.B().Hincrby().Key("{sales}:window:meta").Field("added").Increment(3).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	c.fails("stats -window sales", "windows sales: window: the books do not balance: 5 events were added")
	c.fails("audit -window sales", "windows sales: window: the books do not balance: 1 differences")
	c.fails("stats -window a{b", "window: invalid configuration")
}

// The whole life of a pipeline from the command line, as a new user would try it.
func TestHeadraceSession(t *testing.T) {
	t.Parallel()
	s := own(t)
	c := cli{t, s.env()}

	c.shows("schema print", "CREATE TABLE IF NOT EXISTS orders", "CREATE MATERIALIZED VIEW")
	c.shows("stats", "balanced", "not created yet")
	c.fails("rejects list", "has no table orders: correct --table, or start a worker")
	c.shows("doctor", "✓ Redis version", "✓ Redis eviction maxmemory-policy noeviction", "✓ Postgres version", "✓ Privilege CREATE granted")
	c.shows("lookups list", "orders-products not loaded: run init-cache")
	c.shows("init-cache", "products 15 entries", "currencies 7 entries", "zips 10 entries")
	var tables struct {
		Tables []struct {
			Table, Version string
			Entries        int
		}
	}
	c.object("init-cache currencies", &tables)
	if len(tables.Tables) != 1 || tables.Tables[0].Entries != 7 || tables.Tables[0].Version == "" {
		t.Errorf("init-cache currencies: got %+v", tables)
	}

	c.shows("lookups list", "orders-products 15 entries", "orders-zips 10 entries")
	c.shows("lookups refresh zips", "zips 10 entries")

	// Generate, and look at it.
	type generated struct {
		Pushed, Repeated, Unique, Duplicates int
		RefusedLines                         int            `json:"refused_lines"`
		Rejects                              map[string]int `json:"expected_rejects"`
		Seconds                              float64
	}
	var g generated
	c.object("generate -orders 2000 -duplicates 0.1 -bad 0.02 -seed 1", &g)
	equal(t, "pushed", g.Pushed, 2000)
	equal(t, "unique", g.Unique, 1760)
	equal(t, "duplicates", g.Duplicates, 200)
	file := filepath.Join(t.TempDir(), "orders.jsonl")
	sample, err := os.ReadFile("../testdata/orders.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(sample), "\n")
	if err := os.WriteFile(file, []byte(first+"\n\nno JSON\n"+strings.ReplaceAll(first, "ord-0001", "ord-file")), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, "headrace", c.env, "generate", "-file", file)
	if r.code != 1 || !strings.Contains(r.out, "pushed 2 records") || !strings.Contains(r.err, "line 3 is not pushed: the record is not valid JSON") || !strings.Contains(r.err, "1 lines were not pushed") {
		t.Errorf("a file with a bad line: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	var ready struct{ Ready []json.RawMessage }
	c.object("peek -n 7", &ready)
	equal(t, "ready records shown", len(ready.Ready), 7)
	c.shows("stats", "ready 2002")
	c.shows("pause", "paused")
	c.shows("stats", "PAUSED")
	c.shows("resume", "resumed")

	// Process and promote.
	var done struct {
		Batches, Records int
		Seconds          float64
	}
	c.object("process -batch 100 -iterations 3 -workers 1", &done)
	if done.Batches < 3 || done.Batches > 15 { // of 21; some are in hand when the third is handed off
		t.Errorf("process -iterations 3: got %d batches", done.Batches)
	}
	before := done.Records
	done.Records = 0
	c.object("process -batch 500 -empty", &done)
	// A worker that stops may hand a batch off and report it as lost: the sum over the queue counts.
	if n := before + done.Records; n == 0 || n > 2002 {
		t.Errorf("records processed: got %d, want at most 2002", n)
	}
	var handed struct {
		HandedOff []struct {
			Batch, Since     string
			Attempt, Records int
		} `json:"handed_off"`
	}
	c.object("peek handed-off -n 1000", &handed)
	sum := 0
	for _, b := range handed.HandedOff {
		sum += b.Records
	}
	equal(t, "records handed off", sum, 2002)
	c.shows("promote -empty", "promoted 2002 records", "1762 rows")
	c.shows("promote", "promoted 0 records in 0 batches")
	stall := fmt.Sprintf(`{"program":"a promoter","step":"promoting","since":"2026-01-01T00:00:00Z","failures":7,"reason":"out of disk","reported":%q}`, time.Now().Format(time.RFC3339))
	if err := s.redis.Client(t).Do(t.Context(), s.redis.Client(t).B().Hset().Key("{orders}:signals:stalls").FieldValue().FieldValue("a promoter/promoting", stall).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	c.shows("stats", "balanced", "taken 2002 = acked 2002", "promoted 1762", "sales_hourly", "decode: entered 2002", "a promoter: promoting", "7 failures", "out of disk")
	c.shows("audit", "✓ Redis", "✓ Postgres", "✓ rows", "✓ between")
	c.shows("schema check", "is as this program expects it")
	c.shows("grants print app --role worker", "GRANT", "ON product_catalog, currency_rates, zip_code_zones TO \"app\"")

	// Rejects.
	var codes struct{ Codes map[string]int }
	c.object("rejects codes", &codes)
	for code, n := range g.Rejects {
		equal(t, "rejects "+code, codes.Codes[code], n)
	}
	type reject struct {
		ID, Place                            int
		Batch, Source, Key, Code, Reason, At string
		Payload                              json.RawMessage
		Resolved                             string
	}
	var rejects struct{ Rejects []reject }
	c.object("rejects list -code unknown_product -n 2", &rejects)
	equal(t, "rejects listed", len(rejects.Rejects), 2)
	c.shows("rejects list -code unknown_product -n 2", "unknown_product", "more: add --after")
	id := func(i int) string { b, _ := json.Marshal(rejects.Rejects[i].ID); return string(b) }
	c.shows("rejects show "+id(0), `"product_id":"GONE-404"`, "(open)")
	corrected := filepath.Join(t.TempDir(), "corrected.json")
	if err := os.WriteFile(corrected, []byte(strings.ReplaceAll(string(rejects.Rejects[0].Payload), "GONE-404", "ELEC-001")), 0o600); err != nil {
		t.Fatal(err)
	}
	c.shows("rejects replay "+id(0)+" -file "+corrected, "pushed the record of reject")
	c.fails("rejects replay "+id(0), "is resolved already")
	c.shows("rejects resolve "+id(1), "resolved 1 rejects")
	c.fails("rejects resolve "+id(1), "1 of 1 ids are not those of an open reject")
	c.shows("find "+rejects.Rejects[0].Key, "rejected")
	c.fails("find ord-none", "nothing in the pipeline has the id ord-none")
	c.fails("rejects show 999999999", "no reject of orders has the id 999999999")
	c.ok("process -empty")
	c.shows("promote -empty", "promoted 1 records in 1 batches, 1 rows")

	// Dead letters.
	ctx := t.Context()
	q, err := queue.New(ctx, s.redis.Client(t), "orders", queue.Config{Lease: queue.LeaseConfig{Records: 1, MaxFailures: 1, Backoff: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	buryLetters(t, q, "it kills workers", "poison", "venom", "toxin")
	type letter struct {
		ID, Died, Reason            string
		FirstSeen                   string `json:"first_seen"`
		Attempts, Failures, Crashes int
		Payload                     string
	}
	var dead struct {
		Dead []letter
		Next string
	}
	c.object("dead list", &dead)
	if len(dead.Dead) != 3 || dead.Dead[0].Payload != "poison" || dead.Dead[0].Reason != "it kills workers" {
		t.Fatalf("dead list: got %+v", dead)
	}
	c.shows("dead show "+dead.Dead[1].ID, "payload venom", "reason it kills workers")
	c.fails("dead show nowhere", "no dead letter has the id nowhere")
	c.fails("dead discard -all", "nothing was changed; --yes skips the question")
	c.shows("dead drop -yes "+dead.Dead[0].ID, "discarded 1 dead letters") // the other name
	c.shows("dead requeue "+dead.Dead[1].ID, "requeued 1 dead letters")
	c.shows("dead requeue -all", "requeued 1 dead letters")
	c.ok("process -empty")
	c.shows("promote -empty", "promoted 2 records in 2 batches, 0 rows")
	c.shows("audit", "✓ Redis")

	// A batch that a worker holds.
	hold := leaseOne(t, q)
	hold.Worker = "worker-7"
	held, err := q.Lease(ctx, hold)
	if err != nil {
		t.Fatal(err)
	}
	c.shows("peek leased", held.ID, "attempt 1, 1 records until", "worker-7")
	c.shows("find "+held.ID, "leased", "worker-7")
	if err := q.Release(ctx, held, queue.ReleaseOptions{}); err != nil {
		t.Fatal(err)
	}
	c.ok("process -empty")
	c.shows("promote -empty", "promoted 1 records in 1 batches, 0 rows")
	c.shows("views list", "sales_hourly: as of")
	c.shows("views refresh", "sales_hourly: ")

	readersRights(t, s, c, id(1), rejects.Rejects[0].Key)
	windowsByName(t, s, c)
	hostileLetters(t, s, c)
	pool := s.pg.Pool(t)

	// Books that are off.
	execute(t, pool, "UPDATE orders_ledger SET kept = kept - 7 WHERE id = (SELECT id FROM orders_ledger ORDER BY id LIMIT 1)")
	c.fails("audit", "Postgres is off by 7")
	c.fails("stats", "Postgres is off by 7")
	execute(t, pool, "UPDATE orders_ledger SET kept = kept + 7 WHERE id = (SELECT id FROM orders_ledger ORDER BY id LIMIT 1)")

	// Benchmark, prune, clear.
	var bench struct {
		Total, Batch, Workers int
		Steps                 []struct {
			Step     string
			Records  int
			Seconds  float64
			Rate     float64
			Bare     string  `json:"bare_tool"`
			BareRate float64 `json:"bare_rate"`
			Ratio    float64
		}
	}
	c.object("benchmark -total 2000 -batch 500", &bench)
	equal(t, "benchmark steps", len(bench.Steps), 6)
	for _, st := range bench.Steps {
		if st.Rate <= 0 || (st.Bare != "") != (st.Ratio > 0) {
			t.Errorf("benchmark: got %+v", st)
		}
	}
	equal(t, "schemas left by the benchmark", one[int](t, pool, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'benchmark%'"), 0)
	c.fails("prune -before 1h", "nothing was changed")
	c.shows("prune -before 1h -yes", "pruned 0 ledger rows")
	execute(t, pool, "UPDATE orders_ledger SET committed_at = now() - interval '3 hours' WHERE id = (SELECT id FROM orders_ledger ORDER BY id LIMIT 1)")
	c.shows("prune -before 1h -yes", "pruned 1 ledger rows")
	c.shows("stats", "balanced", "between")
	c.shows("audit", "✓ Redis", "✓ Postgres")
	c.fails("clear all", "nothing was changed")
	c.shows("clear all -yes", "cleared queue", "cleared cache", "cleared dedup")
	for _, key := range text(t, s.redis.Client(t), "KEYS", "*") {
		if !strings.Contains(key, ":dedup:") && !strings.Contains(key, ":state") && !strings.Contains(key, ":window:") {
			t.Errorf("after clear all the key %s is still there", key)
		}
	}
	c.fails("process --queue other", "only for the orders domain")
}

// A step that was told when to end, and was interrupted before, exits with 130.
func TestInterruptedBeforeTheEnd(t *testing.T) {
	t.Parallel()
	s := own(t)
	redis, pool := s.redis.Client(t), s.pg.Pool(t)
	exists := func(key string) bool { return len(text(t, redis, "KEYS", key)) > 0 }
	interrupt := func(line string, running func() bool) {
		t.Helper()
		p := start(t, "headrace", s.env(), strings.Fields(line)...)
		eventually(t, line+" is running", running)
		if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if r := p.wait(); r.code != 130 {
			t.Errorf("headrace %s: exit code %d after Ctrl-C, want 130\n%s%s", line, r.code, r.out, r.err)
		}
	}
	// The first record is pushed at once, and the next one after 100 s.
	interrupt("generate -orders 100000 -rate 0.01", func() bool { return exists("{orders}:ready") })
	cli{t, s.env()}.ok("pause") // nothing becomes empty from now on
	interrupt("promote -empty", func() bool { return one[bool](t, pool, "SELECT to_regclass('orders_views') IS NOT NULL") })
	interrupt("process -empty", func() bool { return exists("{orders-zips}:lookup:*") })
}

// Clear deletes what it names and nothing else: no keys of a queue with a longer name, of another
// pattern or another program, and no more than one name whatever characters it has.
func TestClearSparesOtherKeys(t *testing.T) {
	t.Parallel()
	redis := servertest.OwnRedis(t)
	client := redis.Client(t)
	c := cli{t, env(redis.URL, "postgres://someone@127.0.0.1:1/none")}
	spared := []string{
		"{orders-eu}:ready", "{orders-eu}:queue:b:1", "{orders-eu}:dedup:1", "{orders}:window:1", "{orders}:mine",
		"{orders2}:ready", "{eu}:ready", "{x*}:lookup:1", "orders",
	}
	for _, key := range append([]string{"{orders}:ready", "{orders}:queue:b:1", "{orders-products}:lookup:v:1", "{orders}:gate:1"}, spared...) {
		if err := client.Do(t.Context(), client.B().Lpush().Key(key).Element("1").Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	left := func(what string) {
		t.Helper()
		var got []string
		for _, key := range text(t, client, "KEYS", "*") {
			if !strings.HasPrefix(key, "{orders}:dedup:") && !strings.HasPrefix(key, "{orders}:queue:layout") {
				got = append(got, key)
			}
		}
		slices.Sort(got)
		want := slices.Sorted(slices.Values(spared))
		if !slices.Equal(got, want) {
			t.Errorf("after %s: got the keys %q, want %q", what, got, want)
		}
	}
	c.shows("clear queue -yes", "cleared queue")
	c.shows("clear cache -yes", "cleared cache")
	left("clear queue and clear cache")
	for _, name := range []string{"order*", "e?", "[eo]u", "*"} {
		c.shows("clear queue -yes -queue "+name, "cleared queue")
		c.shows("clear cache -yes -queue "+name, "cleared cache")
	}
	left("clear with the characters of a pattern in the name")
}

// Promote --empty reconciles while it waits. A batch that is handed off and in no registry comes
// back again and again; otherwise the command would not end.
func TestPromoteEmptyReconciles(t *testing.T) {
	t.Parallel()
	s := own(t)
	q, err := queue.New(t.Context(), s.redis.Client(t), "orders", queue.Config{})
	if err != nil {
		t.Fatal(err)
	}
	o := leaseOne(t, q)
	o.Duration = time.Hour
	b, err := q.Lease(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	promote := start(t, "headrace", s.env(), "promote", "-empty")
	for range 2 { // the first may be the reconcile at the start
		if err := q.Handoff(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		waiting, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		if b, err = q.Lease(waiting, o); err != nil {
			t.Fatalf("the batch is not delivered again: %v", err)
		}
		cancel()
	}
	if _, err := q.Ack(t.Context(), b.ID); err != nil {
		t.Fatal(err)
	}
	if r := promote.wait(); r.code != 0 || !strings.Contains(r.out, "promoted 0 records") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
}
