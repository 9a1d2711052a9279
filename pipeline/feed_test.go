package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/pipelinetest"
	"github.com/headrace/headrace/queue"
)

// Feed pushes in chunks and states how far it came, whatever fails.
func TestFeed(t *testing.T) {
	t.Parallel()
	source := func(records ...string) pipeline.Source {
		return pipeline.Lines(strings.NewReader(strings.Join(records, "\n")), 10)
	}
	records := []string{"a", "b", "this is too long", "c", "d", "e"}
	skip := func(*pipeline.LineError) error { return nil }
	q := pipelinetest.NewQueue("orders")
	calls := 0
	r, err := pipeline.Feed(t.Context(), source(records...), func(ctx context.Context, p ...[]byte) error { calls++; return q.Push(ctx, p...) },
		pipeline.FeedConfig{Records: 2, OnError: skip})
	if st, _ := q.Stats(t.Context()); err != nil || calls != 3 || st.Ready != 5 || r != (pipeline.FeedResult{Pushed: 5, Skipped: 1}) {
		t.Errorf("got %+v, %v in %d pushes, %d ready, want 5 pushed in 3, 1 skipped", r, err, calls, st.Ready)
	}
	r, err = pipeline.Feed(t.Context(), source(records...), q.Push, pipeline.FeedConfig{})
	var bad *pipeline.LineError
	if !errors.As(err, &bad) || bad.Line != 3 || !errors.Is(err, pipeline.ErrLongLine) || r.Pushed != 2 {
		t.Errorf("without OnError: %+v, %v, want 2 pushed and the error of line 3", r, err)
	}
	partly := func(_ context.Context, p ...[]byte) error {
		return fmt.Errorf("away: %w", &queue.PushError{Pushed: 1, Unknown: 1, Err: errLostReply})
	}
	r, err = pipeline.Feed(t.Context(), source("a", "b", "c"), partly, pipeline.FeedConfig{})
	if !errors.Is(err, errLostReply) || r != (pipeline.FeedResult{Pushed: 1, Unknown: 1}) {
		t.Errorf("a push that fails: %+v, %v, want 1 pushed, 1 unknown", r, err)
	}
	// One shard of three has failed: b is not in the queue, d may be, and the others are.
	parted := func(context.Context, ...[]byte) error {
		return &queue.ShardsPushError{Rest: []int{1}, Unknown: []int{3}, Err: errLostReply}
	}
	r, err = pipeline.Feed(t.Context(), source("a", "b", "c", "d", "e"), parted, pipeline.FeedConfig{})
	if !errors.Is(err, errLostReply) || r != (pipeline.FeedResult{Pushed: 1, Unknown: 4}) {
		t.Errorf("a push that fails in one shard: %+v, %v, want 1 pushed, 4 unknown", r, err)
	}
	if _, err := pipeline.Feed(t.Context(), source(), q.Push, pipeline.FeedConfig{Records: -1}); !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("got %v, want ErrConfig", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pipeline.Feed(ctx, source("a"), q.Push, pipeline.FeedConfig{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the error of the context", err)
	}
}

// A source that waits for its next record, such as an idle standard input, neither keeps Feed from
// ending with its context nor holds back the records that it has yielded.
func TestFeedFromASlowSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in, input := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		q := pipelinetest.NewQueue("orders")
		ready := func(want int64) {
			t.Helper()
			if st, err := q.Stats(ctx); err != nil || st.Ready != want {
				t.Errorf("%d ready, %v, want %d", st.Ready, err, want)
			}
		}
		var r pipeline.FeedResult
		ended := make(chan error, 1)
		go func() {
			var err error
			r, err = pipeline.Feed(ctx, pipeline.Lines(in, 0), q.Push, pipeline.FeedConfig{})
			ended <- err
		}()
		for i := range 3 {
			if _, err := fmt.Fprintf(input, "%d\n", i); err != nil {
				t.Error(err)
			}
			<-time.After(pipeline.DefaultLinger + time.Millisecond)
			ready(int64(i + 1))
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) || r.Pushed != 3 {
			t.Errorf("got %+v, %v, want 3 pushed and the error of the context", r, err)
		}
		if err := input.Close(); err != nil { // ends the source that was abandoned
			t.Error(err)
		}
	})
}

// A push that fails while the source waits ends the feed.
func TestFeedEndsWithItsPush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in, input := io.Pipe()
		defer input.Close() //nolint:errcheck // ends the source that was abandoned
		go fmt.Fprintln(input, "a")
		r, err := pipeline.Feed(t.Context(), pipeline.Lines(in, 0),
			func(context.Context, ...[]byte) error { return errLostReply }, pipeline.FeedConfig{})
		if !errors.Is(err, errLostReply) || r != (pipeline.FeedResult{}) {
			t.Errorf("got %+v, %v, want the error of the push", r, err)
		}
	})
}

// The source has ended when Feed returns, unless it waits for a record: it may use what the caller
// uses.
func TestFeedWaitsForTheSource(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]error{"a push that fails": errLostReply, "a source that ends": nil} {
		running := false // not atomic: the race detector sees whether Feed waits
		source := func(yield func([]byte, error) bool) {
			running = true
			defer func() { running = false }()
			for range 10 {
				if !yield([]byte("a"), nil) {
					return
				}
			}
		}
		_, err := pipeline.Feed(t.Context(), source, func(context.Context, ...[]byte) error { return end }, pipeline.FeedConfig{Records: 2})
		if !errors.Is(err, end) || running {
			t.Errorf("%s: %v, running: %v", name, err, running)
		}
	}
}

// A panic of the source is one of Feed, with the place of the source.
func TestFeedPanics(t *testing.T) {
	t.Parallel()
	source := func(yield func([]byte, error) bool) {
		if yield([]byte("a"), nil) {
			panic("no more paper")
		}
	}
	q := pipelinetest.NewQueue("orders")
	err := pipeline.Run(t.Context(), pipeline.ServiceFunc(func(ctx context.Context) error {
		_, err := pipeline.Feed(ctx, source, q.Push, pipeline.FeedConfig{})
		return err
	}))
	if err == nil || !strings.Contains(err.Error(), "panic in the source at feed_test.go:") || !strings.Contains(err.Error(), "no more paper") {
		t.Errorf("got %v, want the panic of the source", err)
	}
}
