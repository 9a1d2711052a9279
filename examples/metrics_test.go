package examples_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"gopkg.in/yaml.v3"

	"github.com/headrace/headrace/examples/internal/monitor"
	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

var served = regexp.MustCompile(`at (http://\S+)`)

// serving is a program that was started with -listen, and its address.
func serving(t *testing.T, name string, env []string, args ...string) (*process, string) {
	t.Helper()
	p := start(t, name, env, append(args, "-listen", "127.0.0.1:0")...)
	p.reports("serving /metrics")
	return p, served.FindStringSubmatch(p.errors.text())[1]
}

// get returns the status and the body of a page.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// scrape reads the metrics of programs with Prometheus' own parser, as one Prometheus sees them.
func scrape(t *testing.T, addresses ...string) samples {
	t.Helper()
	out := samples{}
	for _, a := range addresses {
		status, body := get(t, a+"/metrics")
		if status != http.StatusOK {
			t.Fatalf("%s/metrics: status %d\n%s", a, status, body)
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(body))
		if err != nil {
			t.Fatalf("%s/metrics: Prometheus cannot read it: %v", a, err)
		}
		for name, f := range families {
			vector, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{Timestamp: model.Now()}, f)
			if err != nil {
				t.Fatal(err)
			}
			out[name] = append(out[name], nil...)
			for _, s := range vector {
				labels := map[string]string{"instance": a}
				for k, v := range s.Metric {
					labels[string(k)] = string(v)
				}
				out[labels["__name__"]] = append(out[labels["__name__"]], sample{labels, float64(s.Value)})
			}
		}
	}
	return out
}

// rules reads the expressions of the alerts by name.
func rules(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				For         string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, r := range file.Groups[0].Rules {
		if r.Annotations["summary"] == "" || r.Labels["severity"] == "" {
			t.Errorf("%s has no summary or no severity", r.Alert)
		}
		out[r.Alert] = r.Expr
	}
	return out
}

