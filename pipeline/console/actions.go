package console

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/queue"
)

// ActionKind is what an action does.
type ActionKind string

// The actions.
const (
	ActionKindPause         ActionKind = "pause"          // workers lease nothing more
	ActionKindResume        ActionKind = "resume"         // workers lease again
	ActionKindRequeue       ActionKind = "requeue"        // dead letters get another chance
	ActionKindDiscard       ActionKind = "discard"        // dead letters are removed for good
	ActionKindReplay        ActionKind = "replay"         // a reject is pushed again, edited or as it was, and resolved
	ActionKindResolve       ActionKind = "resolve"        // rejects are marked as done with
	ActionKindRefreshView   ActionKind = "refresh-view"   // a view is refreshed, or all are
	ActionKindRefreshLookup ActionKind = "refresh-lookup" // a lookup table is loaded again
	ActionKindPromote       ActionKind = "promote"        // what is staged is promoted now
	ActionKindReconcile     ActionKind = "reconcile"      // batches handed off are compared with the table
	ActionKindAudit         ActionKind = "audit"          // the queue is recounted; nothing changes
)

// Action is what a request asks for.
type Action struct {
	Kind     ActionKind `json:"action"`
	Pipeline string     `json:"pipeline"`
	// IDs are the dead letters or rejects that are concerned. All selects all that Reason (dead
	// letters), Code and Source (rejects) leave.
	IDs    []string `json:"ids,omitempty"`
	All    bool     `json:"all,omitempty"`
	Reason string   `json:"reason,omitempty"`
	Code   string   `json:"code,omitempty"`
	Source string   `json:"source,omitempty"`
	// Name is the view or lookup table; "": all views.
	Name string `json:"name,omitempty"`
	// Payload is the edited payload of a replay; nil: as it was.
	Payload []byte `json:"-"`
}

// Plan is what an action will do.
type Plan struct {
	Title string `json:"title"`
	Text  string `json:"text"`
	// Records is how many records, or batches where Unit is "batches", it touches. More reports that
	// there may be more than were counted.
	Records int64  `json:"records"`
	Unit    string `json:"unit"`
	More    bool   `json:"more,omitempty"`
	// Danger reports that it cannot be undone.
	Danger bool `json:"danger,omitempty"`
	// Edit is the payload that may be edited.
	Edit *Edit `json:"edit,omitempty"`
}

// Edit is a payload that may be edited before it is pushed.
type Edit struct {
	Text string `json:"text"`
	// Refused is why it cannot be edited here; Needed reports that it must be.
	Refused string `json:"refused,omitempty"`
	Needed  bool   `json:"needed,omitempty"`
}

// Deed is an action that was done, or failed.
type Deed struct {
	At      time.Time     `json:"at"`
	Who     string        `json:"who"`
	Action  Action        `json:"action"`
	Records int64         `json:"records"`
	Unit    string        `json:"unit"`
	Text    string        `json:"text"`
	Details []string      `json:"details,omitempty"`
	Error   string        `json:"error,omitempty"`
	Took    time.Duration `json:"took_ns"`
}

// journal keeps the last actions in this process.
type journal struct {
	mu    sync.Mutex
	deeds []Deed
}

const maxDeeds = 50

func (j *journal) add(d Deed) {
	j.mu.Lock()
	defer j.mu.Unlock()
	d.Action.Payload = nil
	j.deeds = append(j.deeds, d)
	if len(j.deeds) > maxDeeds {
		j.deeds = slices.Delete(j.deeds, 0, len(j.deeds)-maxDeeds)
	}
}

// last returns the last actions on a pipeline, newest first.
func (j *journal) last(pipeline string) []Deed {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := []Deed{}
	for _, d := range slices.Backward(j.deeds) {
		if d.Action.Pipeline == pipeline {
			out = append(out, d)
		}
	}
	return out
}

// ActionPage shows what an action will do, and what it did.
type ActionPage struct {
	Common
	Action Action `json:"action"`
	Plan   Plan   `json:"plan"`
	// Done is nil before the action.
	Done *Deed `json:"done,omitempty"`
}

const (
	maxBody       = 4 << 20
	actionTimeout = 2 * time.Minute
	planTimeout   = 10 * time.Second
)

