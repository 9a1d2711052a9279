package console

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/window"
)

// page is one page of a pipeline.
type page struct {
	title string
	build func(ctx context.Context, p *pipe, r *http.Request) (model, error)
}

// pages are the pages of a pipeline, by their names in addresses.
var pages = map[string]page{
	pageOverview: {"Overview", buildOverview},
	"queue":      {"Queue", buildQueue},
	"dead":       {"Dead letters", buildDead},
	"rejects":    {"Rejects", buildRejects},
	"find":       {"Find", buildFind},
	"batches":    {"Batches", buildBatches},
	"tables":     {"Lookups, windows, views", buildTables},
	"health":     {"Health", buildHealth},
}

// menu is the order of the pages.
var menu = []string{pageOverview, "queue", "dead", "rejects", "find", "batches", "tables", "health"}

// model is what a page shows, and what its JSON contains.
type model interface{ common() *Common }

// Common is what every page has.
type Common struct {
	// At is when the page was made.
	At time.Time `json:"at"`
	// Gaps name what is missing or old.
	Gaps []Gap `json:"gaps"`
}

func (c *Common) common() *Common { return c }

func newCommon() Common { return Common{At: time.Now(), Gaps: []Gap{}} }

// take returns the last answer of a reading, nil if there is none, and notes what is missing.
func take[V any](c *Common, r *reading[V]) *V {
	a := r.get()
	if g := a.gap(); g != nil {
		c.Gaps = append(c.Gaps, *g)
	}
	if !a.ok {
		return nil
	}
	return &a.value
}

// BookLine is one equation of the books.
type BookLine struct {
	Name string `json:"name"`
	Off  int64  `json:"off"`
	Sum  string `json:"sum"`
}

// Verdict is the state of a pipeline in one line.
type Verdict struct {
	// State is "ok", "stuck", "lost" or "unknown". "lost" means that the books do not balance.
	State string `json:"state"`
	Text  string `json:"text"`
}

// The states of a [Verdict].
const (
	verdictOK      = "ok"
	verdictStuck   = "stuck"
	verdictLost    = "lost"
	verdictUnknown = "unknown"
)

// Overview answers, in this order: is anything lost or stuck, how far behind is the pipeline, what
// was rejected.
type Overview struct {
	Common
	Verdict Verdict    `json:"verdict"`
	Books   []BookLine `json:"books"`
	// Note is why the two stores are not compared.
	Note    string              `json:"note,omitempty"`
	Stalls  []pipeline.Stall    `json:"stalls"`
	Queue   *queue.Stats        `json:"queue"`
	Unacked *int64              `json:"committed_not_acked"`
	Staged  *Staged             `json:"staged"`
	Gate    *backpressure.Stats `json:"gate"`
	High    int64               `json:"gate_high,omitempty"`
	Minutes []Minute            `json:"minutes"`
	History History             `json:"history"`
	Codes   []Code              `json:"rejects_by_code"`

	Throughput, Delay, Depth Chart `json:"-"`
}

func buildOverview(ctx context.Context, p *pipe, _ *http.Request) (model, error) {
	wanted := []refresher{p.stats, p.books, p.staged, p.minutes, p.codes}
	if p.gate != nil {
		wanted = append(wanted, p.gate)
	}
	await(ctx, wanted...)
	o := &Overview{Common: newCommon(), High: p.High}
	o.Queue = take(&o.Common, p.stats)
	books := take(&o.Common, p.books)
	o.Staged = take(&o.Common, p.staged)
	if p.gate != nil {
		o.Gate = take(&o.Common, p.gate)
	}
	if m := take(&o.Common, p.minutes); m != nil {
		o.Minutes = *m
	}
	if c := take(&o.Common, p.codes); c != nil {
		o.Codes = *c
	}
	o.Verdict, o.Books, o.Stalls = verdict(books, o.Staged)
	if books != nil {
		o.Note = books.note
		if o.Note == "" || books.books.Unacked > 0 {
			o.Unacked = &books.books.Unacked
		}
	}
	o.History = p.ring.history(o.At)
	o.Throughput, o.Delay = throughputChart(o.Minutes, o.At), delayChart(o.Minutes, o.At)
	o.Depth = depthChart(o.History, p.High, o.At)
	return o, nil
}

