package window_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

// interrupted is a client that calls after with the number of each command that the server has run,
// from 1 on. If that returns true, or the context has ended, the reply is lost.
type interrupted struct {
	rueidis.Client
	n     int
	after func(n int) bool
}

func (i *interrupted) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	if i.after == nil {
		return i.Client.Do(ctx, cmd)
	}
	r := i.Client.Do(context.WithoutCancel(ctx), cmd)
	if i.n++; !i.after(i.n) && ctx.Err() == nil {
		return r
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	return i.Client.Do(ended, i.B().Ping().Build())
}

// A closer that stops, or fails to read one window, leaves the others to the next closer at once,
// and nothing counts against them.
func TestCloseDueGivesBack(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	const windows = 4
	known := newStore(t, c, window.Config{Size: time.Minute, Lateness: -1}) // the server knows the scripts then
	add(t, known, "k", at(0, "x"), at(60*time.Second, "y"))
	if closed, err := known.CloseDue(t.Context(), 1); err != nil || len(closed) != 1 {
		t.Fatalf("got %v, %v, want a window", closed, err)
	}
	for _, tt := range []struct {
		what   string
		after  func(stop func()) func(n int) bool
		leased int64 // windows that stay leased
	}{
		{"stopped while it leases", func(stop func()) func(int) bool {
			return func(n int) bool {
				if n == 1 {
					stop()
				}
				return false
			}
		}, 0},
		{"stopped while it reads", func(stop func()) func(int) bool {
			return func(n int) bool {
				if n == 3 { // it has read one window
					stop()
				}
				return false
			}
		}, 0},
		{"a window cannot be read", func(func()) func(int) bool { return func(n int) bool { return n == 3 } }, 1},
	} {
		i := &interrupted{Client: c}
		w := newStore(t, i, window.Config{Size: time.Minute, Lateness: -1, MaxFailures: 1})
		for k := range windows {
			add(t, w, fmt.Sprint(k), at(0, "x"), at(60*time.Second, "y"))
		}
		ctx, cancel := context.WithCancel(t.Context())
		i.after = tt.after(cancel)
		if _, err := w.CloseDue(ctx, windows); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want its error", tt.what, err)
		}
		cancel()
		i.after = nil
		s, err := w.Stats(t.Context())
		if err != nil || s.Leased != tt.leased || s.Due != windows-tt.leased {
			t.Errorf("%s: got %d windows leased and %d due, %v, want %d and %d", tt.what, s.Leased, s.Due, err, tt.leased, windows-tt.leased)
		}
		due, _, err := w.Windows(t.Context(), window.PhaseDue, "", windows)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range due {
			if d.Failures != 0 {
				t.Errorf("%s: window of key %s has %d failures, want none", tt.what, d.Key, d.Failures)
			}
		}
	}
}
