package queue_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// silent is a client that gets no answers from the shard with the hash tag. It counts the scripts
// that were answered, by worker.
type silent struct {
	rueidis.Client
	broken  chan struct{} // closed: the connection breaks
	mu      sync.Mutex
	tag     string // "": all shards answer
	held    int    // calls that have met the silence
	workers map[string]int
}

func (c *silent) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	args := slices.Clone(cmds[0].Commands())
	if !strings.HasPrefix(args[0], "EVAL") {
		return c.Client.DoMulti(ctx, cmds...)
	}
	if c.hold(args) {
		select {
		case <-ctx.Done():
		case <-c.broken:
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		ctx = gone // the client returns its error
	}
	r := c.Client.DoMulti(ctx, cmds...)
	if r[0].Error() == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.workers[args[len(args)-1]]++
	}
	return r
}

func (c *silent) hold(args []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tag == "" || !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "{"+c.tag+"}:") }) {
		return false
	}
	c.held++
	return true
}

func (c *silent) silence(tag string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tag = tag
}

// counts returns how many scripts of a worker were answered, and how many calls have met the
// silence.
func (c *silent) counts(worker string) (answered, held int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.workers[worker], c.held
}

// A shard that does not answer holds up the consumer that asks it. The others get the records of
// the other shards.
func TestASilentShardHoldsUpOneConsumer(t *testing.T) {
	t.Parallel()
	c := &silent{Client: servertest.Redis(t), broken: make(chan struct{}), workers: map[string]int{}}
	var text bytes.Buffer
	cfg := quick
	cfg.Logger = slog.New(slog.NewTextHandler(&text, nil))
	s, err := queue.NewShards(t.Context(), c, servertest.Prefix(t), 3, first, cfg)
	must(t, err)
	type answer struct {
		b   *queue.Batch
		err error
	}
	answers := make(chan answer, 3)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	workers := []string{"w1", "w2", "w3"}
	for _, w := range workers {
		wg.Go(func() {
			b, err := s.Lease(ctx, queue.LeaseOptions{Worker: w, Records: 1})
			answers <- answer{b, err}
		})
	}
	for _, w := range workers {
		servertest.Eventually(t, "consumer "+w+" has asked each shard", func() bool { n, _ := c.counts(w); return n >= 3 })
	}
	at := s.ShardOf("a")
	bad := s.Queues()[(at+1)%3]
	c.silence(bad.Name())
	servertest.Eventually(t, "a consumer waits for the silent shard", func() bool { _, held := c.counts(""); return held > 0 })
	must(t, s.Push(t.Context(), []byte("a1"), []byte("a2")))
	for range 2 {
		select {
		case a := <-answers:
			if a.err != nil || a.b.Queue != s.Queues()[at].Name() {
				t.Fatalf("got %+v, %v, want a batch of %s", a.b, a.err, s.Queues()[at].Name())
			}
		case <-time.After(time.Minute):
			t.Fatal("the consumers wait for the silent shard, want a batch of another one each")
		}
	}
	if _, held := c.counts(""); held != 1 {
		t.Errorf("%d consumers have asked the silent shard, want 1", held)
	}
	if _, err := s.TryLease(t.Context(), queue.LeaseOptions{}); err == nil || errors.Is(err, queue.ErrEmpty) || !strings.Contains(err.Error(), bad.Name()) {
		t.Errorf("a lease while %s is silent: %v, want an error that names it", bad.Name(), err)
	}
	// The consumer gives up after more than a second: the shard has failed.
	cancel()
	close(c.broken)
	if a := <-answers; !errors.Is(a.err, context.Canceled) {
		t.Errorf("the consumer of the silent shard: %v, want its context's error", a.err)
	}
	if !strings.Contains(text.String(), "a shard fails") || !strings.Contains(text.String(), bad.Name()) {
		t.Errorf("the log does not name the shard that fails: %s", text.String())
	}
}

// A call that ended with its context shows nothing about its shard.
func TestACancelledLeaseIsNoSuccess(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	var text bytes.Buffer
	cfg := quick
	cfg.Logger = slog.New(slog.NewTextHandler(&text, nil))
	s, err := queue.NewShards(t.Context(), c, servertest.Prefix(t), 2, nil, cfg)
	must(t, err)
	bad := "{" + s.Queues()[1].Name() + "}:queue:leases"
	must(t, c.Do(t.Context(), c.B().Set().Key(bad).Value("spoilt").Build()).Error())
	lease := func(ctx context.Context) error {
		_, err := s.TryLease(ctx, queue.LeaseOptions{})
		return err
	}
	wantErr(t, lease(t.Context()), queue.ErrWrongType)
	wantErr(t, lease(t.Context()), queue.ErrWrongType) // it is left alone: the same error
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	// As long as the shard is left alone, the error is the old one.
	servertest.Eventually(t, "a cancelled lease meets the shard", func() bool { return !errors.Is(lease(cancelled), queue.ErrWrongType) })
	if strings.Contains(text.String(), "works again") {
		t.Errorf("the log after a cancelled lease: %s", text.String())
	}
	wantErr(t, lease(t.Context()), queue.ErrWrongType)
	must(t, c.Do(t.Context(), c.B().Del().Key(bad).Build()).Error())
	if n := strings.Count(text.String(), "a shard fails"); n != 1 {
		t.Errorf("the log names the failure %d times, want once: %s", n, text.String())
	}
}
