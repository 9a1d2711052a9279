package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// address is what a request asks for. The handler does not know at which path it is mounted: all
// links are relative, and begin with root.
type address struct {
	root     string // from this page to the first one: "../../", or "./"
	name     string // of the pipeline; "": all of them
	page     string // "overview"
	json     bool
	file     string // "console.css"
	redirect string // where the page is
	probe    bool   // page is livez or readyz
}

// pageDo is where actions are shown and done.
const pageDo = "do"

// pageOverview is the page of a pipeline without a name of its own.
const pageOverview = "overview"

// parseAddress parses a path:
//
//	""                  all pipelines
//	p/NAME/             the overview of one
//	p/NAME/PAGE         a page of it
//	console.css, console.js, livez, readyz
//
// A page whose name ends in .json is that page as JSON, and so is one that is asked for with
// Accept: application/json.
func parseAddress(r *http.Request) (a address, err error) {
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	parts := strings.Split(path, "/")
	a.root = "./"
	if len(parts) > 1 {
		a.root = strings.Repeat("../", len(parts)-1)
	}
	a.json = wantsJSON(r)
	for i, p := range parts {
		if parts[i], err = url.PathUnescape(p); err != nil {
			return a, fmt.Errorf("%w: the path cannot be decoded", ErrArgument)
		}
	}
	page := func(name string) {
		short, json := strings.CutSuffix(name, ".json")
		a.page, a.json = short, a.json || json
	}
	switch {
	case len(parts) == 1 && (parts[0] == "console.css" || parts[0] == "console.js" || parts[0] == "console.svg"):
		a.file = parts[0]
	case len(parts) == 1 && (parts[0] == "livez" || parts[0] == "readyz"):
		a.page, a.probe = parts[0], true
	case len(parts) == 1 && (parts[0] == "" || parts[0] == "index.json"):
		page(parts[0])
		a.page = "index"
	case len(parts) == 2 && parts[0] == "p" && parts[1] != "":
		a.redirect = "./" + url.PathEscape(parts[1]) + "/" // a name may look like the scheme of an address
	case len(parts) == 3 && parts[0] == "p" && parts[1] != "":
		a.name = parts[1]
		page(parts[2])
		if a.page == "" {
			a.page = pageOverview
		}
	default:
		return a, fmt.Errorf("%w: there is no page %q", ErrNotFound, path)
	}
	return a, nil
}

// wantsJSON reports whether a request accepts JSON and not HTML.
func wantsJSON(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}