// verdict judges the books, and lists their lines and what is stuck.
func verdict(set *bookSet, staged *Staged) (v Verdict, lines []BookLine, stalls []pipeline.Stall) {
	lines, stalls = []BookLine{}, []pipeline.Stall{}
	if set == nil {
		return Verdict{verdictUnknown, "The books could not be read."}, lines, stalls
	}
	b := set.books
	for i, l := range b.Lines() {
		if set.table || i == 0 {
			lines = append(lines, BookLine{l.Name, l.Imbalance(), l.Sum})
		}
	}
	stalls = append(stalls, b.Stalls...)
	if staged != nil && staged.FailingSince != nil {
		stalls = append(stalls, pipeline.Stall{Step: "promoting", Since: *staged.FailingSince, Failures: int(staged.Failures), Reason: staged.Failure})
	}
	for i := range stalls {
		stalls[i].Reason = oneLine(stalls[i].Reason)
	}
	switch err := b.Balanced(); {
	case err != nil:
		return Verdict{verdictLost, "The books do not balance: records are lost or counted twice."}, lines, stalls
	case len(stalls) > 0:
		return Verdict{verdictStuck, "Nothing is lost, but a step fails again and again."}, lines, stalls
	case b.Redis.BrokenBatches > 0:
		return Verdict{verdictStuck, fmt.Sprintf("%s batches are broken: keys of them were deleted or overwritten.", exact(b.Redis.BrokenBatches))}, lines, stalls
	case b.Redis.Paused:
		return Verdict{verdictStuck, "Nothing is lost. The queue is paused: no worker leases."}, lines, stalls
	}
	return Verdict{verdictOK, "Nothing is lost and nothing is stuck."}, lines, stalls
}

// QueuePage is the head of the ready list, and the batches of each state.
type QueuePage struct {
	Common
	Queue  *queue.Stats `json:"queue"`
	Head   []Payload    `json:"head"` // of the ready list, oldest first
	Flight *Flight      `json:"batches"`
	// Promotes and Reconciles report that the console can do that.
	Promotes   bool `json:"can_promote"`
	Reconciles bool `json:"can_reconcile"`
}

func buildQueue(ctx context.Context, p *pipe, _ *http.Request) (model, error) {
	await(ctx, p.stats, p.head, p.flight)
	q := &QueuePage{Common: newCommon(), Head: []Payload{}, Promotes: p.Promote != nil, Reconciles: p.Reconcile != nil}
	q.Queue = take(&q.Common, p.stats)
	if head := take(&q.Common, p.head); head != nil {
		for _, r := range *head {
			q.Head = append(q.Head, p.h.payload(r.begin, r.length))
		}
	}
	q.Flight = take(&q.Common, p.flight)
	return q, nil
}

// DeadPage is a page of dead letters, newest first, or one of them.
type DeadPage struct {
	Common
	Queue   *queue.Stats `json:"queue"`
	Reason  string       `json:"filter_reason,omitempty"`
	Letters []Letter     `json:"dead"`
	// Next is the after of the next page, "" at the end.
	Next string `json:"next,omitempty"`
	// Letter is the one that was asked for by its id.
	Letter *Letter `json:"letter,omitempty"`
}

func buildDead(ctx context.Context, p *pipe, r *http.Request) (model, error) {
	d := &DeadPage{Common: newCommon(), Letters: []Letter{}}
	q := letterQuery{after: r.FormValue("after"), reason: r.FormValue("reason"), wanted: deadPage, looked: deadLooked, bytes: listBytes, id: r.FormValue("id")}
	if _, err := parseDeadCursor(q.after); err != nil {
		return nil, err
	}
	if q.id != "" {
		q.bytes = oneBytes
	}
	list := ask(p, p.redis, "the dead letters", fmt.Sprintf("%q", []string{q.after, q.reason, q.id}), func(ctx context.Context) (letterPage, error) { return p.readLetters(ctx, q) })
	await(ctx, p.stats, list)
	d.Queue, d.Reason = take(&d.Common, p.stats), q.reason
	page := take(&d.Common, list)
	switch {
	case page == nil:
	case q.id != "" && len(page.letters) == 0:
		return nil, fmt.Errorf("%w: no dead letter has the id %q: it was requeued or discarded", ErrNotFound, q.id)
	case q.id != "":
		d.Letter = &page.letters[0]
	default:
		d.Letters, d.Next = append(d.Letters, page.letters...), page.next
	}
	return d, nil
}

// RejectsPage is a page of rejects, newest first, or one of them.
type RejectsPage struct {
	Common
	Codes    []Code `json:"codes"`
	Code     string `json:"filter_code,omitempty"`
	Source   string `json:"filter_source,omitempty"`
	Within   string `json:"filter_within,omitempty"`
	Resolved bool   `json:"filter_resolved,omitempty"`
	// Looked is how many ids the counts by code go back.
	Looked  int      `json:"looked"`
	Rejects []Reject `json:"rejects"`
	// Next is the before of the next page, 0 at the end.
	Next int64 `json:"next,omitempty"`
	// Reject is the one that was asked for by its id.
	Reject *Reject `json:"reject,omitempty"`
}

