package lookup_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

// No retry helps a table whose client the program has closed.
func TestRunEndsWhenItsClientIsClosed(t *testing.T) {
	t.Parallel()
	c, err := rueidis.NewClient(redisxtest.Options(t, servertest.RedisURL(t)))
	if err != nil {
		t.Fatal(err)
	}
	table := newTable(t, c, servertest.Prefix(t), lookup.Config[string, int]{
		MaxAge: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := table.Run(ctx); !errors.Is(err, rueidis.ErrClosing) {
		t.Errorf("Run returned %v, want %v", err, rueidis.ErrClosing)
	}
}
