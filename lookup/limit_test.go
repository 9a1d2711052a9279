package lookup_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

// A server that may not send several parts at once sends them one by one. Where it cannot send even
// one, the error names the setting and the way out.
func TestReplyOverASettingOfTheServer(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	c, admin := own.Client(t), own.Client(t)
	limit := func(bytes int) {
		set := fmt.Sprintf("normal %d 0 0", bytes)
		if err := admin.Do(t.Context(), admin.B().ConfigSet().ParameterValue().ParameterValue("client-output-buffer-limit", set).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	table, err := lookup.New(t.Context(), c, "w", lookup.Config[string, string]{
		Load: func(_ context.Context, put func(string, string) error) error {
			for i := range 80 {
				if err := put(fmt.Sprint(i), strings.Repeat("x", 100_000)); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	limit(3 << 20) // a part has a megabyte
	if r, err := table.Refresh(t.Context()); err != nil || r.Entries != 80 {
		t.Fatalf("got %+v, %v, want 80 entries", r, err)
	}
	reader, err := lookup.New(t.Context(), c, "w", lookup.Config[string, string]{})
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Sync(t.Context()); err != nil {
		t.Errorf("one by one: %v", err)
	}
	limit(200_000)
	another, err := lookup.New(t.Context(), c, "w", lookup.Config[string, string]{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := another.Sync(ctx); err == nil || !strings.Contains(err.Error(), "client-output-buffer-limit of 200000 bytes") {
		t.Errorf("got %v, want an error that names the setting", err)
	}
}
