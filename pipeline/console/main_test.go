package console_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/console"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
	"github.com/headrace/headrace/window"
)

func TestMain(m *testing.M) { servertest.Main(m) }

// item is the record of these tests: "id kind", where kind decides its fate.
type item struct {
	ID   string `db:"id"`
	Kind string `db:"kind"`
}

func decode(p []byte) (item, error) {
	id, kind, ok := strings.Cut(string(p), " ")
	if !ok {
		return item{}, pipeline.Reject("malformed", "no kind in %q", p)
	}
	return item{id, kind}, nil
}

func judge(v item) (item, error) {
	switch v.Kind {
	case "refuse":
		return v, pipeline.Reject("refused", "as %s asked", v.ID)
	case "odd":
		return v, pipeline.Reject("odd", "%s is odd", v.ID)
	case "poison":
		panic("poison " + v.ID)
	}
	return v, nil
}

// rig is one pipeline of its own on real servers, with every part that the console shows.
type rig struct {
	t       *testing.T
	redis   rueidis.Client
	pool    *pgxpool.Pool
	queue   *queue.Queue
	flow    pipeline.Flow[item]
	windows *window.Store
	pipe    console.Pipeline
	handler *console.Handler
	server  *httptest.Server
	base    string // of the pipeline's pages
}

// rigOptions are what a test wants otherwise.
type rigOptions struct {
	name   string
	redis  rueidis.Client // of the console and the pipeline
	config func(*console.Config)
}

func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	ctx := t.Context()
	r := &rig{t: t, redis: o.redis, pool: servertest.UTF8Postgres(t)}
	if r.redis == nil {
		r.redis = servertest.Redis(t)
	}
	name := servertest.Prefix(t) + o.name
	var err error
	r.queue, err = queue.New(ctx, r.redis, name, queue.Config{Lease: queue.LeaseConfig{
		Backoff: time.Millisecond, PollInterval: 10 * time.Millisecond, MaxFailures: 1,
	}})
	must(t, err)
	claims, err := dedup.New(ctx, r.redis, name, dedup.Config{})
	must(t, err)
	table, err := staging.New(ctx, r.pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}, ID: "id"})
	must(t, err)
	signals, err := pipeline.NewSignals(r.redis, name)
	must(t, err)
	gate, err := backpressure.New(ctx, r.redis, name, backpressure.Config{Records: backpressure.SourcesOf(r.queue), High: 1000})
	must(t, err)
	products, err := lookup.New(ctx, r.redis, name+"-products", lookup.Config[string, string]{
		Load: lookup.FromMap(func(context.Context) (map[string]string, error) { return map[string]string{"p1": "a product"}, nil }),
	})
	must(t, err)
	r.windows, err = window.New(ctx, r.redis, name, window.Config{Size: time.Minute, Lateness: -1, MaxFailures: 1})
	must(t, err)
	views, err := matview.New(ctx, r.pool, "items", matview.Config{Populate: true, Views: []matview.View{{
		Name: "items_by_kind", SQL: "SELECT kind, count(*) AS n FROM items GROUP BY kind", UniqueIndex: []string{"kind"},
	}}})
	must(t, err)
	r.flow = pipeline.Flow[item]{
		Queue: r.queue, Table: table, Signals: signals, Gate: gate,
		Chain: pipeline.Then4(
			pipeline.Decode(decode),
			pipeline.Dedup(claims, func(v item) string { return v.ID }),
			pipeline.Filter("wanted", func(v item) bool { return v.Kind != "filter" }),
			pipeline.Map("judge", judge),
		),
	}
	r.pipe = console.Of(r.flow, r.redis, r.pool)
	r.pipe.High = 1000
	r.pipe.Lookups = []console.Lookup{products}
	r.pipe.Windows = []console.Window{r.windows}
	r.pipe.Views = views
	r.serve(o.config)
	return r
}

// serve starts a console of the pipeline below a path, as a program would.
func (r *rig) serve(change func(*console.Config)) {
	r.t.Helper()
	cfg := console.Config{Pipelines: []console.Pipeline{r.pipe}, Interval: 100 * time.Millisecond, Logger: quiet}
	if change != nil {
		change(&cfg)
	}
	h, err := console.New(cfg)
	must(r.t, err)
	mux := http.NewServeMux()
	mux.Handle("/headrace/", http.StripPrefix("/headrace", h))
	s := httptest.NewServer(mux)
	r.handler, r.server = h, s
	r.base = s.URL + "/headrace/p/" + url.PathEscape(cmp.Or(cfg.Pipelines[0].Name, r.queue.Name())) + "/"
	r.t.Cleanup(func() { s.Close(); h.Close() }) // before the stores
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func (r *rig) push(records ...string) {
	r.t.Helper()
	payloads := make([][]byte, len(records))
	for i, p := range records {
		payloads[i] = []byte(p)
	}
	must(r.t, r.queue.Push(r.t.Context(), payloads...))
}

// run runs a worker and a promoter until everything pushed is settled.
func (r *rig) run() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	worker, err := pipeline.NewWorker(r.flow, pipeline.WorkerConfig{Name: "worker-1", Records: 4, Linger: time.Millisecond, Logger: quiet})
	must(r.t, err)
	promoter, err := pipeline.NewPromoter(r.flow, pipeline.PromoterConfig{PollInterval: 20 * time.Millisecond, Logger: quiet})
	must(r.t, err)
	done := make(chan error, 1)
	go func() { done <- pipeline.Run(ctx, worker, promoter) }()
	eventually(r.t, func() error {
		s, err := r.queue.Stats(ctx)
		if err == nil && s.Depth() > 0 {
			err = fmt.Errorf("%d records are not settled: %+v", s.Depth(), s)
		}
		return err
	})
	cancel()
	must(r.t, <-done)
}

// eventually polls for what no signal announces. The limit only detects a hang.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("after a minute: %v", err)
		case <-tick.C:
		}
	}
}

// reply is what the console answered.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r *rig) do(req *http.Request) reply {
	r.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	must(r.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(r.t, err)
	client.CloseIdleConnections()
	return reply{resp.StatusCode, resp.Header, string(body)}
}

// get loads a page, by its address below the pipeline, and checks the status.
func (r *rig) get(page string) string {
	r.t.Helper()
	got := r.request(http.MethodGet, r.base+page, nil)
	if got.status != http.StatusOK {
		r.t.Fatalf("%s: status %d, want 200:\n%s", page, got.status, got.body)
	}
	return got.body
}

func (r *rig) request(method, url string, body io.Reader) reply {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, url, body)
	must(r.t, err)
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r.do(req)
}

// read loads a page as JSON.
func read[V any](r *rig, page string) V {
	r.t.Helper()
	var v V
	text := r.get(page)
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		r.t.Fatalf("%s: %v in\n%s", page, err, text)
	}
	return v
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in\n%s", p, text)
		}
	}
}