func buildRejects(ctx context.Context, p *pipe, r *http.Request) (model, error) {
	d := &RejectsPage{Common: newCommon(), Rejects: []Reject{}, Codes: []Code{}, Looked: rejectsLooked}
	d.Code, d.Source, d.Within, d.Resolved = r.FormValue("code"), r.FormValue("source"), r.FormValue("within"), r.FormValue("resolved") != ""
	if text := r.FormValue("id"); text != "" {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: id is %q, must be a number", ErrArgument, text)
		}
		one := ask(p, p.postgres, "the reject", text, func(ctx context.Context) (*Reject, error) { return p.ledger.readReject(ctx, id, oneBytes) })
		await(ctx, one)
		if got := take(&d.Common, one); got != nil {
			if d.Reject = *got; d.Reject == nil {
				return nil, fmt.Errorf("%w: no reject has the id %d", ErrNotFound, id)
			}
			d.Reject = p.h.shown(*d.Reject)
		}
		return d, nil
	}
	q := rejectQuery{code: d.Code, source: d.Source, resolved: d.Resolved}
	if text := r.FormValue("before"); text != "" {
		var err error
		if q.before, err = strconv.ParseInt(text, 10, 64); err != nil || q.before < 1 {
			return nil, fmt.Errorf("%w: before is %q, must be the id of a reject", ErrArgument, text)
		}
	}
	if d.Within != "" {
		within, err := time.ParseDuration(d.Within)
		if err != nil || within <= 0 {
			return nil, fmt.Errorf("%w: within is %q, must be a duration such as 1h", ErrArgument, d.Within)
		}
		q.since = d.At.Add(-within)
	}
	list := ask(p, p.postgres, "the rejects", fmt.Sprintf("%d %q", q.before, []string{q.code, q.source, d.Within, strconv.FormatBool(q.resolved)}),
		func(ctx context.Context) (rejectsPage, error) { return p.ledger.readRejects(ctx, q) })
	await(ctx, p.codes, list)
	if codes := take(&d.Common, p.codes); codes != nil {
		d.Codes = *codes
	}
	if page := take(&d.Common, list); page != nil {
		d.Next = page.next
		for _, x := range page.rejects {
			d.Rejects = append(d.Rejects, *p.h.shown(x))
		}
	}
	return d, nil
}

// shown prepares a reject to be shown.
func (h *Handler) shown(r Reject) *Reject {
	r.Payload = h.payload(r.Begin, r.Length)
	r.Code, r.Reason, r.Key = visible(r.Code), visible(r.Reason), visible(r.Key)
	return &r
}

// BatchesPage is a page of the ledger, newest first, or the account of one batch.
type BatchesPage struct {
	Common
	Kind    string  `json:"filter_kind,omitempty"`
	Batches []Entry `json:"batches"`
	// Next is the before of the next page, "" at the end.
	Next string `json:"next,omitempty"`
	// Batch is the one that was asked for by its id, and Rejects the first of its rejects.
	Batch   *Entry   `json:"batch,omitempty"`
	Rejects []Reject `json:"rejects,omitempty"`
}

// batchSet is a batch of the ledger with its rejects.
type batchSet struct {
	entry   *Entry
	rejects []Reject
}

func buildBatches(ctx context.Context, p *pipe, r *http.Request) (model, error) {
	d := &BatchesPage{Common: newCommon(), Batches: []Entry{}, Kind: r.FormValue("kind")}
	before, id := r.FormValue("before"), r.FormValue("id")
	for name, text := range map[string]string{"before": before, "id": id} {
		if text != "" && !isUUID(text) {
			return nil, fmt.Errorf("%w: %s is %q, must be the id of a batch, a UUID", ErrArgument, name, text)
		}
	}
	if id != "" {
		one := ask(p, p.postgres, "the batch", id, func(ctx context.Context) (s batchSet, err error) {
			if s.entry, err = p.ledger.readBatch(ctx, id); err != nil || s.entry == nil {
				return s, err
			}
			s.rejects, err = p.ledger.rejectsOf(ctx, id)
			return s, err
		})
		await(ctx, one)
		if s := take(&d.Common, one); s != nil {
			if s.entry == nil {
				return nil, fmt.Errorf("%w: the ledger has no batch %s: it is not committed, or was pruned", ErrNotFound, id)
			}
			d.Batch = s.entry
			for _, x := range s.rejects {
				d.Rejects = append(d.Rejects, *p.h.shown(x))
			}
		}
		return d, nil
	}
	list := ask(p, p.postgres, "the ledger", before+" "+d.Kind, func(ctx context.Context) ([]Entry, error) { return p.ledger.readBatches(ctx, before, d.Kind) })
	await(ctx, list)
	if page := take(&d.Common, list); page != nil {
		d.Batches = append(d.Batches, *page...)
		if len(*page) == batchPage {
			d.Next = (*page)[batchPage-1].ID
		}
	}
	return d, nil
}

