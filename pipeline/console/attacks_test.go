package console_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/headrace/headrace/pipeline/console"
)

// nasty are payloads that attack a page.
var nasty = []string{
	`x1 <script>alert(1)</script>`,
	`x2 "><img src=x onerror=alert(1)>`,
	"x3 \x1b[2J\x00\x07 bell",
	"x4 \u202egnp.exe\u2028\u2029",
	"x5 \xff\xfe not UTF-8",
	`x6 {{.}} ${7*7} javascript:alert(1)`,
	"x7 </pre></code></textarea><style>*{display:none}</style>",
}

func TestPayloadsAreOnlyText(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.serve(func(c *console.Config) { c.Authorize = allow })
	r.bury(nasty...)
	var refused []string
	for _, p := range nasty {
		refused = append(refused, strings.ReplaceAll(p, " ", "")) // without a space: malformed
	}
	r.push(refused...)
	r.run()
	r.push(nasty...)
	pages := []string{"queue", "dead", "rejects", "", "health"}
	for _, l := range read[console.DeadPage](r, "dead.json").Letters {
		pages = append(pages, "dead?id="+l.ID)
	}
	for _, x := range read[console.RejectsPage](r, "rejects.json").Rejects {
		id := url.QueryEscape(url.QueryEscape(x.Key))
		pages = append(pages, "rejects?id="+itoa(x.ID), "do?action=replay&id="+itoa(x.ID), "find?id="+id)
	}
	if len(pages) < 5+2*len(nasty) {
		t.Fatalf("%d pages, want at least %d", len(pages), 5+2*len(nasty))
	}
	for _, p := range pages {
		body := r.get(p)
		for _, bad := range []string{"<script>a", "<img", "<style", "</pre></code>", "\x00", "\x07", "\x1b", "\u202e", "\u2028", "\xff"} {
			if strings.Contains(body, bad) {
				t.Errorf("%s: the page contains %q", p, bad)
			}
		}
	}
	for _, p := range []string{"find?id=", "dead?reason=", "rejects?code=", "do?action="} {
		for _, x := range nasty {
			got := r.request(http.MethodGet, r.base+p+url.QueryEscape(x), nil)
			for _, bad := range []string{"<script>a", "<img", "<style", "\x00", "\x1b"} {
				if strings.Contains(got.body, bad) {
					t.Errorf("%s%q: the page contains %q", p, x, bad)
				}
			}
		}
	}
}

func TestPayloadsAreHiddenOnRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.serve(func(c *console.Config) { c.HidePayloads = true; c.Authorize = allow })
	r.bury("secret1 dead")
	r.push("secret2")
	r.run()
	r.push("secret3 ready")
	letter := read[console.DeadPage](r, "dead.json").Letters[0]
	reject := read[console.RejectsPage](r, "rejects.json").Rejects[0]
	for _, p := range []string{
		"", "queue", "queue.json", "dead", "dead.json", "dead?id=" + letter.ID, "rejects", "rejects.json", "rejects?id=" + itoa(reject.ID),
		"do?action=replay&id=" + itoa(reject.ID), "do.json?action=replay&id=" + itoa(reject.ID), "find.json?id=" + letter.ID,
	} {
		body := r.get(p)
		for _, secret := range []string{"secret1", "secret3"} {
			if strings.Contains(body, secret) {
				t.Errorf("%s: the page contains %s", p, secret)
			}
		}
	}
}

// TestAnIdlePipeline runs what needs no records on one pipeline.
func TestAnIdlePipeline(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	for name, test := range map[string]func(*testing.T, *rig){
		"headers forbid what the page does not need": headersForbidWhatThePageDoesNotNeed,
		"no address leads elsewhere":                 noAddressLeadsElsewhere,
		"unknown addresses":                          unknownAddresses,
		"bad configurations":                         badConfigurations,
	} {
		t.Run(name, func(t *testing.T) {
			own := *r
			own.t = t
			test(t, &own)
		})
	}
}

func headersForbidWhatThePageDoesNotNeed(t *testing.T, r *rig) {
	for _, p := range []string{"", "nothing", "queue.json"} {
		h := r.request(http.MethodGet, r.base+p, nil).header
		policy := h.Get("Content-Security-Policy")
		contains(t, policy, "default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'")
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") || strings.Contains(policy, "*") {
			t.Errorf("%s: the policy %q allows too much", p, policy)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: got headers %v, want nosniff and no-store", p, h)
		}
	}
}

