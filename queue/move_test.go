package queue_test

import (
	"errors"
	"testing"
	"time"

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

// The bound of the depth holds to the record, for each kind of push.
func TestDepthBoundIsExact(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		const bound = 100
		ctx := t.Context()
		for what, push := range map[string]func(q *queue.Queue, n int) error{
			"push":         func(q *queue.Queue, n int) error { return q.Push(ctx, records(0, n)...) },
			"delayed push": func(q *queue.Queue, n int) error { return q.PushAt(ctx, time.Now(), records(0, n)...) },
			"push from":    func(q *queue.Queue, n int) error { return q.PushFrom(ctx, "source", "", "1", records(0, n)...) },
		} {
			for _, before := range []int{0, 40, 98} {
				q := open(t, c, queue.Config{Push: queue.PushConfig{MaxDepth: bound}})
				if before > 0 {
					must(t, q.Push(ctx, records(0, before)...))
				}
				wantErr(t, push(q, bound-before+1), queue.ErrFull)
				if err := push(q, bound-before); err != nil {
					t.Errorf("%s of the %d records that fit: %v", what, bound-before, err)
				}
			}
		}
	})
}

// The first delayed push records the layout, as the first batch does.
func TestDelayedPushRecordsTheLayout(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx := t.Context()
		q := open(t, c, queue.Config{})
		must(t, q.PushAt(ctx, time.Now().Add(time.Hour), []byte("x")))
		layout, err := c.Do(ctx, c.B().Hget().Key("{"+q.Name()+"}:queue:stat").Field("layout").Build()).ToString()
		if layout == "" || err != nil {
			t.Errorf("got layout %q, %v, want one", layout, err)
		}
	})
}