// Every alert is quiet on a pipeline that works, and fires when its cause is there. Every metric
// that the alerts and the dashboard name exists.
func TestAlertsAndDashboard(t *testing.T) {
	t.Parallel()
	s := own(t)
	ctx := t.Context()
	pool, redis := s.pg.Pool(t), s.redis.Client(t)
	worker, workerAt := serving(t, "worker", s.env(), "-batch", "500")
	promoter, promoterAt := serving(t, "promoter", s.env())
	producer, producerAt := serving(t, "producer", s.env(), "-orders", "100000000", "-bad", "0.2")
	alerts, fired := rules(t), make(map[string]bool)
	all := samples{}
	var before samples
	look := func(at ...string) samples {
		t.Helper()
		now := scrape(t, at...)
		maps.Copy(all, now)
		return now
	}
	fires := func(alert string, now samples) bool {
		t.Helper()
		v, err := evaluate(alerts[alert], before, now)
		if err != nil {
			t.Fatalf("%s: %v", alert, err)
		}
		fired[alert] = fired[alert] || len(v) > 0
		return len(v) > 0
	}
	q, err := queue.New(ctx, redis, "orders", queue.Config{Lease: queue.LeaseConfig{Records: 1, MaxFailures: 1, Backoff: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}

	eventually(t, "rows are promoted and the views refreshed", func() bool {
		now := look(workerAt, promoterAt, producerAt)
		return now.sum("headrace_rows_total") > 0 && now.sum("headrace_view_age_seconds") > 0
	})
	for _, a := range []string{workerAt, promoterAt, producerAt} {
		for page, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/debug/pprof/": "goroutine", "/debug/pprof/goroutine?debug=1": "goroutine profile"} {
			if status, body := get(t, a+page); status != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("%s%s: status %d, %q; want 200 and %q", a, page, status, body, want)
			}
		}
	}
	before = look(workerAt, promoterAt)
	for alert := range alerts {
		if alert != "HeadraceQueueDeep" && fires(alert, before) {
			t.Errorf("%s fires although nothing is wrong", alert)
		}
	}

	eventually(t, "more is promoted", func() bool {
		return look(promoterAt).sum("headrace_rows_total") > before.sum("headrace_rows_total")+1000
	})
	if !fires("HeadraceRejects", look(promoterAt)) {
		t.Error("HeadraceRejects does not fire, though a fifth is rejected")
	}
	eventually(t, "HeadraceViewStale fires", func() bool { // a refresh may come in between
		execute(t, pool, "UPDATE orders_views SET as_of = now() - interval '1 hour'")
		return fires("HeadraceViewStale", look(promoterAt))
	})

	stop := func(p *process) {
		t.Helper()
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.wait()
	}
	stop(producer)
	// The gate counts records until they are promoted. It must have room for what follows, because
	// nothing makes room without a promoter.
	eventually(t, "what was pushed is promoted", func() bool {
		st, err := q.Stats(ctx)
		return err == nil && st.Depth() == 0
	})
	stop(promoter)

	// Without a promoter, staged batches get old.
	push := func() {
		t.Helper()
		if r := run(t, "producer", s.env(), "-orders", "1000"); r.code != 0 {
			t.Fatalf("producer: exit code %d\n%s", r.code, r.err)
		}
	}
	push()
	eventually(t, "HeadraceNotPromoted fires", func() bool {
		execute(t, pool, "UPDATE orders_registry_a SET sealed_at = now() - interval '1 hour'; UPDATE orders_registry_b SET sealed_at = now() - interval '1 hour'")
		return fires("HeadraceNotPromoted", look(workerAt))
	})
	do := func(args ...string) {
		t.Helper()
		if err := redis.Do(ctx, redis.B().Arbitrary(args...).Build()).Error(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	for _, key := range text(t, redis, "KEYS", "{orders}:dedup:*") {
		if !strings.HasSuffix(key, ":state") {
			do("DEL", key)
		}
	}
	push() // the loss is noticed by the next claim
	eventually(t, "HeadraceDedupLost fires", func() bool { return fires("HeadraceDedupLost", look(workerAt)) })
	execute(t, pool, "UPDATE orders_control SET failed_since = now() - interval '1 minute', failures = 3, failure = 'no room'")
	if !fires("HeadracePromotionFails", look(workerAt)) {
		t.Error("HeadracePromotionFails does not fire")
	}
	if err := q.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	if !fires("HeadracePaused", look(workerAt)) {
		t.Error("HeadracePaused does not fire")
	}
	do(append([]string{"LPUSH", "{orders}:ready"}, slices.Repeat([]string{"x"}, 100_001)...)...)
	do("ZADD", q.LagKey(), "1", "an old batch")
	now := look(workerAt)
	for _, alert := range []string{"HeadraceQueueDeep", "HeadraceOldestRecord", "HeadraceDedupWindowShort"} {
		if !fires(alert, now) {
			t.Errorf("%s does not fire", alert)
		}
	}
	do("ZREM", q.LagKey(), "an old batch")
	if err := errors.Join(q.Resume(ctx), bury(ctx, q)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "HeadraceDeadLetters fires", func() bool {
		_, _ = q.TryLease(ctx, queue.LeaseOptions{Records: 1}) // buries it
		return fires("HeadraceDeadLetters", look(workerAt))
	})
	if !fires("HeadraceNotMonitored", samples{}) {
		t.Error("HeadraceNotMonitored does not fire without a worker and a promoter")
	}
	if err := s.redis.Kill(); err != nil {
		t.Fatal(err)
	}
	if !fires("HeadraceStoreDown", look(workerAt)) {
		t.Error("HeadraceStoreDown does not fire without Redis")
	}
	if status, body := get(t, workerAt+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "Redis: ") || strings.Contains(body, "Postgres") {
		t.Errorf("/readyz without Redis: status %d, %q; want 503 and Redis alone", status, body)
	}
	if status, _ := get(t, workerAt+"/livez"); status != http.StatusOK {
		t.Errorf("/livez without Redis: status %d, want 200: a restart would not help", status)
	}
	_ = worker.cmd.Process.Kill()

	// A step that fails for an hour: reported by the event.
	p := &program.Program{Name: "test", Out: io.Discard, Err: newLines()}
	m, err := monitor.Start(ctx, p, "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	at := served.FindStringSubmatch(p.Err.(*lines).text())[1]
	for _, e := range []pipeline.Event{
		{Op: pipeline.OpStuck, Step: "staging", Since: time.Now().Add(-time.Hour), Failures: 9, Err: io.ErrUnexpectedEOF},
		{Op: pipeline.OpStage, Batch: "b", Err: io.ErrUnexpectedEOF},
	} {
		e.At, e.Queue, e.Program = time.Now(), "orders", "w"
		m.Observer(nil).Observe(ctx, e)
	}
	if !fires("HeadraceStepFails", look(at)) {
		t.Error("HeadraceStepFails does not fire")
	}

	for alert := range alerts {
		if !fired[alert] {
			t.Errorf("nothing here makes %s fire", alert)
		}
	}
	known := slices.Sorted(maps.Keys(all))
	for _, file := range []string{"deploy/alerts.yaml", "deploy/grafana/headrace.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`headrace_[a-z_]+`).FindAllString(string(text), -1) {
			if _, ok := all[name]; !ok {
				t.Errorf("%s names the metric %s, which no program has; there are %v", file, name, known)
			}
		}
	}
}

// bury makes a record that is buried by the next lease.
func bury(ctx context.Context, q *queue.Queue) error {
	b, err := q.Lease(ctx, queue.LeaseOptions{Records: 1})
	if err != nil {
		return err
	}
	return q.Release(ctx, b, queue.ReleaseOptions{Failure: "it kills workers"})
}

// The end of a program ends its monitor, and an address that is in use is named.
func TestListen(t *testing.T) {
	t.Parallel()
	redis := servertest.OwnRedis(t)
	p, at := serving(t, "producer", env(redis.URL, ""), "-orders", "100000000")
	r := run(t, "producer", append(env(redis.URL, ""), "HEADRACE_LISTEN="+strings.TrimPrefix(at, "http://")), "-orders", "1")
	if r.code != 1 || !strings.Contains(r.err, "choose another --listen") || strings.Count(r.err, "\n") != 1 {
		t.Errorf("an address in use: exit code %d, %q; want 1 and one line", r.code, r.err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if r := p.wait(); r.code != 128+int(syscall.SIGTERM) {
		t.Errorf("after SIGTERM: exit code %d\n%s", r.code, r.err)
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(at, "http://")); err == nil {
		_ = c.Close()
		t.Error("the address is still served")
	}
}
