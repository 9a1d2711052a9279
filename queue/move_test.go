package queue_test

import (
	"errors"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// Records and position move together, once, whatever is repeated.
func TestPushFrom(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx := t.Context()
		q := open(t, c, queue.Config{Push: queue.PushConfig{MaxDepth: 1900}})
		must(t, q.PushFrom(ctx, "orders", "", "2", records(0, 2)...))
		must(t, q.PushFrom(ctx, "orders", "", "2", records(0, 2)...)) // its reply was lost
		must(t, q.PushFrom(ctx, "orders", "2", "1500", records(2, 1500)...))
		must(t, q.PushFrom(ctx, "other", "", "1", records(1500, 1501)...))
		var other *queue.PositionError
		if err := q.PushFrom(ctx, "orders", "2", "3", records(2, 3)...); !errors.As(err, &other) || !errors.Is(err, queue.ErrPosition) || other.Position != "1500" {
			t.Errorf("got %v, want the position 1500", err)
		}
		wantErr(t, q.PushFrom(ctx, "orders", "1500", "9", records(0, 500)...), queue.ErrFull)
		wantErr(t, q.PushFrom(ctx, "orders", "1500", "1500", records(0, 1)...), queue.ErrConfig)
		wantErr(t, q.PushFrom(ctx, "", "", "1", records(0, 1)...), queue.ErrConfig)
		wantErr(t, q.PushFrom(ctx, "orders", "1500", "9", make([][]byte, queue.MaxMove+1)...), queue.ErrConfig)
		wantErr(t, q.PushFrom(ctx, "orders", "1500", "9"), queue.ErrEmptyPush)
		for source, want := range map[string]string{"orders": "1500", "other": "1", "none": ""} {
			if at, err := q.Position(ctx, source); at != want || err != nil {
				t.Errorf("%s: got position %q, %v, want %q", source, at, err, want)
			}
		}
		wantPayloads(t, lease(t, q, queue.LeaseOptions{Records: 1501}), records(0, 1501))
		audit, err := q.Audit(ctx)
		must(t, err)
		must(t, audit.Balanced())
	})
}
