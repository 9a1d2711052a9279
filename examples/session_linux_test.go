package examples_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/queue"
)

// screens runs verbs in a terminal and keeps what they showed.
type screens struct {
	t       *testing.T
	env     []string
	columns int
	shown   strings.Builder
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
	if !verbatim {
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
// in testdata/session_*.golden, which the variable HEADRACE_GOLDEN=write brings up to date.
func TestSessionInATerminal(t *testing.T) {
	t.Parallel()
	for _, columns := range []int{80, 200} {
		t.Run(strconv.Itoa(columns), func(t *testing.T) {
			t.Parallel()
			stores := own(t)
			s := &screens{t: t, env: stores.env(), columns: columns}
			session(s, stores)
			file := filepath.Join("testdata", fmt.Sprintf("session_%d.golden", columns))
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
		})
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
	s.show("stats", "", 0) // before anything is there
	s.show("schema print", "", 0)
	s.show("init-cache", "", 0)
	s.show("lookups list", "", 0)
	s.show("lookups refresh zips", "", 0)
	s.show("schema check", "", 0)
	s.show("grants print app --role worker", "", 0)
	if out := s.start("doctor"); !out.out.await("Privilege TEMPORARY", out.closed) { // its findings depend on the servers
		t.Errorf("doctor: %s", out.out.text())
	}
	s.show("generate -orders 300 -bad 0.1 -duplicates 0.1 -seed 1", "", 0)
	s.show("peek ready -n 2", "", 0)
	s.show("pause", "", 0)
	s.show("stats", "", 0)
	s.show("resume", "", 0)
	s.show("process -empty -workers 1", "", 0)
	s.show("peek handed-off", "", 0)
	s.show("promote -empty", "", 0)
	s.show("views refresh", "", 0)
	s.show("views list", "", 0)
	s.show("rejects codes", "", 0)
	ids := someReject.FindAllStringSubmatch(s.show("rejects list -code unknown_product -n 2", "", 0), -1)
	if len(ids) != 2 {
		t.Fatalf("rejects list shows %d rejects, want 2", len(ids))
	}
	shown := s.show("rejects show "+ids[0][1], "", 0)
	key := someKey.FindStringSubmatch(shown)
	if key == nil {
		t.Fatalf("rejects show has no key: %s", shown)
	}
	s.show("find "+key[1], "", 0)
	s.show("rejects resolve "+ids[0][1], "", 0)
	s.show("rejects replay "+ids[1][1], "", 0)
	s.show("rejects replay "+ids[1][1], "", 1)
	s.show("process -empty -workers 1", "", 0)
	s.show("promote -empty", "", 0)

	q, err := queue.New(ctx, stores.redis.Client(t), "orders", queue.Config{Lease: queue.LeaseConfig{Records: 1, MaxFailures: 1, Backoff: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	buryLetters(t, q, "poison", strings.Repeat(`{"long": "venom"} `, 20))
	letters := someUUID.FindAllString(s.show("dead list", "", 0), -1)
	if len(letters) != 2 {
		t.Fatalf("dead list shows %d letters, want 2", len(letters))
	}
	s.show("dead show "+letters[1], "", 0)
	s.show("dead discard "+letters[0], "no", 1)
	s.show("dead discard "+letters[0], "yes", 0)
	s.show("dead requeue -all", "", 0)
	held, err := q.Lease(ctx, queue.LeaseOptions{Records: 1, Worker: "worker-7"})
	if err != nil {
		t.Fatal(err)
	}
	s.show("peek leased", "", 0)
	if err := q.Release(ctx, held, queue.ReleaseOptions{}); err != nil {
		t.Fatal(err)
	}
	s.show("process -empty -workers 1", "", 0)
	s.show("promote -empty", "", 0)
	s.show("audit", "", 0)
	s.show("stats", "", 0)

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
	if err := q.Push(ctx, []byte("one more")); err != nil {
		t.Fatal(err)
	}
	interrupt("process", 0, func(*terminal) bool { return stats().HandedOff > 0 })
	interrupt("generate -orders 100000 -rate 0.01", 130, func(*terminal) bool { return stats().Ready > 0 })
	cli{t, s.env}.ok("process -empty")
	cli{t, s.env}.ok("promote -empty")
	s.show("prune -before 1h", "no", 1)
	s.show("prune -before 1h", "yes", 0)
	s.show("clear all", "no", 1)
	s.show("clear all", "yes", 0)
	s.show("stat", "", 2)
	s.show("find nowhere", "", 1)
}