// isUUID reports whether a text is a UUID in its usual form.
func isUUID(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i, c := range []byte(text) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
		if dash != (c == '-') || !dash && !hex {
			return false
		}
	}
	return true
}

// LookupState is a lookup table.
type LookupState struct {
	Name string `json:"name"`
	// Stats is nil where there is no answer.
	Stats *lookup.Stats `json:"stats"`
	// Refreshes reports that the console can refresh it.
	Refreshes bool `json:"can_refresh"`
}

// WindowState is a store of windows.
type WindowState struct {
	Name  string        `json:"name"`
	Stats *window.Stats `json:"stats"`
	// Off is why its books do not balance, "" if they do.
	Off string `json:"off,omitempty"`
}

// TablesPage is the lookup tables, windows and views.
type TablesPage struct {
	Common
	Lookups []LookupState       `json:"lookups"`
	Windows []WindowState       `json:"windows"`
	Views   []matview.Freshness `json:"views"`
	// HasViews reports that the console was given a set of views.
	HasViews bool `json:"has_views"`
	// Refreshes reports that the console can refresh them.
	Refreshes bool `json:"can_refresh_views"`
}

func buildTables(ctx context.Context, p *pipe, _ *http.Request) (model, error) {
	var wanted []refresher
	for _, l := range p.lookups {
		wanted = append(wanted, l)
	}
	for _, w := range p.windows {
		wanted = append(wanted, w)
	}
	if p.views != nil {
		wanted = append(wanted, p.views)
	}
	await(ctx, wanted...)
	d := &TablesPage{Common: newCommon(), Lookups: []LookupState{}, Windows: []WindowState{}, Views: []matview.Freshness{}, HasViews: p.views != nil}
	_, d.Refreshes = p.Views.(viewRefresher)
	for i, l := range p.Lookups {
		_, refreshes := l.(lookupRefresher)
		d.Lookups = append(d.Lookups, LookupState{l.Name(), take(&d.Common, p.lookups[i]), refreshes})
	}
	for i, w := range p.Windows {
		s := WindowState{Name: w.Name(), Stats: take(&d.Common, p.windows[i])}
		if s.Stats != nil {
			if err := s.Stats.Balanced(); err != nil {
				s.Off = err.Error()
			}
		}
		d.Windows = append(d.Windows, s)
	}
	if p.views != nil {
		if v := take(&d.Common, p.views); v != nil {
			d.Views = append(d.Views, *v...)
		}
	}
	return d, nil
}

// HealthPage is what the servers are like, and the last actions.
type HealthPage struct {
	Common
	Checks  []Check   `json:"checks"`
	Actions []Deed    `json:"actions"`
	Started time.Time `json:"started"`
}

func buildHealth(ctx context.Context, p *pipe, _ *http.Request) (model, error) {
	await(ctx, p.checks[0], p.checks[1])
	d := &HealthPage{Common: newCommon(), Checks: []Check{}, Actions: p.h.journal.last(p.Name), Started: p.h.started}
	for _, r := range p.checks {
		if c := take(&d.Common, r); c != nil {
			d.Checks = append(d.Checks, *c...)
		}
	}
	return d, nil
}

// Index is all pipelines.
type Index struct {
	Common
	Pipelines []Summary `json:"pipelines"`
}

// Summary is one pipeline of the [Index].
type Summary struct {
	Name    string       `json:"name"`
	Verdict Verdict      `json:"verdict"`
	Queue   *queue.Stats `json:"queue"`
	Books   []BookLine   `json:"books"`
}

func (h *Handler) index(ctx context.Context) *Index {
	var wanted []refresher
	for _, p := range h.pipes {
		wanted = append(wanted, p.stats, p.books, p.staged)
	}
	await(ctx, wanted...)
	d := &Index{Common: newCommon(), Pipelines: []Summary{}}
	for _, p := range h.pipes {
		s := Summary{Name: p.Name, Queue: take(&d.Common, p.stats)}
		s.Verdict, s.Books, _ = verdict(take(&d.Common, p.books), take(&d.Common, p.staged))
		d.Pipelines = append(d.Pipelines, s)
	}
	return d
}
