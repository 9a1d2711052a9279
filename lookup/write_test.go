package lookup

import (
	"errors"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
)

// A table of too many parts names the setting that helps.
func TestTooManyParts(t *testing.T) {
	t.Parallel()
	table, err := New(t.Context(), servertest.Miniredis(t), "t", Config[string, int]{Chunk: 7})
	if err != nil {
		t.Fatal(err)
	}
	w := &writer[string, int]{t: table, id: "v", seen: map[string]struct{}{"k": {}}, pairs: []string{"k", "1"}}
	w.parts.Store(maxParts)
	if err := w.flush(t.Context()); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "Config.Chunk = 7") {
		t.Errorf("got %v, want ErrConfig with Config.Chunk", err)
	}
	w.parts.Store(maxParts - 1)
	if err := w.flush(t.Context()); err != nil {
		t.Errorf("the last part: %v", err)
	}
}
