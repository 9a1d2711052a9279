package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

// A promotion that fails again and again loses nothing, so the books balance. It shows in Stuck, in
// the events and in the log, with its reason, and disappears when the cause is gone. Redis may be
// full by then.
func TestWedgedPromotionIsVisible(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{redis: servertest.OwnRedis(t).Client(t)})
	if _, err := r.pool.Exec(t.Context(), "ALTER TABLE items ALTER id SET NOT NULL; CREATE UNIQUE INDEX ON items (id); INSERT INTO items (id, kind) VALUES ('a1', 'old')"); err != nil {
		t.Fatal(err)
	}
	table, err := staging.New(t.Context(), r.pool, "items", staging.Config[item]{Key: []string{"id"}, Conflict: staging.ConflictFail})
	if err != nil {
		t.Fatal(err)
	}
	r.flow.Table = table
	records := numbered("a", 5, "good")
	r.push(records...)
	if err := r.redis.Do(t.Context(), r.redis.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	log := newLines()
	var mu sync.Mutex
	var seen []pipeline.Event
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{
		Name: "the promoter", Logger: slog.New(log),
		Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
			if e.Op == pipeline.OpStuck || e.Op == pipeline.OpRecovered {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, e)
			}
		}),
	})
	defer stop()
	var books pipeline.Books
	eventually(t, 2*time.Minute, func() error {
		if books, err = r.flow.Books(context.Background()); err != nil {
			return err
		}
		if books.Stuck() == nil {
			return errors.New("not reported as stuck")
		}
		return nil
	})
	if err := books.Balanced(); err != nil {
		t.Error(err)
	}
	got := books.Stuck()
	for _, want := range []string{"the promoter: promoting, since 20", "failures", "key exists", "items"} {
		if !errors.Is(got, pipeline.ErrStuck) || !strings.Contains(got.Error(), want) || strings.Contains(got.Error(), "\n") {
			t.Errorf("stuck: %v, want %q in it", got, want)
		}
	}
	if first := log.with("promoting failed; retrying"); len(first) != 1 || !strings.Contains(first[0], "key exists") {
		t.Errorf("log %q, want one line with the reason", log.all())
	}
	if _, err := r.pool.Exec(context.Background(), "DELETE FROM items WHERE kind = 'old'"); err != nil {
		t.Fatal(err)
	}
	r.settled()
	eventually(t, time.Minute, func() error {
		books, err := r.flow.Books(context.Background())
		if err != nil {
			return err
		}
		return books.Stuck()
	})
	stop()
	r.check(want{rows: idsOf(records)})
	if len(seen) < 2 || seen[0].Op != pipeline.OpStuck || seen[0].Failures < 2 || seen[0].Err == nil || seen[len(seen)-1].Op != pipeline.OpRecovered {
		t.Errorf("events %+v, want OpStuck with failures and the error, and OpRecovered", seen)
	}
	if len(log.with("promoting works again")) != 1 {
		t.Errorf("log %q, want one line at the end", log.all())
	}
}

// Events carry what an operator asks for: queue, program, attempt, batches and records apart, the
// time of each stage, and what is in hand.
func TestEventsOfABatch(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	type key struct{}
	var mu sync.Mutex
	seen := map[pipeline.Op]pipeline.Event{}
	observer := pipeline.ObserverFunc(func(ctx context.Context, e pipeline.Event) {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Value(key{}) != "value" {
			t.Errorf("the context of event %s lacks the values of Run's", e.Op)
		}
		if _, ok := seen[e.Op]; !ok || e.Op == pipeline.OpPromote {
			seen[e.Op] = e
		}
	})
	r.push("a good", "a good", "b good", "c filter", "d refuse", "malformed")
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, "value"))
	defer cancel()
	waitW := r.startWorker(ctx, pipeline.WorkerConfig{Name: "w", Observer: observer, Concurrency: 1})
	waitP := r.startPromoter(ctx, pipeline.PromoterConfig{Name: "p", Observer: observer})
	r.settled()
	cancel()
	waitW()
	waitP()
	for op, want := range map[pipeline.Op]pipeline.Event{
		pipeline.OpLease:     {Program: "w", Batches: 1, Records: 6, Attempt: 1, InProgress: pipeline.InProgress{Batches: 1, Records: 6, Bytes: 43}},
		pipeline.OpTransform: {Program: "w", Batches: 1, Records: 6, Attempt: 1, Rows: 2, Duplicates: 1, Filtered: 1, Rejected: 2, InProgress: pipeline.InProgress{Batches: 1, Records: 6, Bytes: 43}},
		pipeline.OpStage:     {Program: "w", Batches: 1, Records: 6, Attempt: 1, Rows: 2, InProgress: pipeline.InProgress{Batches: 1, Records: 6, Bytes: 43}},
		pipeline.OpHandoff:   {Program: "w", Batches: 1, Records: 6, Attempt: 1, InProgress: pipeline.InProgress{Batches: 1, Records: 6, Bytes: 43}},
		pipeline.OpPromote:   {Program: "p", Batches: 1, Records: 6, Rows: 2, Duplicates: 1, Filtered: 1, Rejected: 2},
		pipeline.OpAck:       {Program: "p", Batches: 1},
	} {
		got := seen[op]
		if got.Queue != r.queue.Name() || got.Program != want.Program || got.Batches != want.Batches || got.Records != want.Records ||
			got.Rows != want.Rows || got.Attempt != want.Attempt || got.InProgress != want.InProgress ||
			got.Duplicates != want.Duplicates || got.Filtered != want.Filtered || got.Rejected != want.Rejected {
			t.Errorf("%s: got %+v, want %+v", op, got, want)
		}
	}
	var stages []string
	for _, s := range seen[pipeline.OpTransform].Stages {
		stages = append(stages, s.Name)
		if s.Duration <= 0 || s.In < s.Out {
			t.Errorf("stage %+v, want its duration and counts", s)
		}
	}
	if got := strings.Join(stages, " "); got != "decode dedup wanted refuse" {
		t.Errorf("stages %q, want those of the chain in order", got)
	}
}

// The report of a program that died disappears, also while others go on reporting.
func TestStallOfADeadProgramDisappears(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	now := time.Now()
	for program, age := range map[string]time.Duration{"alive": 4 * time.Minute, "dead": 11 * time.Minute} {
		stall := fmt.Sprintf(`{"program":%q,"step":"promoting","since":%q,"reported":%q}`,
			program, now.Add(-time.Hour).Format(time.RFC3339), now.Add(-age).Format(time.RFC3339))
		key := "{" + r.queue.Name() + "}:signals:stalls"
		if err := r.redis.Do(t.Context(), r.redis.B().Hset().Key(key).FieldValue().FieldValue(program+"/promoting", stall).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	books, err := r.flow.Books(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(books.Stalls) != 1 || books.Stalls[0].Program != "alive" {
		t.Errorf("got %v, want the stall of the program that lives", books.Stalls)
	}
}