func noAddressLeadsElsewhere(t *testing.T, r *rig) {
	for _, name := range []string{"https:evil.example", "javascript:alert(1)", "%2F%2Fevil.example", "%5Cevil.example", "evil.example%2F.."} {
		got := r.request(http.MethodGet, r.server.URL+"/headrace/p/"+name, nil)
		to, err := url.Parse(got.header.Get("Location"))
		if err != nil || to.Scheme != "" || to.Host != "" || !strings.HasPrefix(to.String(), "./") {
			t.Errorf("%s: got a redirect to %q, want one below the console", name, got.header.Get("Location"))
		}
	}
}

// everyAction has a form of each kind of action.
func everyAction(letter string) map[console.ActionKind]url.Values {
	all := map[console.ActionKind]url.Values{
		console.ActionKindRequeue: {"id": {letter}}, console.ActionKindDiscard: {"id": {letter}},
		console.ActionKindReplay: {"id": {"1"}}, console.ActionKindResolve: {"id": {"1"}},
	}
	for _, kind := range []console.ActionKind{
		console.ActionKindPause, console.ActionKindResume, console.ActionKindRefreshView, console.ActionKindRefreshLookup,
		console.ActionKindPromote, console.ActionKindReconcile, console.ActionKindAudit,
	} {
		all[kind] = url.Values{}
	}
	for kind, form := range all {
		form.Set("action", string(kind))
	}
	return all
}

func TestReadOnlyIsEnforcedByTheServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.bury("d1 dead")
	letter := read[console.DeadPage](r, "dead.json").Letters[0]
	for kind, form := range everyAction(letter.ID) {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			address, body := r.base+"do?"+form.Encode(), strings.NewReader("")
			if method == http.MethodPost {
				address, body = r.base+"do", strings.NewReader(form.Encode())
			}
			got := r.request(method, address, body)
			if got.status != http.StatusForbidden {
				t.Errorf("%s of %s: got %d, want 403", method, kind, got.status)
			}
			// Operators of the program headrace know its flags, and programmers the configuration.
			if !strings.Contains(got.body, "--actions") || !strings.Contains(got.body, "Config.Authorize") {
				t.Errorf("%s of %s: the page does not name what allows actions: %s", method, kind, got.body)
			}
		}
	}
	s, err := r.queue.Stats(t.Context())
	must(t, err)
	if s.Paused || s.Dead != 1 || s.Requeued != 0 || s.Discarded != 0 {
		t.Errorf("an action was done: %+v", s)
	}
	if body := r.get("dead"); strings.Contains(body, "do?action") || strings.Contains(body, "checkbox") {
		t.Error("a console that only reads shows buttons")
	}
}

func TestOtherSitesCannotAct(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.serve(func(c *console.Config) { c.Authorize = allow })
	for name, header := range map[string]http.Header{
		"another origin": {"Origin": {"https://evil.example"}},
		"another site":   {"Sec-Fetch-Site": {"cross-site"}},
		"a subdomain":    {"Sec-Fetch-Site": {"same-site"}},
		"no origin":      {"Origin": {"null"}},
	} {
		for kind, form := range everyAction("x") {
			for _, page := range []string{"do", "do.json"} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.base+page, strings.NewReader(form.Encode()))
				must(t, err)
				req.Header = header.Clone()
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				if got := r.do(req); got.status != http.StatusForbidden {
					t.Errorf("%s, %s of %s: got %d, want 403", name, page, kind, got.status)
				}
			}
		}
	}
	if done := read[console.HealthPage](r, "health.json").Actions; len(done) > 0 {
		t.Errorf("got the actions %+v, want none", done)
	}
	// The address of a POST decides nothing, and a GET does nothing.
	if got := r.request(http.MethodPost, r.base+"do?action=pause", strings.NewReader("")); got.status != http.StatusBadRequest {
		t.Errorf("a POST without a form: got %d, want 400", got.status)
	}
	r.get("do?action=pause")
	s, err := r.queue.Stats(t.Context())
	must(t, err)
	if s.Paused {
		t.Error("the queue is paused, want that nothing was done")
	}
}
