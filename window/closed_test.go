package window_test

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
	"github.com/headrace/headrace/window"
)

// No retry helps a closer whose client the program has closed.
func TestRunEndsWhenItsClientIsClosed(t *testing.T) {
	t.Parallel()
	c, err := rueidis.NewClient(redisxtest.Options(t, servertest.RedisURL(t)))
	if err != nil {
		t.Fatal(err)
	}
	w := newStore(t, c, window.Config{Size: time.Minute, PollInterval: time.Millisecond, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := w.Run(ctx, func(context.Context, window.ClosedWindow) error { return nil }); !errors.Is(err, rueidis.ErrClosing) {
		t.Errorf("Run returned %v, want %v", err, rueidis.ErrClosing)
	}
}
