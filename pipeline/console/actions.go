package console

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ActionKind is what an action does.
type ActionKind string

// The actions.
const (
	ActionKindPause         ActionKind = "pause"          // workers lease nothing more
	ActionKindResume        ActionKind = "resume"         // workers lease again
	ActionKindRequeue       ActionKind = "requeue"        // dead letters get another chance
	ActionKindDiscard       ActionKind = "discard"        // dead letters are removed for good
	ActionKindReplay        ActionKind = "replay"         // a reject is pushed again and resolved
	ActionKindResolve       ActionKind = "resolve"        // rejects are marked as resolved
	ActionKindRefreshView   ActionKind = "refresh-view"   // a view is refreshed, or all are
	ActionKindRefreshLookup ActionKind = "refresh-lookup" // a lookup table is loaded again
	ActionKindPromote       ActionKind = "promote"        // what is staged is promoted now
	ActionKindReconcile     ActionKind = "reconcile"      // handed-off batches are compared
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

// ActionPage shows what an action will do, and what it did.
type ActionPage struct {
	Common
	Action Action `json:"action"`
	Plan   Plan   `json:"plan"`
	// Result is nil before the action.
	Result *ActionResult `json:"result,omitempty"`
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
	result := ActionResult{At: time.Now(), Who: who, Action: a, Unit: page.Plan.Unit}
	err = p.do(ctx, a, &result)
	result.Took = time.Since(result.At)
	p.forget()
	if err != nil {
		result.Error = oneLine(err.Error())
		h.log(r, slog.LevelError, "console: action failed", a, who, slog.Int64("done", result.Records), slog.Any("error", err))
	} else {
		h.log(r, slog.LevelInfo, "console: action done", a, who, slog.Int64("done", result.Records))
	}
	h.journal.add(result)
	page.Result = &result
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