// act shows what an action will do (GET), or does it (POST).
func (h *Handler) act(w http.ResponseWriter, r *http.Request, at address, p *pipe) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	a, err := parseAction(r, p.Name)
	if err != nil {
		h.fail(w, r, at, err)
		return
	}
	who, err := h.authorize(r, a)
	if err != nil {
		if r.Method == http.MethodPost {
			h.log(r, slog.LevelWarn, "console: action refused", a, who, slog.Any("error", err))
		}
		h.fail(w, r, at, err)
		return
	}
	// An action does not stop in its middle because a browser went away. Close waits for it.
	h.wg.Add(1)
	defer h.wg.Done()
	ctx, cancel := context.WithTimeout(h.ctx, planTimeout)
	defer cancel()
	page := &ActionPage{Common: newCommon(), Action: a}
	if page.Plan, err = p.plan(ctx, a); err != nil {
		h.fail(w, r, at, err)
		return
	}
	if r.Method != http.MethodPost {
		h.show(w, r, at, p, page)
		return
	}
	ctx, cancel = context.WithTimeout(h.ctx, actionTimeout)
	defer cancel()
	deed := Deed{At: time.Now(), Who: who, Action: a, Unit: page.Plan.Unit}
	err = p.do(ctx, a, &deed)
	deed.Took = time.Since(deed.At)
	p.forget()
	if err != nil {
		deed.Error = oneLine(err.Error())
		h.log(r, slog.LevelError, "console: action failed", a, who, slog.Int64("done", deed.Records), slog.Any("error", err))
	} else {
		h.log(r, slog.LevelInfo, "console: action done", a, who, slog.Int64("done", deed.Records))
	}
	h.journal.add(deed)
	page.Done = &deed
	h.show(w, r, at, p, page)
}

func (h *Handler) log(r *http.Request, level slog.Level, text string, a Action, who string, more ...slog.Attr) {
	attrs := []slog.Attr{
		slog.String("who", who), slog.String("from", r.RemoteAddr), slog.String("action", string(a.Kind)), slog.String("pipeline", a.Pipeline),
		slog.Any("ids", a.IDs[:min(len(a.IDs), 20)]), slog.Bool("all", a.All), slog.String("reason", a.Reason), slog.String("code", a.Code),
		slog.String("source", a.Source), slog.String("name", a.Name),
	}
	h.cfg.Logger.LogAttrs(r.Context(), level, text, append(attrs, more...)...)
}

// authorize asks Config.Authorize.
func (h *Handler) authorize(r *http.Request, a Action) (who string, err error) {
	if h.cfg.Authorize == nil {
		return "", ErrReadOnly
	}
	if who, err = h.cfg.Authorize(r, a); err != nil {
		return who, fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	return cmp.Or(who, "unnamed"), nil
}

// parseAction reads an action from the query (GET) or the form (POST).
func parseAction(r *http.Request, pipeline string) (Action, error) {
	if err := r.ParseForm(); err != nil {
		return Action{}, fmt.Errorf("%w: the form cannot be read: %w", ErrArgument, err)
	}
	form := r.Form
	if r.Method == http.MethodPost {
		form = r.PostForm // the address of a POST decides nothing
	}
	a := Action{
		Kind: ActionKind(form.Get("action")), Pipeline: pipeline, IDs: form["id"], All: form.Get("all") != "",
		Reason: form.Get("reason"), Code: form.Get("code"), Source: form.Get("source"), Name: form.Get("name"),
	}
	if form.Has("payload") && form.Get("edited") != "" {
		a.Payload = []byte(strings.ReplaceAll(form.Get("payload"), "\r\n", "\n"))
	}
	switch a.Kind {
	case ActionKindRequeue, ActionKindDiscard, ActionKindResolve:
		if a.All == (len(a.IDs) > 0) {
			return a, fmt.Errorf("%w: %s needs the id of at least one, or all=1", ErrArgument, a.Kind)
		}
	case ActionKindReplay:
		if len(a.IDs) != 1 {
			return a, fmt.Errorf("%w: replay has %d ids, must have 1", ErrArgument, len(a.IDs))
		}
	case ActionKindPause, ActionKindResume, ActionKindRefreshView, ActionKindRefreshLookup, ActionKindPromote, ActionKindReconcile, ActionKindAudit:
	default:
		return a, fmt.Errorf("%w: action is %q, must be pause, resume, requeue, discard, replay, resolve, refresh-view, refresh-lookup, promote, reconcile or audit", ErrArgument, a.Kind)
	}
	if a.Kind == ActionKindResolve || a.Kind == ActionKindReplay {
		if _, err := a.numbers(); err != nil {
			return a, err
		}
	}
	return a, nil
}

// numbers are the ids of rejects.
func (a Action) numbers() ([]int64, error) {
	out := make([]int64, len(a.IDs))
	for i, text := range a.IDs {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: id is %q, must be the number of a reject", ErrArgument, text)
		}
		out[i] = n
	}
	return out, nil
}

