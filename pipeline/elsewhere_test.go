package pipeline_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// otherRedis is a client of another database than that of the queues.
func otherRedis(t *testing.T) rueidis.Client {
	t.Helper()
	opt, err := rueidis.ParseURL(servertest.RedisURL(t))
	if err != nil {
		t.Fatal(err)
	}
	opt.SelectDB = 5
	client, err := rueidis.NewClient(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// A gate that measures another queue is refused. One that measures the server serves any queue.
func TestGateOfAnotherQueueIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	other, err := queue.New(t.Context(), r.redis, servertest.Prefix(t)+"other", queue.Config{})
	if err != nil {
		t.Fatal(err)
	}
	sharded, err := pipeline.NewShards(t.Context(), r.redis, servertest.Prefix(t)+"shards", 2, pipeline.ShardsConfig{NoWindow: true})
	if err != nil {
		t.Fatal(err)
	}
	gate := func(name string, cfg backpressure.Config) *backpressure.Gate {
		g, err := backpressure.New(t.Context(), r.redis, name, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	own, theirs := r.queue.Name(), other.Name()
	lag := func(context.Context) (time.Duration, error) { return 0, nil }
	for what, c := range map[string]struct {
		queue  pipeline.Queue
		gate   pipeline.Gate
		wanted string // in the error; "": none
	}{
		"own":              {r.queue, gate(own, backpressure.Config{Records: backpressure.SourcesOf(r.queue)}), ""},
		"another queue's":  {r.queue, gate(theirs, backpressure.Config{Records: backpressure.SourcesOf(other)}), `must be the gate of the queue "` + own},
		"another's lag":    {r.queue, gate(theirs, backpressure.Config{LagKey: other.LagKey(), HighLag: time.Hour}), "measures " + other.LagKey()},
		"a lag of ours":    {r.queue, gate(theirs, backpressure.Config{Lag: lag, HighLag: time.Hour}), ""},
		"of shards":        {r.queue, sharded.Gate, `has no gate for "` + own},
		"a shard's own":    {sharded.Shard(1).Queue, sharded.Shard(1).Gate, ""},
		"a shard of all":   {sharded.Shard(1).Queue, sharded.Gate, ""},
		"another shard's":  {sharded.Shard(1).Queue, sharded.Shard(0).Gate, "must be the gate of the queue"},
		"shards":           {sharded.Queue, sharded.Gate, ""},
		"one for shards":   {sharded.Queue, sharded.Shard(0).Gate, "must be the Gate of NewShards"},
		"of fewer shards":  {sharded.Queue, new(pipeline.ShardGate), "has no gate for"},
		"a type of ours":   {r.queue, wrapped{gate(theirs, backpressure.Config{Records: backpressure.SourcesOf(other)})}, ""},
		"an equal pattern": {r.queue, gate(own, backpressure.Config{Records: []backpressure.Source{{List: "{" + own + "}:ready"}}}), ""},
	} {
		flow := pipeline.Flow[reading]{Queue: c.queue, Chain: pipeline.Decode(parseReading), Table: noTable{}, Gate: c.gate}
		_, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{})
		if _, perr := pipeline.NewPromoter(flow, pipeline.PromoterConfig{}); (err == nil) != (perr == nil) {
			t.Errorf("%s: NewWorker %v, NewPromoter %v", what, err, perr)
		}
		switch {
		case c.wanted == "" && err != nil:
			t.Errorf("%s: %v", what, err)
		case c.wanted != "" && (!errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), c.wanted)):
			t.Errorf("%s: got %v, want ErrConfig with %q", what, err, c.wanted)
		}
	}
}

type wrapped struct{ pipeline.Gate }

type noTable struct{ pipeline.Table[reading] }

// A window in another database sees no batch of the queue. No record passes unchecked, none is
// lost, and the log names the mistake. With the right window the same batches go through.
func TestWindowInAnotherDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	window, err := dedup.New(t.Context(), otherRedis(t), r.queue.Name(), dedup.Config{})
	if err != nil {
		t.Fatal(err)
	}
	right := r.flow
	r.flow.Chain = pipeline.Then(pipeline.Decode(decodeItem), pipeline.Dedup(window, itemID))
	records := numbered("a", 5, "good")
	r.push(records...)
	log := newLines()
	stop := r.start(pipeline.WorkerConfig{Logger: slog.New(log)}, pipeline.PromoterConfig{})
	defer stop()
	eventually(t, time.Minute, func() error {
		if len(log.with("does not see a batch that the queue has leased")) == 0 {
			return errors.New("the log does not name the mistake")
		}
		return nil
	})
	stop()
	r.flow = right
	defer r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})()
	r.settled()
	r.check(want{rows: idsOf(records)})
}

// A gate in another database sees no record. The worker logs it and works on.
func TestGateInAnotherDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	cfg := backpressure.Config{Records: backpressure.SourcesOf(r.queue)}
	for what, client := range map[string]rueidis.Client{"here": r.redis, "elsewhere": otherRedis(t)} {
		gate, err := backpressure.New(t.Context(), client, r.queue.Name(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		r.flow.Gate = gate
		r.push(numbered(what, 5, "good")...)
		log := newLines()
		stop := r.start(pipeline.WorkerConfig{Logger: slog.New(log)}, pipeline.PromoterConfig{})
		r.settled()
		stop()
		if n := len(log.with("Flow.Gate does not see")); (n == 1) != (what == "elsewhere") {
			t.Errorf("%s: the log names the gate %d times:\n%s", what, n, strings.Join(log.all(), "\n"))
		}
	}
}
