package examples_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/queue"
)

// shapes compares what verbs print with the documented shapes.
type shapes struct {
	cli
	want map[string]any
	seen map[string]bool
}

// check runs a verb with -json, compares what it prints with the shape, and decodes it into v.
func (s shapes) check(verb, args string, v any) {
	s.t.Helper()
	s.compare(verb, s.ok(verb+" "+args+" -json"), v)
}

func (s shapes) compare(verb, out string, v any) {
	s.t.Helper()
	s.seen[verb] = true
	want, ok := s.want[verb]
	if !ok {
		s.t.Errorf("the JSON of %s is not documented", verb)
		return
	}
	var got any
	dec := json.NewDecoder(strings.NewReader(out))
	if err := dec.Decode(&got); err != nil || dec.More() {
		s.t.Errorf("headrace %s -json: %v, or more than one object:\n%s", verb, err, out)
		return
	}
	for _, d := range compare("", got, want) {
		s.t.Errorf("headrace %s -json: %s", verb, d)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(out), v); err != nil {
			s.t.Errorf("headrace %s -json: %v", verb, err)
		}
	}
}

// Every verb prints the JSON that docs/operations.md has for it, and every verb is there.
func TestEveryVerbPrintsTheDocumentedJSON(t *testing.T) {
	t.Parallel()
	stores := own(t)
	s := shapes{cli{t, stores.env()}, documented(t), make(map[string]bool)}

	s.check("stats", "", nil) // without a table
	s.check("schema print", "", nil)
	s.check("lookups list", "", nil) // nothing is loaded
	s.check("init-cache", "", nil)
	s.check("lookups list", "", nil)
	s.check("lookups refresh", "zips", nil)
	s.check("dead list", "", nil)
	s.check("rejects list", "", nil)
	s.check("rejects codes", "", nil)
	s.check("generate", "-orders 600 -bad 0.1 -seed 1", nil)
	file := filepath.Join(t.TempDir(), "orders.jsonl")
	if err := os.WriteFile(file, []byte(`{"order_id":"ord-file"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t, "headrace", s.env, "generate", "-file", file, "-json"); r.code != 1 {
		t.Errorf("generate of a bad line: exit code %d, want 1", r.code)
	} else {
		s.compare("generate", r.out, nil)
	}
	s.check("pause", "", nil)
	s.check("resume", "", nil)
	s.check("peek ready", "-n 3", nil)
	s.check("process", "-empty", nil)
	s.check("peek handed-off", "", nil)
	s.check("promote", "-empty", nil)
	s.check("views list", "", nil)
	s.check("views refresh", "", nil)

	// Rejects.
	var rejects struct {
		Rejects []struct {
			ID  int
			Key string
		}
	}
	s.check("rejects list", "-code unknown_product -n 2", &rejects)
	s.check("rejects codes", "", nil)
	if len(rejects.Rejects) != 2 {
		t.Fatalf("rejects list: got %d, want 2", len(rejects.Rejects))
	}
	first, second := strconv.Itoa(rejects.Rejects[0].ID), strconv.Itoa(rejects.Rejects[1].ID)
	s.check("find", rejects.Rejects[0].Key, nil)
	s.check("rejects show", first, nil)
	s.check("rejects resolve", first, nil)
	s.check("rejects show", first, nil) // with the time of that
	s.check("rejects list", "-all -n 1", nil)
	s.check("rejects replay", second, nil)
	s.ok("process -empty")
	s.ok("promote -empty")

	// Dead letters, and a batch that a worker holds.
	ctx := t.Context()
	q, err := queue.New(ctx, stores.redis.Client(t), "orders", queue.Config{Lease: queue.LeaseConfig{Records: 1, MaxFailures: 1, Backoff: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	buryLetters(t, q, "poison", `{"order_id":"venom"}`)
	var dead struct{ Dead []struct{ ID string } }
	s.check("dead list", "", &dead)
	s.check("dead list", "-n 1", nil) // more follow
	if len(dead.Dead) != 2 {
		t.Fatalf("dead list: got %d, want 2", len(dead.Dead))
	}
	s.check("dead show", dead.Dead[1].ID, nil)
	s.check("find", dead.Dead[0].ID, nil)
	s.check("dead requeue", dead.Dead[1].ID, nil)
	s.check("dead discard", "-yes "+dead.Dead[0].ID, nil)
	held, err := q.Lease(ctx, queue.LeaseOptions{Records: 1, Worker: "worker-7"})
	if err != nil {
		t.Fatal(err)
	}
	s.check("peek leased", "", nil)
	s.check("find", held.ID, nil)
	fillWindows(t, stores, "sales")
	s.check("audit", "-window sales", nil)
	s.check("stats", "-window sales -window none", nil)

	s.check("schema check", "", nil)
	s.check("grants print", "app", nil)
	s.check("doctor", "", nil)
	s.check("benchmark", "-total 1000 -batch 500", nil)
	s.check("prune", "-before 1h -yes", nil)
	page := start(t, "headrace", s.env, "console", "-listen", "127.0.0.1:0", "-json")
	page.reports("http://127.0.0.1:")
	if err := page.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	s.compare("console", page.wait().out, nil)
	s.check("clear", "all -yes", nil)

	// Books that are off: exit code 1, and the object is there.
	execute(t, stores.pg.Pool(t), "UPDATE orders_ledger SET kept = kept - 7 WHERE id = (SELECT id FROM orders_ledger ORDER BY id LIMIT 1)")
	for _, verb := range []string{"audit", "stats"} {
		r := run(t, "headrace", s.env, verb, "-json")
		if r.code != 1 {
			t.Errorf("%s with books that are off: exit code %d, want 1", verb, r.code)
		}
		s.compare(verb, r.out, nil)
	}

	for verb := range s.want {
		if !s.seen[verb] {
			t.Errorf("%s is documented and was not run", verb)
		}
	}
	for _, name := range verbs {
		verb := strings.TrimPrefix(name, "headrace ")
		if verb != "headrace" && verb != "peek" && !s.seen[verb] {
			t.Errorf("the JSON of %s was not checked", verb)
		}
	}
}