// plan counts what an action will do. It changes nothing.
func (p *pipe) plan(ctx context.Context, a Action) (plan Plan, err error) {
	plan.Unit = "records"
	stats := func() queue.Stats {
		var s queue.Stats
		if err == nil {
			s, err = p.Queue.Stats(ctx)
		}
		return s
	}
	switch a.Kind {
	case ActionKindPause:
		s := stats()
		plan.Title, plan.Records = "Pause the queue", s.Ready+s.Delayed
		plan.Text = "Workers lease nothing more, in all processes. What they hold goes on to the table. Producers go on. The records that wait stay where they are until the queue is resumed."
	case ActionKindResume:
		s := stats()
		plan.Title, plan.Records = "Resume the queue", s.Ready+s.Delayed
		plan.Text = "Workers lease again, within a second."
	case ActionKindRequeue, ActionKindDiscard:
		plan, err = p.planDead(ctx, a)
	case ActionKindResolve:
		plan, err = p.planResolve(ctx, a)
	case ActionKindReplay:
		plan, err = p.planReplay(ctx, a)
	case ActionKindRefreshView:
		if _, ok := p.Views.(viewRefresher); !ok {
			return plan, fmt.Errorf("%w: no views that can be refreshed", ErrUnavailable)
		}
		plan.Title, plan.Unit = "Refresh "+cmp.Or(a.Name, "all views"), "views"
		plan.Text = "The view and those that it reads are brought up to date. Readers go on where the view has a unique index."
		var all int
		if f, e := p.Views.Freshness(ctx); e == nil {
			all = len(f)
		} else {
			err = e
		}
		plan.Records = int64(all)
		if a.Name != "" {
			plan.Records = 1
		}
	case ActionKindRefreshLookup:
		if _, err := p.lookup(a.Name); err != nil {
			return plan, err
		}
		plan.Title, plan.Unit, plan.Records = "Refresh the lookup table "+a.Name, "tables", 1
		plan.Text = "The table is read from its source and becomes the current version in all processes, in one step. If that fails, the version of now stays."
	case ActionKindPromote:
		if p.Promote == nil {
			return plan, fmt.Errorf("%w: the console knows no flow to promote by", ErrUnavailable)
		}
		staged, e := p.ledger.readStaged(ctx)
		err = e
		plan.Title, plan.Unit, plan.Records = "Promote now", "batches", staged.Batches
		plan.Text = "What is staged goes into the table in one transaction, and is acknowledged. A promoter that runs does this on its own."
	case ActionKindReconcile:
		if p.Reconcile == nil {
			return plan, fmt.Errorf("%w: the console knows no flow to reconcile by", ErrUnavailable)
		}
		plan.Title, plan.Unit, plan.Records = "Reconcile", "batches", stats().HandedOffBatches
		plan.Text = "Each batch that was handed off is compared with the table: a promoted one is acknowledged, a void one is split or buried, one that Postgres has lost is delivered again."
	case ActionKindAudit:
		s := stats()
		plan.Title, plan.Unit = "Audit the queue", "batches"
		plan.Records = s.LeasedBatches + s.WaitingBatches + s.HandedOffBatches + s.BrokenBatches
		plan.Text = "The queue is recounted from its keys and compared with its books. Nothing changes. It reads every batch and every dead letter, so it costs more than a page."
	}
	return plan, err
}

// planDead counts the dead letters of an action.
func (p *pipe) planDead(ctx context.Context, a Action) (plan Plan, err error) {
	plan.Unit = "dead letters"
	if a.Kind == ActionKindRequeue {
		plan.Title = "Requeue dead letters"
		plan.Text = "Each gets another chance, as a batch of its own with its counters at zero."
	} else {
		plan.Title, plan.Danger = "Discard dead letters", true
		plan.Text = "They are removed for good, with their payloads. The books count them as discarded."
	}
	switch {
	case !a.All:
		plan.Records = int64(len(a.IDs))
	case a.Reason == "":
		s, err := p.Queue.Stats(ctx)
		plan.Records = s.Dead
		return plan, err
	default:
		plan.More, err = p.eachLetter(ctx, a.Reason, func(ids []string) error { plan.Records += int64(len(ids)); return nil })
	}
	return plan, err
}

// letterParts bounds the dead letters that one action with a filter looks at: so many parts of
// deadLooked.
const letterParts = 100

