package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// The defaults of [Config].
const (
	DefaultInterval = 2 * time.Second
	DefaultTimeout  = 1500 * time.Millisecond
)

// The limits of [Config].
const (
	minInterval = 100 * time.Millisecond
	maxInterval = time.Minute
	minTimeout  = 50 * time.Millisecond
	maxTimeout  = 10 * time.Second
)

// Link is an address elsewhere, such as a dashboard, that every page links to.
type Link struct{ Text, URL string }

// Config configures a [Handler].
type Config struct {
	// Pipelines are shown in this order, at least one. Their names differ.
	Pipelines []Pipeline
	// Authorize decides about each action, both before its page is shown and before it is done. It
	// returns who acts, for the log, or an error. Nil: the console only reads, and every action is
	// refused. It is not called for reads: put the handler behind the authentication of your other
	// pages.
	Authorize func(r *http.Request, a Action) (who string, err error)
	// HidePayloads keeps the payloads of records out of every page.
	HidePayloads bool
	// Links appear on every page.
	Links []Link
	// Interval is how old a shown answer of a store may be, and how often a page with JavaScript
	// loads itself again. Default [DefaultInterval].
	Interval time.Duration
	// Timeout is how long a page waits for the stores before it is shown without what is missing.
	// Default [DefaultTimeout].
	Timeout time.Duration
	// Logger receives each action with who did it. Nil: slog.Default().
	Logger *slog.Logger
}

// Handler serves the console. This type is concurrency safe.
type Handler struct {
	cfg     Config
	pipes   []*pipe
	started time.Time
	handler http.Handler
	journal journal

	smallLedger int64 // see smallLedger

	ctx    context.Context // ends the readings
	cancel context.CancelFunc
	wg     sync.WaitGroup // of the readings
}

// New returns the handler of a console. It performs no I/O: the stores are read when a page is
// requested.
//
// Mount it at any path, without that path in front:
//
//	mux.Handle("/headrace/", http.StripPrefix("/headrace", h))
func New(cfg Config) (*Handler, error) {
	cfg.Interval = cmp.Or(cfg.Interval, DefaultInterval)
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if len(cfg.Pipelines) == 0 {
		return nil, fmt.Errorf("%w: Config.Pipelines is empty, must have at least 1 pipeline", ErrConfig)
	}
	for _, d := range []struct {
		field              string
		value, least, most time.Duration
	}{{"Interval", cfg.Interval, minInterval, maxInterval}, {"Timeout", cfg.Timeout, minTimeout, maxTimeout}} {
		if d.value < d.least || d.value > d.most {
			return nil, fmt.Errorf("%w: Config.%s is %v, must be %v to %v", ErrConfig, d.field, d.value, d.least, d.most)
		}
	}
	h := &Handler{cfg: cfg, started: time.Now(), smallLedger: smallLedger}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	seen := map[string]bool{}
	for i, p := range cfg.Pipelines {
		field := fmt.Sprintf("Config.Pipelines[%d]", i)
		p, err := p.validate(field)
		if err != nil {
			return nil, err
		}
		if seen[p.Name] {
			return nil, fmt.Errorf("%w: %s.Name is %q, must differ from that of every earlier pipeline", ErrConfig, field, p.Name)
		}
		seen[p.Name] = true
		pipe, err := h.newPipe(p)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrConfig, field, err)
		}
		h.pipes = append(h.pipes, pipe)
	}
	h.handler = http.NewCrossOriginProtection().Handler(http.HandlerFunc(h.serve))
	return h, nil
}

// Run takes a sample of every pipeline at an even pace, so that the charts have the last hour also
// when no page was open. It is a service of [pipeline.Run]: it returns when ctx is done. A handler
// that does not run takes its samples when pages are shown.
func (h *Handler) Run(ctx context.Context) error {
	tick := time.NewTicker(sampleInterval)
	defer tick.Stop()
	for {
		for _, p := range h.pipes {
			p.stats.refresh()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Close cancels the queries to the stores that are in progress, and waits for them. The handler
// answers afterwards with what it knows. Close it before the stores.
func (h *Handler) Close() {
	h.cancel()
	h.wg.Wait()
}

// ServeHTTP serves a page, its JSON, or an action.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
		"form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	h.handler.ServeHTTP(w, r)
}

// serve finds the page of an address and shows it.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) {
	at, err := parseAddress(r)
	if err != nil {
		h.fail(w, r, at, err)
		return
	}
	if at.file != "" {
		h.serveFile(w, r, at.file)
		return
	}
	if at.redirect != "" {
		w.Header().Set("Location", at.redirect) // relative: the handler does not know where it is mounted
		w.WriteHeader(http.StatusMovedPermanently)
		return
	}
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	if !reads && (r.Method != http.MethodPost || at.page != pageDo) {
		w.Header().Set("Allow", "GET, HEAD")
		h.fail(w, r, at, errMethod)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.cfg.Timeout)
	defer cancel()
	if at.probe {
		h.serveProbe(ctx, w, at)
		return
	}
	if at.name == "" {
		h.show(w, r, at, nil, h.index(ctx))
		return
	}
	p := h.find(at.name)
	if p == nil {
		h.fail(w, r, at, fmt.Errorf("%w: there is no pipeline %q", ErrNotFound, at.name))
		return
	}
	if at.page == pageDo {
		h.act(w, r, at, p)
		return
	}
	page, ok := pages[at.page]
	if !ok {
		h.fail(w, r, at, fmt.Errorf("%w: there is no page %q", ErrNotFound, at.page))
		return
	}
	model, err := page.build(ctx, p, r)
	if err != nil {
		h.fail(w, r, at, err)
		return
	}
	h.show(w, r, at, p, model)
}

func (h *Handler) find(name string) *pipe {
	for _, p := range h.pipes {
		if p.Name == name {
			return p
		}
	}
	return nil
}

var errMethod = errors.New("console: method not allowed")

// statusOf is the status of an error.
func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrUnavailable):
		return http.StatusNotFound
	case errors.Is(err, ErrArgument):
		return http.StatusBadRequest
	case errors.Is(err, ErrReadOnly), errors.Is(err, ErrForbidden):
		return http.StatusForbidden
	case errors.Is(err, errMethod):
		return http.StatusMethodNotAllowed
	}
	return http.StatusServiceUnavailable
}
