package examples_test

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
)

// TestConsoleServesItsPages starts headrace console on a free port, reads a page as JSON and ends
// it.
func TestConsoleServesItsPages(t *testing.T) {
	t.Parallel()
	name := servertest.Prefix(t)
	stores := env(servertest.RedisURL(t), servertest.PostgresURL(t))
	p := start(t, "headrace", stores, "console", "--queue", name, "--listen", "127.0.0.1:0", "--host", "Proxy.example")
	p.reports("http://127.0.0.1:")
	url := strings.Fields(p.errors.text()[strings.Index(p.errors.text(), "http://"):])[0]
	for page, want := range map[string]string{"index.json": name, "p/" + name + "/queue.json": `"can_promote": false`, "livez": "ok"} {
		resp, err := http.Get(url + page)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: got %d %v, want %q in\n%s", page, resp.StatusCode, err, want, body)
		}
	}
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST:8080": 200, "127.0.0.1": 200, "[::1]:8080": 200, "proxy.example": 200, "proxy.example:443": 200,
		"rebound.example:8080": 421, "localhost.rebound.example": 421, "10.0.0.1": 421,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"livez", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		equal(t, "status for the host "+host, resp.StatusCode, want)
	}
	taken := strings.Trim(strings.TrimPrefix(url, "http://"), "/")
	cli{t, stores}.fails("console --listen "+taken, "cannot listen at "+taken+": choose another --listen")
	http.DefaultClient.CloseIdleConnections()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if r := p.wait(); r.code != 0 {
		t.Errorf("exit code %d after an interrupt, want 0:\n%s", r.code, r.err)
	}
}