// eachLetter passes on the ids of the dead letters with a part of a reason. more: there are letters
// that it has not looked at.
func (p *pipe) eachLetter(ctx context.Context, reason string, f func(ids []string) error) (more bool, err error) {
	q := letterQuery{reason: reason, wanted: deadLooked, looked: deadLooked}
	for range letterParts {
		page, err := p.readLetters(ctx, q)
		if err != nil {
			return true, err
		}
		ids := make([]string, len(page.letters))
		for i, l := range page.letters {
			ids[i] = l.ID
		}
		if len(ids) > 0 {
			if err := f(ids); err != nil {
				return true, err
			}
		}
		if q.after = page.next; q.after == "" {
			return false, nil
		}
	}
	return true, nil
}

// planResolve counts the rejects of an action.
func (p *pipe) planResolve(ctx context.Context, a Action) (plan Plan, err error) {
	plan = Plan{Title: "Resolve rejects", Unit: "rejects", Records: int64(len(a.IDs))}
	plan.Text = "They are marked as done with, and leave this list. Their payloads stay in the table of rejects until the ledger is pruned. Nothing is pushed again."
	if a.All {
		plan.Records, err = p.eachReject(ctx, a, func([]int64) (int64, error) { return 0, nil })
	}
	return plan, err
}

// eachReject passes on the ids of the open rejects of an action with a filter, and returns how many
// there were.
func (p *pipe) eachReject(ctx context.Context, a Action, f func(ids []int64) (int64, error)) (n int64, err error) {
	var last int64
	if err := p.ledger.pool.QueryRow(ctx, p.ledger.statements["last_reject"]).Scan(&last); err != nil {
		return 0, p.ledger.explain("rejects", err)
	}
	for before := last + 1; before > 0; before -= rejectsLooked {
		ids, err := p.ledger.openRejects(ctx, before, a.Code, a.Source)
		if err != nil {
			return n, err
		}
		if len(ids) > 0 {
			if _, err := f(ids); err != nil {
				return n, err
			}
		}
		n += int64(len(ids))
	}
	return n, nil
}

// replayable reads the reject of a replay.
func (p *pipe) replayable(ctx context.Context, a Action) (*Reject, error) {
	ids, err := a.numbers()
	if err != nil {
		return nil, err
	}
	r, err := p.ledger.readReject(ctx, ids[0], queue.MaxPayload)
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return nil, fmt.Errorf("%w: no reject has the id %d", ErrNotFound, ids[0])
	case r.Resolved != nil:
		return nil, fmt.Errorf("%w: reject %d is resolved already", ErrArgument, ids[0])
	}
	return r, nil
}

// planReplay shows the payload of a reject to be edited.
func (p *pipe) planReplay(ctx context.Context, a Action) (Plan, error) {
	plan := Plan{Title: "Replay a reject", Unit: "rejects", Records: 1}
	plan.Text = "The record is pushed into the queue again, and then the reject is resolved. If the push succeeds and the rest does not, the reject stays open; a record that is pushed twice is a duplicate."
	r, err := p.replayable(ctx, a)
	if err != nil {
		return plan, err
	}
	plan.Edit = &Edit{Text: string(r.Begin), Needed: r.Source != "stage"}
	switch {
	case p.h.cfg.HidePayloads:
		plan.Edit.Refused = "payloads are hidden here"
	case r.Length > oneBytes:
		plan.Edit.Refused = "it is longer than " + size(oneBytes)
	case visible(string(r.Begin)) != string(r.Begin): // a browser sends back other bytes
		plan.Edit.Refused = "it has characters that do not print"
	}
	if plan.Edit.Refused != "" {
		plan.Edit.Text = ""
	}
	if plan.Edit.Needed && plan.Edit.Refused == "" {
		plan.Text += " This reject holds a row and not the record that it came from: write the record in its place."
	}
	return plan, nil
}

// lookupRefresher is a lookup table that can be refreshed.
type lookupRefresher interface {
	Refresh(ctx context.Context) (lookup.RefreshResult, error)
}

func (p *pipe) lookup(name string) (lookupRefresher, error) {
	for _, l := range p.Lookups {
		if r, ok := l.(lookupRefresher); ok && l.Name() == name {
			return r, nil
		}
	}
	return nil, fmt.Errorf("%w: no lookup table %q that can be refreshed", ErrUnavailable, name)
}

