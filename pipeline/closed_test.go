package pipeline_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// A program that closes its client or its pool too early ends with an error instead of waiting for
// ever. What it held is given back or expires, and another program finishes it.
func TestRunEndsWhenItsStoreIsClosed(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"client", "pool"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			first := newRig(t, rigOptions{name: servertest.Prefix(t)})
			client, err := rueidis.NewClient(redisxtest.Options(t, servertest.RedisURL(t)))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			pool, err := pgxpool.NewWithConfig(t.Context(), first.pool.Config())
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			second := newRig(t, rigOptions{redis: client, pool: pool, name: first.queue.Name()})
			next, err := queue.New(t.Context(), client, servertest.Prefix(t), queue.Config{})
			if err != nil {
				t.Fatal(err)
			}
			worker, err := pipeline.NewWorker(second.flow, pipeline.WorkerConfig{Logger: quiet, LeaseDuration: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			promoter, err := pipeline.NewPromoter(second.flow, pipeline.PromoterConfig{Logger: quiet, PollInterval: 10 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			relay, err := pipeline.NewRelay(next, "items", pipeline.RelayConfig{
				DB: pool, SQL: "SELECT id, id FROM items WHERE id > $1 ORDER BY id LIMIT $2", Start: "-", Logger: quiet,
				PollInterval: 10 * time.Millisecond,
			})
			if err != nil {
				t.Fatal(err)
			}
			ended := map[string]chan error{}
			for name, run := range map[string]func(context.Context) error{"worker": worker.Run, "promoter": promoter.Run, "relay": relay.Run} {
				c := make(chan error, 1)
				ended[name] = c
				go func() { c <- run(t.Context()) }()
			}
			if what == "client" {
				client.Close()
			} else {
				pool.Close()
			}
			first.push(numbered("a", 300, "keep")...)
			for name, c := range ended {
				select {
				case err := <-c:
					if err == nil || !strings.Contains(err.Error(), "the program has closed a client or a pool") {
						t.Errorf("the %s returned %v", name, err)
					}
				case <-time.After(time.Minute):
					t.Fatalf("the %s still runs", name)
				}
			}
			stop := first.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
			defer stop()
			first.settled()
			first.check(want{rows: idsOf(first.pushed)})
		})
	}
}
