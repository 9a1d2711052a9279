package pipeline_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// A pool whose hook fails, for example because a token cannot be fetched, is Postgres being
// unavailable: no batch pays for it.
func TestAFailingHookOfThePoolIsNotTheBatchsFault(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	config, err := pgxpool.ParseConfig(servertest.PostgresURL(t))
	if err != nil {
		t.Fatal(err)
	}
	var left atomic.Int64
	config.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
		if left.Add(-1) >= 0 {
			return errors.New("the token service does not answer")
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	q, err := queue.New(ctx, servertest.Redis(t), servertest.Prefix(t), queue.Config{Lease: queue.LeaseConfig{MaxFailures: 1}})
	if err != nil {
		t.Fatal(err)
	}
	table, err := staging.New(ctx, pool, "readings", staging.Config[reading]{Create: true, Key: []string{"sensor"}})
	if err != nil {
		t.Fatal(err)
	}
	flow := pipeline.Flow[reading]{Queue: q, Table: table, Chain: pipeline.Decode(parseReading)}
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{Logger: quiet, Observer: pipeline.ObserverFunc(func(_ context.Context, e pipeline.Event) {
		if e.Op == pipeline.OpHandoff || e.Op == pipeline.OpRelease {
			stop()
		}
	})})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Push(ctx, []byte("attic 31")); err != nil {
		t.Fatal(err)
	}
	left.Store(4)
	pool.Reset()
	if err := worker.Run(ctx); err != nil {
		t.Fatal(err)
	}
	batches, err := q.HandedOff(t.Context())
	if err != nil || len(batches) != 1 || batches[0].Attempt != 1 || left.Load() >= 0 {
		t.Errorf("handed off %+v, %v, %d failures left, want the batch in its first attempt", batches, err, left.Load())
	}
}