// do does an action, and notes what it did.
func (p *pipe) do(ctx context.Context, a Action, d *Deed) error {
	switch a.Kind {
	case ActionKindPause:
		d.Text = "The queue is paused."
		return p.Queue.Pause(ctx)
	case ActionKindResume:
		d.Text = "The queue is resumed."
		return p.Queue.Resume(ctx)
	case ActionKindRequeue:
		return p.doDead(ctx, a, d, "requeued", p.Queue.Requeue)
	case ActionKindDiscard:
		return p.doDead(ctx, a, d, "discarded", p.Queue.Discard)
	case ActionKindResolve:
		return p.doResolve(ctx, a, d)
	case ActionKindReplay:
		return p.doReplay(ctx, a, d)
	case ActionKindRefreshView:
		return p.doRefresh(ctx, a, d)
	case ActionKindRefreshLookup:
		l, err := p.lookup(a.Name)
		if err != nil {
			return err
		}
		r, err := l.Refresh(ctx)
		d.Records, d.Text = 1, fmt.Sprintf("Version %s with %s entries is current.", r.Version, exact(int64(r.Entries)))
		return err
	case ActionKindPromote:
		n, err := p.Promote(ctx)
		d.Records, d.Text = int64(n), fmt.Sprintf("%s %s promoted.", counted(int64(n), "batches"), was(int64(n)))
		return err
	case ActionKindReconcile:
		d.Text = "The batches that were handed off were compared with the table."
		return p.Reconcile(ctx)
	case ActionKindAudit:
		report, err := p.Queue.Audit(ctx)
		d.Records, d.Details = report.Batches, report.Differences
		d.Text = fmt.Sprintf("Counted %s in %s, %s and %s; %s from the books.", counted(report.Records, "records"),
			counted(report.Batches, "batches"), counted(report.Dead, "dead letters"), counted(report.Delayed, "delayed records"),
			counted(int64(len(report.Differences)), "differences"))
		if !report.Quiet {
			d.Text += " The queue was busy, so its sums were not compared."
		}
		return err
	}
	return fmt.Errorf("%w: action %q", ErrArgument, a.Kind)
}

func (p *pipe) doDead(ctx context.Context, a Action, d *Deed, done string, do func(ctx context.Context, ids ...string) (int, error)) error {
	some := func(ids []string) error {
		n, err := do(ctx, ids...)
		d.Records += int64(n)
		return err
	}
	var more bool
	var err error
	if a.All {
		more, err = p.eachLetter(ctx, a.Reason, some)
	} else {
		err = some(a.IDs)
	}
	d.Text = fmt.Sprintf("%s %s %s.", counted(d.Records, "dead letters"), was(d.Records), done)
	if more {
		d.Text += " There are more: do it again."
	}
	return err
}

func (p *pipe) doResolve(ctx context.Context, a Action, d *Deed) error {
	some := func(ids []int64) (int64, error) {
		n, err := p.ledger.resolve(ctx, ids...)
		d.Records += n
		return n, err
	}
	var err error
	if a.All {
		_, err = p.eachReject(ctx, a, some)
	} else {
		var ids []int64
		if ids, err = a.numbers(); err == nil {
			_, err = some(ids)
		}
	}
	d.Text = fmt.Sprintf("%s %s resolved.", counted(d.Records, "rejects"), was(d.Records))
	return err
}

// doReplay pushes first and resolves then: a crash in between leaves the reject open, and a record
// that is pushed twice is a duplicate.
func (p *pipe) doReplay(ctx context.Context, a Action, d *Deed) error {
	r, err := p.replayable(ctx, a)
	if err != nil {
		return err
	}
	payload := r.Begin
	switch {
	case a.Payload != nil:
		payload = a.Payload
	case r.Source != "stage":
		return fmt.Errorf("%w: the reject holds a row and not the record: the record is needed", ErrArgument)
	case int64(len(payload)) != r.Length:
		return fmt.Errorf("console: read %d bytes of the payload, want %d", len(payload), r.Length)
	}
	if err := p.Queue.Push(ctx, payload); err != nil {
		return err
	}
	if d.Records, err = p.ledger.resolve(ctx, r.ID); err != nil {
		return fmt.Errorf("the record is pushed, but the reject is still open: %w", err)
	}
	d.Text = "The record was pushed into the queue, and the reject is resolved."
	return nil
}

func (p *pipe) doRefresh(ctx context.Context, a Action, d *Deed) error {
	views, ok := p.Views.(viewRefresher)
	if !ok {
		return fmt.Errorf("%w: no views that can be refreshed", ErrUnavailable)
	}
	var names []string
	if a.Name != "" {
		names = []string{a.Name}
	}
	report, err := views.Refresh(ctx, names...)
	d.Records = int64(len(report.Views))
	for _, v := range report.Views {
		line := fmt.Sprintf("%s: %s in %s", v.View, v.Action, duration(v.Duration))
		if v.Reason != "" {
			line += ", not concurrently: " + v.Reason
		}
		d.Details = append(d.Details, line)
	}
	d.Text = fmt.Sprintf("The refresh took %s.", duration(report.Duration))
	return err
}
