package errorlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headrace/headrace/internal/errorlog"
)

// A series has a line at its beginning, for each new text, now and then, and at its end.
func TestReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := errorlog.New(slog.New(slog.NewTextHandler(&out, nil)), "window: ", "window", "shop")
		step := func(err error, want ...string) {
			t.Helper()
			out.Reset()
			log.Report(t.Context(), "closing", err)
			if len(want) == 0 && out.Len() > 0 || strings.Count(out.String(), "\n") > 1 {
				t.Errorf("got %q, want no line", out.String())
			}
			for _, w := range want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("got %q, want %s", out.String(), w)
				}
			}
		}
		refused, loading := errors.New("refused"), errors.New("loading")
		step(nil)
		step(refused, "level=WARN", `"window: closing fails and is retried"`, "window=shop", "error=refused")
		step(refused)
		step(loading, "still fails", "error=loading", "failures=3")
		for range 4 { // the two texts alternate
			step(refused)
			step(loading)
		}
		for i := range 20 { // and so do many more
			if err := fmt.Errorf("port %d", i); i < 6 {
				step(err, err.Error())
			} else {
				step(err)
			}
		}
		<-time.After(6 * time.Second)
		step(refused, "still fails", "failures=32", "since=6s")
		<-time.After(6 * time.Second)
		step(refused)
		<-time.After(5 * time.Second)
		step(refused, "failures=34")
		step(nil, "level=INFO", "closing works again", "after=17s", "failures=34", "window=shop")
		step(nil)
		step(refused, `closing fails and is retried"`)
	})
}
