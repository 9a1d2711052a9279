package examples_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/queue"
)

// The widths of the terminals.
const narrow, wide = 80, 200

// screens runs verbs in a terminal and keeps what they showed in a narrow one.
type screens struct {
	shapes
	columns int
	shown   strings.Builder
}

// look runs a verb that only reads in both terminals, and compares its JSON with the documented
// shape. It returns the output of the narrow one without its line breaks.
func (s *screens) look(line string) string {
	s.t.Helper()
	s.columns = wide
	s.show(line, "", 0)
	s.columns = narrow
	s.check(line)
	return s.show(line, "", 0)
}

// act runs a verb that may be run twice, and compares the JSON of the second run.
func (s *screens) act(line string) {
	s.t.Helper()
	s.show(line, "", 0)
	s.check(line)
}

// show runs a verb to its end. Where the verb asks, it types the answer. It returns the output
// without its line breaks.
func (s *screens) show(line, answer string, code int) string {
	s.t.Helper()
	term := s.start(line)
	if answer != "" {
		if !term.out.await("Type yes to go on:", term.closed) {
			s.t.Fatalf("headrace %s does not ask:\n%s", line, term.out.text())
		}
		term.types(s.t, answer+"\n")
	}
	return s.end(term, line, code)
}

func (s *screens) start(line string) *terminal {
	s.t.Helper()
	return inTerminal(s.t, s.columns, command(s.t, "headrace", s.env, strings.Fields(line)...))
}

// end waits for the end of a verb, and keeps what it showed.
func (s *screens) end(term *terminal, line string, code int) string {
	s.t.Helper()
	select {
	case <-term.closed:
	case <-time.After(hang):
		s.t.Fatalf("headrace %s hangs:\n%s", line, term.out.text())
	}
	_ = term.cmd.Wait() // the exit code is checked
	if got := term.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("%d columns: headrace %s: exit code %d, want %d:\n%s", s.columns, line, got, code, term.out.text())
	}
	verbatim := strings.HasPrefix(line, "schema print") || strings.HasPrefix(line, "grants print") // input of another program
	if n, wide := term.widest(); n > s.columns && !verbatim {
		s.t.Errorf("%d columns: headrace %s shows a line of %d: %s", s.columns, line, n, wide)
	}
	out := strings.Join(strings.Fields(control.ReplaceAllString(term.out.text(), " ")), " ")
	if !verbatim && s.columns == narrow {
		s.shown.WriteString("$ headrace " + words(line) + "\n" + strings.TrimSpace(words(out)) + "\n")
	}
	return out
}

