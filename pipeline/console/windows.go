package console

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/window"
)

// namedWindow is a store of windows by its name. It may be created while the console runs.
type namedWindow struct {
	redis   rueidis.Client
	name    string
	opening chan struct{}  // guards reader
	reader  *window.Reader // nil: not opened yet
}

func newNamedWindow(redis rueidis.Client, name string) *namedWindow {
	return &namedWindow{redis: redis, name: name, opening: make(chan struct{}, 1)}
}

func (w *namedWindow) open(ctx context.Context) (*window.Reader, error) {
	select {
	case w.opening <- struct{}{}:
		defer func() { <-w.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if w.reader == nil {
		r, err := window.Open(ctx, w.redis, w.name)
		if err != nil {
			return nil, err
		}
		w.reader = r
	}
	return w.reader, nil
}

func (w *namedWindow) Name() string { return w.name }

// Stats counts what is where.
func (w *namedWindow) Stats(ctx context.Context) (window.Stats, error) {
	r, err := w.open(ctx)
	if err != nil {
		return window.Stats{}, err
	}
	return r.Stats(ctx)
}

// Windows lists the windows of a phase.
func (w *namedWindow) Windows(ctx context.Context, phase window.Phase, cursor string, n int) ([]window.Summary, string, error) {
	r, err := w.open(ctx)
	if err != nil {
		return nil, "", err
	}
	return r.Windows(ctx, phase, cursor, n)
}

// Late lists the late events.
func (w *namedWindow) Late(ctx context.Context, cursor string, n int) ([]window.LateEvent, string, error) {
	r, err := w.open(ctx)
	if err != nil {
		return nil, "", err
	}
	return r.Late(ctx, cursor, n)
}

// windowCounts are the counts of a store of windows.
type windowCounts struct {
	stats   window.Stats
	missing bool // no program has used the name yet
}

func countWindows(w Window) func(context.Context) (windowCounts, error) {
	return func(ctx context.Context) (windowCounts, error) {
		s, err := w.Stats(ctx)
		if errors.Is(err, window.ErrMissing) {
			return windowCounts{missing: true}, nil
		}
		return windowCounts{stats: s}, err
	}
}

// WindowState is a store of windows.
type WindowState struct {
	Name string `json:"name"`
	// Stats is nil where there is no answer.
	Stats *window.Stats `json:"stats"`
	// Missing reports that no program has used the name yet.
	Missing bool `json:"missing,omitempty"`
	// Imbalance is why its books do not balance, "" if they do.
	Imbalance string `json:"imbalance,omitempty"`
}

func (p *pipe) windowState(c *Common, i int) WindowState {
	s := WindowState{Name: p.Windows[i].Name()}
	if counts := take(c, p.windows[i]); counts != nil {
		s.Missing = counts.missing
		if !s.Missing {
			s.Stats = &counts.stats
			if err := s.Stats.Balanced(); err != nil {
				s.Imbalance = oneLine(err.Error())
			}
		}
	}
	return s
}

// WindowSummary is a tumbling window without its events.
type WindowSummary struct {
	Key    string    `json:"key"`
	Start  time.Time `json:"start"`
	End    time.Time `json:"end"`
	Events int64     `json:"events"`
	// At is the end of an open window, when a window became or becomes due, when its lease ends, or
	// when it died.
	At       time.Time     `json:"at"`
	Reason   window.Reason `json:"reason,omitempty"`
	Attempts int64         `json:"attempts"`
	Failures int64         `json:"failures"`
	Failure  string        `json:"failure,omitempty"`
}

// LateEvent is an event that was set aside, with the window that it missed.
type LateEvent struct {
	Key string    `json:"key"`
	At  time.Time `json:"at"`
	// Start and End are those of the window that it missed; nil: it missed none.
	Start   *time.Time    `json:"start,omitempty"`
	End     *time.Time    `json:"end,omitempty"`
	Reason  window.Reason `json:"reason"`
	Seen    time.Time     `json:"seen"`
	Payload Payload       `json:"payload"`
}

// WindowList is the first windows of one phase, or a page of them.
type WindowList struct {
	Phase   window.Phase    `json:"phase"`
	Windows []WindowSummary `json:"windows"`
	// Next is the after of the next page, "" at the end.
	Next string `json:"next,omitempty"`
}

// LateList is the first late events, or a page of them.
type LateList struct {
	Events []LateEvent `json:"events"`
	Next   string      `json:"next,omitempty"`
}

// WindowDetail is one store of windows with the first of each list, or with a page of one list.
type WindowDetail struct {
	WindowState
	// List is the list that was asked for: open, due, leased, dead or late; "": all of them.
	List  string       `json:"list,omitempty"`
	Lists []WindowList `json:"lists"`
	Late  *LateList    `json:"late,omitempty"`
}

// Bounds of what one page lists of a store of windows.
const (
	windowHead = 20 // of each list
	windowPage = 50 // of the one list that was asked for
	listLate   = "late"
)

// phases are in the order in which a page lists them: first what is wrong.
var phases = []window.Phase{window.PhaseDead, window.PhaseDue, window.PhaseLeased, window.PhaseOpen}

// windowQuery asks for the lists of a store of windows.
type windowQuery struct {
	list   string // "": the beginning of all
	cursor string
}

func parseWindowQuery(r *http.Request) (q windowQuery, err error) {
	q.list = r.FormValue("list")
	known := q.list == "" || q.list == listLate
	for _, phase := range phases {
		known = known || q.list == string(phase)
	}
	if !known {
		return q, fmt.Errorf("%w: list is %q, must be open, due, leased, dead or late", ErrArgument, q.list)
	}
	after := r.FormValue("after")
	cursor, err := base64.RawURLEncoding.DecodeString(after)
	if err != nil || after != "" && q.list == "" {
		return q, fmt.Errorf("%w: invalid cursor %q", ErrArgument, after)
	}
	q.cursor = string(cursor)
	return q, nil
}

// nextWindow is a cursor of package window in a form that fits into an address.
func nextWindow(cursor string) string { return base64.RawURLEncoding.EncodeToString([]byte(cursor)) }

// readLists reads the lists that a query asks for: two commands for each, and no events of windows.
func (h *Handler) readLists(ctx context.Context, w Window, q windowQuery) (d WindowDetail, err error) {
	n := windowHead
	if q.list != "" {
		n = windowPage
	}
	d.List, d.Lists = q.list, []WindowList{}
	for _, phase := range phases {
		if q.list != "" && q.list != string(phase) {
			continue
		}
		page, next, err := w.Windows(ctx, phase, q.cursor, n)
		if err != nil {
			return d, err
		}
		l := WindowList{Phase: phase, Windows: []WindowSummary{}, Next: nextWindow(next)}
		for _, s := range page {
			l.Windows = append(l.Windows, WindowSummary{
				Key: visible(s.Key), Start: s.Start, End: s.End, Events: s.Events, At: s.At,
				Reason: window.Reason(visible(string(s.Reason))), Attempts: s.Attempts, Failures: s.Failures, Failure: oneLine(s.Failure),
			})
		}
		d.Lists = append(d.Lists, l)
	}
	if q.list != "" && q.list != listLate {
		return d, nil
	}
	page, next, err := w.Late(ctx, q.cursor, n)
	if err != nil {
		return d, err
	}
	d.Late = &LateList{Events: []LateEvent{}, Next: nextWindow(next)}
	for _, e := range page {
		x := LateEvent{
			Key: visible(e.Key), At: e.At, Reason: window.Reason(visible(string(e.Reason))), Seen: e.Seen,
			Payload: h.payload([]byte(e.Data)[:min(len(e.Data), listBytes)], int64(len(e.Data))),
		}
		if !e.End.IsZero() {
			x.Start, x.End = &e.Start, &e.End
		}
		d.Late.Events = append(d.Late.Events, x)
	}
	return d, nil
}

// buildWindow makes the page of one store of windows.
func buildWindow(ctx context.Context, p *pipe, r *http.Request, d *TablesPage) error {
	name := r.FormValue("window")
	q, err := parseWindowQuery(r)
	if err != nil {
		return err
	}
	for i, w := range p.Windows {
		if w.Name() != name {
			continue
		}
		lists := ask(p, p.redis, "the windows of "+name, fmt.Sprintf("%q", []string{q.list, q.cursor}), func(ctx context.Context) (WindowDetail, error) {
			x, err := p.h.readLists(ctx, w, q)
			if errors.Is(err, window.ErrMissing) {
				return WindowDetail{}, nil
			}
			return x, err
		})
		await(ctx, p.windows[i], lists)
		if a := lists.get(); errors.Is(a.err, window.ErrArgument) {
			return fmt.Errorf("%w: invalid cursor %q", ErrArgument, r.FormValue("after"))
		}
		d.Window = &WindowDetail{Lists: []WindowList{}}
		if x := take(&d.Common, lists); x != nil {
			d.Window = &WindowDetail{List: x.List, Lists: append(d.Window.Lists, x.Lists...), Late: x.Late}
		}
		d.Window.WindowState = p.windowState(&d.Common, i)
		return nil
	}
	return fmt.Errorf("%w: the console was given no windows %q", ErrNotFound, strings.TrimSpace(visible(name)))
}
