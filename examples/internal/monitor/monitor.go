// Package monitor serves what operators and orchestrators ask a program: /metrics for Prometheus,
// /livez and /readyz, and /debug/pprof.
//
//	m, err := monitor.Start(ctx, p, listen, map[string]monitor.Ping{"Redis": …})
//	defer m.Close()
//	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{Observer: m.Observer()})
//
// A program that is given no address to listen at has a nil *Monitor, whose methods do nothing.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/internal/reach"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/otelpipeline"
)

// pingTimeout bounds the checks of one /readyz, and of the stores in one /metrics. Prometheus gives
// up after 10 s.
const pingTimeout = 3 * time.Second

// Ping asks a store for a sign of life.
type Ping func(ctx context.Context) error

// Monitor is the HTTP server of a program.
type Monitor struct {
	pings    map[string]Ping
	stopping <-chan struct{}
	observer *otelpipeline.Observer
	provider *sdk.MeterProvider
	server   *http.Server
	served   chan struct{}

	mu    sync.Mutex
	stops []func() error
}

// Start serves at listen, such as ":9100" or "127.0.0.1:0". An empty listen returns nil. When ctx
// ends, the program is not ready any more; it is served until Close.
func Start(ctx context.Context, p *program.Program, listen string, pings map[string]Ping) (*Monitor, error) {
	if listen == "" {
		return nil, nil
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo())
	if err != nil {
		return nil, err
	}
	m := &Monitor{pings: pings, stopping: ctx.Done(), provider: sdk.NewMeterProvider(sdk.WithReader(exporter)), served: make(chan struct{})}
	if m.observer, err = otelpipeline.New(otelpipeline.Config{MeterProvider: m.provider, Timeout: pingTimeout}); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("cannot listen at %s: choose another --listen (%s)", listen, reach.Cause(err))
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn)}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", m.ready)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	m.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		defer close(m.served)
		if err := m.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.Say("cannot serve metrics any more: %v", err)
		}
	}()
	p.Say("serving /metrics, /livez, /readyz and /debug/pprof at http://%s", l.Addr())
	return m, nil
}

// ready answers 200 while every store answers and the program is not stopping, else 503 and what is
// wrong, a line each.
func (m *Monitor) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), pingTimeout)
	defer cancel()
	var mu sync.Mutex
	var wrong []string
	var wg sync.WaitGroup
	for name, ping := range m.pings {
		wg.Go(func() {
			if err := ping(ctx); err != nil {
				mu.Lock()
				wrong = append(wrong, name+": "+reach.Cause(err))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	select {
	case <-m.stopping:
		wrong = append(wrong, "the program is stopping")
	default:
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		http.Error(w, strings.Join(wrong, "\n"), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// Observer returns the observer for a worker or a promoter; nil if nothing is served.
func (m *Monitor) Observer(next pipeline.Observer) pipeline.Observer {
	if m == nil {
		return next
	}
	return pipeline.ObserverFunc(func(ctx context.Context, e pipeline.Event) {
		m.observer.Observe(ctx, e)
		if next != nil {
			next.Observe(ctx, e)
		}
	})
}

// Watch adds gauges of what the stores hold.
func (m *Monitor) Watch(s otelpipeline.Stores) error {
	if m == nil {
		return nil
	}
	stop, err := m.observer.Watch(s)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stops = append(m.stops, stop)
	return nil
}

// Counter returns a counter; one that counts nothing if nothing is served.
func (m *Monitor) Counter(name, unit, text string) (func(n float64), error) {
	if m == nil {
		return func(float64) {}, nil
	}
	c, err := m.provider.Meter("github.com/headrace/headrace/examples").Float64Counter(name, metric.WithUnit(unit), metric.WithDescription(text))
	if err != nil {
		return nil, err
	}
	c.Add(context.Background(), 0) // it is there from the start
	return func(n float64) { c.Add(context.Background(), n) }, nil
}

// Close stops serving. Call it before the stores are closed.
func (m *Monitor) Close() {
	if m == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*pingTimeout)
	defer cancel()
	err := m.server.Shutdown(ctx)
	<-m.served
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, stop := range m.stops {
		err = errors.Join(err, stop())
	}
	if err = errors.Join(err, m.observer.Close(), m.provider.Shutdown(ctx)); err != nil {
		slog.Warn("could not end the metrics", "error", err)
	}
}
