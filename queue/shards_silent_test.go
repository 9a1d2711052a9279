package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	thawed  chan struct{} // closed: the shard answers again; nil: never
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
		case <-c.thawed:
			return c.Client.DoMulti(ctx, cmds...)
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
	var text locked
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
	// The consumer leaves it after a second, and waits for all shards.
	cancel()
	close(c.broken)
	if a := <-answers; !errors.Is(a.err, context.Canceled) {
		t.Errorf("the consumer of the silent shard: %v, want its context's error", a.err)
	}
	servertest.Eventually(t, "the log names the shard that fails", func() bool {
		return strings.Contains(text.String(), "a shard fails") && strings.Contains(text.String(), bad.Name())
	})
}

// locked is a buffer for several goroutines.
type locked struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A consumer that is never idle leaves a silent shard too. What that shard leases in the end goes
// to a consumer that comes, and back to the queue if none does; neither counts as a failure.
func TestABusyConsumerLeavesASilentShard(t *testing.T) {
	t.Parallel()
	c := &silent{Client: servertest.Redis(t), thawed: make(chan struct{}), workers: map[string]int{}}
	ctx := t.Context()
	cfg := quick
	cfg.Logger = quiet
	s, err := queue.NewShards(ctx, c, servertest.Prefix(t), 2, first, cfg)
	must(t, err)
	at := s.ShardOf("a")
	bad := s.Queues()[1-at]
	other := "b"
	for k := 'c'; s.ShardOf(other) == at; k++ {
		other = string(k)
	}
	must(t, s.Push(ctx, []byte(other+"1"), []byte(other+"2")))
	c.silence(bad.Name())
	o := queue.LeaseOptions{Records: 1, Duration: time.Hour}
	for i := range 20 {
		must(t, s.Push(ctx, fmt.Appendf(nil, "a%d", i)))
	}
	for range 20 {
		b, err := s.Lease(ctx, o)
		if err != nil || b.Queue != s.Queues()[at].Name() {
			t.Fatalf("got %+v, %v, want a batch of %s", b, err, s.Queues()[at].Name())
		}
	}
	if _, held := c.counts(""); held != 1 {
		t.Errorf("%d calls wait for the silent shard, want 1", held)
	}
	c.silence("")
	close(c.thawed)
	got := map[string]bool{}
	for range 2 {
		b, err := s.Lease(ctx, o)
		if err != nil || b.Queue != bad.Name() || b.Failures != 0 || b.Crashes != 0 {
			t.Fatalf("got %+v, %v, want a batch of %s, and neither a failure nor a crash", b, err, bad.Name())
		}
		got[string(b.Payloads[0])] = true
	}
	if len(got) != 2 {
		t.Errorf("got %v, want both records of %s", got, bad.Name())
	}
	st, err := s.Stats(ctx)
	must(t, err)
	if st.InFlight != 22 || st.Balanced() != nil {
		t.Errorf("got %+v, want 22 in flight", st)
	}
}

// A batch that comes when its consumer has left, and for which no other one asks, is given back.
func TestALateBatchIsGivenBack(t *testing.T) {
	t.Parallel()
	c := &silent{Client: servertest.Redis(t), thawed: make(chan struct{}), workers: map[string]int{}}
	ctx := t.Context()
	cfg := quick
	cfg.Logger = quiet
	s, err := queue.NewShards(ctx, c, servertest.Prefix(t), 2, nil, cfg)
	must(t, err)
	good, bad := s.Queues()[0], s.Queues()[1]
	must(t, bad.Push(ctx, records(0, 3)...))
	c.silence(bad.Name())
	for held := 0; held == 0; _, held = c.counts("") {
		must(t, good.Push(ctx, records(3, 4)...))
		b, err := s.Lease(ctx, queue.LeaseOptions{Duration: time.Hour})
		if err != nil || b.Queue != good.Name() {
			t.Fatalf("got %+v, %v, want a batch of %s", b, err, good.Name())
		}
	}
	c.silence("")
	close(c.thawed)
	servertest.Eventually(t, "the batch is given back", func() bool {
		st, err := bad.Stats(ctx)
		must(t, err)
		return st.WaitingBatches == 1 && st.InFlight == 3
	})
	b, err := bad.Lease(ctx, queue.LeaseOptions{})
	must(t, err)
	if len(b.Payloads) != 3 || b.Failures != 0 || b.Crashes != 0 {
		t.Errorf("got %+v, want the 3 records, and neither a failure nor a crash", b)
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