// types writes what a user types, and what the terminal makes of it: \x03 is Ctrl-C.
func (term *terminal) types(t *testing.T, text string) {
	t.Helper()
	if _, err := term.screen.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// steady replaces what is different each time.
var steady = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?`), "TIME"},
	{regexp.MustCompile(`\b\d\d:\d\d:\d\d\b`), "TIME"},
	{regexp.MustCompile(`worker \S+, attempt`), "worker NAME, attempt"},
	{regexp.MustCompile(`version \S+`), "version VERSION"},
	{regexp.MustCompile(`old, \S+`), "old, VERSION"},
	{regexp.MustCompile(`\b(\d+(\.\d+)?(µs|ms|h|m|s))+\b`), "DURATION"},
	{regexp.MustCompile(`\b\d+\.\d+ s\b|\b\d+ s ago`), "DURATION"},
	{regexp.MustCompile(`\b\d+ bytes`), "N bytes"},
	{regexp.MustCompile(`about \d+`), "about N"},
	{regexp.MustCompile(`redelivered \d+`), "redelivered N"},
	{regexp.MustCompile(`attempts \d+`), "attempts N"},
	// How many batches hold the records, and so the order of the rejects, is up to the load.
	{regexp.MustCompile(`\d+ batches`), "N batches"},
	{regexp.MustCompile(`(?:\bUUID attempt 1, \d+ records since TIME ?)+`), "BATCHES "},
	{regexp.MustCompile(`\b(show|resolve|replay|reject|id|after|place|record) \d+\b`), "$1 N"},
	{regexp.MustCompile(`\d+ TIME`), "N TIME"},
	{regexp.MustCompile(`\bord-[0-9a-f]+`), "ORDER"},
	{regexp.MustCompile(`payload \{"order_id.*`), "payload {…}"},
	{regexp.MustCompile(`http://127\.0\.0\.1:\d+`), "http://127.0.0.1:PORT"},
}

func words(text string) string {
	for _, s := range steady {
		text = s.pattern.ReplaceAllString(text, s.with)
	}
	return text
}

// A new user goes through all verbs in a terminal. No line is wider than it. What the verbs show is
// in testdata/session.golden, which the variable HEADRACE_GOLDEN=write brings up to date. Every
// verb also prints the JSON that docs/operations.md has for it, and every verb is there.
func TestSessionInATerminal(t *testing.T) {
	t.Parallel()
	stores := own(t)
	s := &screens{shapes: shapes{cli{t, stores.env()}, documented(t), make(map[string]bool)}, columns: narrow}
	session(s, stores)
	s.complete()
	file := filepath.Join("testdata", "session.golden")
	if os.Getenv("HEADRACE_GOLDEN") == "write" {
		if err := os.WriteFile(file, []byte(s.shown.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(s.shown.String(), "\n")); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

var (
	someReject = regexp.MustCompile(`(\d+) \d{4}-\d\d-\d\d \d\d:\d\d:\d\d unknown_product`)
	someKey    = regexp.MustCompile(`key (\S+)`)
	someUUID   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)
)

// session is what a user does.
func session(s *screens, stores stores) {
	t, ctx := s.t, s.t.Context()
	s.show("-h", "", 0)
	s.look("stats") // before anything is there
	s.look("schema print")
	s.look("lookups list")
	s.act("init-cache")
	s.look("lookups list")
	s.act("lookups refresh zips")
	s.look("schema check")
	s.look("grants print app --role worker")
	if out := s.start("doctor"); !out.out.await("Privilege TEMPORARY", out.closed) { // its findings depend on the servers
		t.Errorf("doctor: %s", out.out.text())
	}
	s.check("doctor")
	s.check("dead list")
	s.check("rejects list")
	s.show("generate -orders 300 -bad 0.1 -duplicates 0.1 -seed 1", "", 0)
	s.check("generate -orders 50 -bad 0 -duplicates 0 -seed 2")
	file := filepath.Join(t.TempDir(), "orders.jsonl")
	if err := os.WriteFile(file, []byte(`{"order_id":"ord-file"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.off("generate -file " + file)
	s.look("peek ready -n 2")
	s.act("pause")
	s.look("stats")
	s.act("resume")
	s.act("process -empty -workers 1")
	s.look("peek handed-off")
	s.act("promote -empty")
	s.act("views refresh")
	s.look("views list")
	s.look("rejects codes")
	ids := someReject.FindAllStringSubmatch(s.look("rejects list -code unknown_product -n 3"), -1)
	if len(ids) != 3 {
		t.Fatalf("rejects list shows %d rejects, want 3", len(ids))
	}
	shown := s.look("rejects show " + ids[0][1])
	key := someKey.FindStringSubmatch(shown)
	if key == nil {
		t.Fatalf("rejects show has no key: %s", shown)
	}
	s.look("find " + key[1])
	s.show("rejects resolve "+ids[0][1], "", 0)
	s.off("rejects resolve " + ids[0][1])
	s.check("rejects show " + ids[0][1]) // with the time of that
	s.check("rejects list -all -n 1")
	s.show("rejects replay "+ids[1][1], "", 0)
	s.show("rejects replay "+ids[1][1], "", 1)
	s.check("rejects replay " + ids[2][1])
	s.show("process -empty -workers 1", "", 0)
	s.show("promote -empty", "", 0)

	q, err := queue.New(ctx, stores.redis.Client(t), "orders", queue.Config{Lease: queue.LeaseConfig{Records: 1, MaxFailures: 1, Backoff: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	buryLetters(t, q, "it kills workers", "poison", strings.Repeat(`{"long": "venom"} `, 20), "toxin", `{"order_id":"bane"}`)
	letters := someUUID.FindAllString(s.look("dead list"), -1)
	if len(letters) != 4 {
		t.Fatalf("dead list shows %d letters, want 4", len(letters))
	}
	s.check("dead list -n 1") // more follow
	s.look("dead show " + letters[1])
	s.check("find " + letters[0])
	s.show("dead discard "+letters[0], "no", 1)
	s.show("dead discard "+letters[0], "yes", 0)
	s.check("dead discard -yes " + letters[2])
	s.check("dead requeue " + letters[3])
	s.show("dead requeue -all", "", 0)
	s.show("process -empty -workers 1", "", 0)
	s.show("promote -empty", "", 0)
	hold := leaseOne(t, q)
	hold.Worker = "worker-7"
	held, err := q.Lease(ctx, hold)
	if err != nil {
		t.Fatal(err)
	}
	s.look("peek leased")
	s.check("find " + held.ID)
	if err := q.Release(ctx, held, queue.ReleaseOptions{}); err != nil {
		t.Fatal(err)
	}
	s.show("process -empty -workers 1", "", 0)
	s.show("promote -empty", "", 0)
	s.look("audit")
	s.look("stats")
	fillWindows(t, stores, "sales")
	s.check("audit -window sales")
	s.check("stats -window sales -window none")
	s.check("benchmark -total 1000 -batch 500")

	// Ctrl-C ends a verb without an end of its own with 0, and another one before its end with 130.
	watch := s.start("stats -watch 0.1")
	if !watch.out.await("rates", watch.closed) {
		t.Fatalf("no second state:\n%s", watch.out.text())
	}
	watch.types(t, "\x03")
	<-watch.closed
	_ = watch.cmd.Wait() // the exit code is checked
	if code := watch.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("stats -watch: exit code %d after Ctrl-C, want 0:\n%s", code, watch.out.text())
	}
	if n, line := watch.widest(); n > s.columns {
		t.Errorf("%d columns: stats -watch shows a line of %d: %s", s.columns, n, line)
	}
	first, second, ok := strings.Cut(watch.out.text(), "\033[J")
	if up := fmt.Sprintf("\033[%dA", strings.Count(first, "\n")); !ok || !strings.HasSuffix(first, up) || !strings.Contains(second, "queue") {
		t.Errorf("%d columns: the second state does not replace the first: %q", s.columns, watch.out.text())
	}
	stats := func() queue.Stats {
		st, err := q.Stats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	interrupt := func(line string, code int, begun func(term *terminal) bool) {
		t.Helper()
		term := s.start(line)
		eventually(t, line+" has begun", func() bool { return begun(term) })
		term.types(t, "\x03")
		<-term.closed
		_ = term.cmd.Wait() // the exit code is checked
		if got := term.cmd.ProcessState.ExitCode(); got != code {
			t.Errorf("headrace %s: exit code %d after Ctrl-C, want %d:\n%s", line, got, code, term.out.text())
		}
	}
	interrupt("console -listen 127.0.0.1:0", 0, func(term *terminal) bool { return strings.Contains(term.out.text(), "http://") })
	page := start(t, "headrace", s.env, "console", "-listen", "127.0.0.1:0", "-json")
	page.reports("http://127.0.0.1:")
	if err := page.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	s.compare("console", page.wait().out)
	if err := q.Push(ctx, []byte("one more")); err != nil {
		t.Fatal(err)
	}
	interrupt("process", 0, func(*terminal) bool { return stats().HandedOff > 0 })
	interrupt("generate -orders 100000 -rate 0.01", 130, func(*terminal) bool { return stats().Ready > 0 })
	s.ok("process -empty")
	s.ok("promote -empty")
	s.show("prune -before 1h", "no", 1)
	s.show("prune -before 1h", "yes", 0)
	s.check("prune -before 1h -yes")
	s.show("clear all", "no", 1)
	s.show("clear all", "yes", 0)
	s.check("clear all -yes")
	s.show("stat", "", 2)
	s.show("find nowhere", "", 1)

	execute(t, stores.pg.Pool(t), "UPDATE orders_ledger SET kept = kept - 7 WHERE id = (SELECT id FROM orders_ledger ORDER BY id LIMIT 1)")
	s.off("audit")
	s.off("stats")
}

// off runs a verb that finds something wrong: it ends with 1, and its JSON is there.
func (s *screens) off(line string) {
	s.t.Helper()
	r := run(s.t, "headrace", s.env, strings.Fields(line+" -json")...)
	if r.code != 1 {
		s.t.Errorf("headrace %s: exit code %d, want 1", line, r.code)
	}
	s.compare(line, r.out)
}
