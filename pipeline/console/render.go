package console

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/window"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed static
var staticFiles embed.FS

// templates are the pages, each with the layout around it.
var templates = parseTemplates()

func parseTemplates() map[string]*template.Template {
	layout := template.Must(template.New("layout.html").Funcs(functions).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html"))
	out := map[string]*template.Template{}
	for _, name := range append([]string{"index", "error", pageDo}, menu...) {
		out[name] = template.Must(template.Must(layout.Clone()).ParseFS(pageFiles, "pages/"+name+".html"))
	}
	return out
}

// functions are what the templates call.
var functions = template.FuncMap{
	"n": func(v any) template.HTML {
		n := asInt64(v)
		return template.HTML(fmt.Sprintf(`<data value="%d" title="%s">%s</data>`, n, exact(n), count(n))) //nolint:gosec // digits
	},
	"exact":   func(v any) string { return exact(asInt64(v)) },
	"counted": func(v any, several string) string { return counted(asInt64(v), several) },
	"grouped": func(text string) string {
		return number.ReplaceAllStringFunc(text, func(digits string) string {
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil {
				return digits
			}
			return exact(n)
		})
	},
	"dur":   duration,
	"secs":  func(s float64) string { return duration(seconds(s)) },
	"size":  size,
	"stamp": stamp,
	"clock": func(t time.Time) string { return t.UTC().Format("15:04:05 UTC") },
	"ago": func(now, t time.Time) template.HTML {
		if t.IsZero() {
			return "never"
		}
		return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`, t.UTC().Format(time.RFC3339Nano), stamp(t), since(t, now))) //nolint:gosec // digits
	},
	"deref":   func(t *time.Time) time.Time { return *t },
	"query":   url.QueryEscape,
	"segment": url.PathEscape,
	"short": func(id string) string {
		if isUUID(id) {
			return "…" + id[24:]
		}
		return id
	},
	"visible": visible,
	"where": func(source string) string {
		switch source {
		case "stage":
			return "in the chain"
		case "rule":
			return "by a rule"
		case "insert":
			return "by the table"
		}
		return visible(source)
	},
	"phase": func(p window.Phase) phaseText { return phaseTexts[p] },
	"list":  func(words ...string) []string { return words },
	"batches": func(title, when string, set BatchSet, v view) batchTable {
		return batchTable{title, when, set, v.Here, v.Common.At}
	},
}

// phaseText is how the page calls the windows of a phase.
type phaseText struct {
	Title, Order string
	When         string // what the time of a window is; "": nothing besides its end
}

var phaseTexts = map[window.Phase]phaseText{
	window.PhaseOpen:   {"Open windows", "By key; the key whose last event arrived first is the first", ""},
	window.PhaseDue:    {"Closed, waiting for a closer", "The longest due first", "Due"},
	window.PhaseLeased: {"Held by a closer", "By the end of the lease", "Lease ends"},
	window.PhaseDead:   {"Dead windows", "Oldest first. They failed too often and wait until they are requeued or discarded", "Died"},
}

var number = regexp.MustCompile(`[0-9]+`)

func asInt64(v any) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case int:
		return int64(v)
	case *int64:
		return *v
	}
	return 0
}

// batchTable is what the table of the batches of one state gets.
type batchTable struct {
	Title, When string
	Set         BatchSet
	Here        string
	At          time.Time
}

// view is what a template gets.
type view struct {
	Root     string // see address
	Here     string // of the pipeline: Root + "p/NAME/"; "" on the first page
	Name     string // of the pipeline
	Page     string
	Title    string
	Menu     []entryOfMenu
	Names    []string // of all pipelines
	Links    []Link
	ReadOnly bool
	Hidden   bool
	Interval int64 // milliseconds between two loads of a page
	Live     bool  // the page loads itself again
	Search   string
	JSON     string // address of the page as JSON
	M        any    // the model
	Common   *Common
}

type entryOfMenu struct {
	Page, Title string
	Current     bool
}

// show sends a page, as HTML or as JSON.
func (h *Handler) show(w http.ResponseWriter, r *http.Request, at address, p *pipe, m model) {
	if at.json {
		h.sendJSON(w, r, http.StatusOK, m)
		return
	}
	v := h.view(at, p)
	v.M, v.Common = m, m.common()
	v.Live = at.page != pageDo
	if v.JSON = at.page + ".json"; r.URL.RawQuery != "" {
		v.JSON += "?" + r.URL.RawQuery
	}
	if at.page == "find" {
		v.Search = r.FormValue("id")
	}
	switch {
	case at.name == "":
		v.Title = "Pipelines"
	case at.page == pageDo:
		v.Title = m.(*ActionPage).Plan.Title
	default:
		v.Title = pages[at.page].title
	}
	h.send(w, r, http.StatusOK, at.page, v)
}

func (h *Handler) view(at address, p *pipe) view {
	v := view{Root: at.root, Page: at.page, Links: h.cfg.Links, ReadOnly: h.cfg.Authorize == nil, Hidden: h.cfg.HidePayloads, Interval: h.cfg.Interval.Milliseconds()}
	for _, p := range h.pipes {
		v.Names = append(v.Names, p.Name)
	}
	if p != nil {
		v.Name, v.Here = p.Name, at.root+"p/"+url.PathEscape(p.Name)+"/"
		for _, name := range menu {
			v.Menu = append(v.Menu, entryOfMenu{name, pages[name].title, name == at.page})
		}
	}
	return v
}

// send executes a template.
func (h *Handler) send(w http.ResponseWriter, r *http.Request, status int, name string, v view) {
	var b bytes.Buffer
	if err := templates[name].Execute(&b, v); err != nil {
		h.cfg.Logger.ErrorContext(r.Context(), "console: a page could not be made", "page", name, "error", err)
		http.Error(w, "The page could not be made; the log has the reason.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the browser may be gone
}

func (h *Handler) sendJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		h.cfg.Logger.ErrorContext(r.Context(), "console: JSON could not be made", "error", err)
		http.Error(w, "The answer could not be made; the log has the reason.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // the client may be gone
}

// failure is the page of an error.
type failure struct {
	Common
	Status int    `json:"status"`
	Error  string `json:"error"`
	Advice string `json:"advice,omitempty"`
}

// fail sends an error.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, at address, err error) {
	f := &failure{Common: newCommon(), Status: statusOf(err), Error: strings.TrimPrefix(oneLine(err.Error()), "console: ")}
	switch {
	case errors.Is(err, ErrReadOnly):
		f.Advice = "Nothing was changed. The program headrace allows actions with the flag --actions, a program of your own with Config.Authorize."
	case errors.Is(err, ErrForbidden):
		f.Advice = "Nothing was changed. The program that serves the console decides who may act."
	case f.Status == http.StatusServiceUnavailable:
		f.Advice = "A store refused or did not answer. The health page lists what the console knows of it."
	}
	if at.json {
		h.sendJSON(w, r, f.Status, f)
		return
	}
	if at.root == "" {
		at.root = "./"
	}
	v := h.view(at, h.find(at.name))
	v.Title, v.M, v.Common = http.StatusText(f.Status), f, &f.Common
	h.send(w, r, f.Status, "error", v)
}

// serveFile sends the style sheet or the script.
func (h *Handler) serveFile(w http.ResponseWriter, r *http.Request, name string) {
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeFileFS(w, r, staticFiles, "static/"+name)
}

// serveProbe answers livez, and readyz: whether both stores of each pipeline answer.
func (h *Handler) serveProbe(ctx context.Context, w http.ResponseWriter, at address) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if at.page == "livez" {
		fmt.Fprintln(w, "ok")
		return
	}
	var wanted []refresher
	for _, p := range h.pipes {
		wanted = append(wanted, p.stats, p.checks[1])
	}
	await(ctx, wanted...)
	c := newCommon()
	for _, p := range h.pipes {
		take(&c, p.stats)
		take(&c, p.checks[1])
	}
	if len(c.Warnings) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		var lines []string // pipelines that share a store report the same
		for _, g := range c.Warnings {
			if line := g.Part + ": " + g.Reason; !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
		fmt.Fprintln(w, strings.Join(lines, "\n"))
		return
	}
	fmt.Fprintln(w, "ok")
}
