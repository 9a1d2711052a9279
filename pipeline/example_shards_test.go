package pipeline_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// sensorKey places a reading by its id: the name of the sensor.
func sensorKey(payload []byte) string {
	sensor, _, _ := strings.Cut(string(payload), " ")
	return sensor
}

// overShards returns the flow of readings over shards.
func overShards(ctx context.Context, s *pipeline.Shards, postgres *pgxpool.Pool) pipeline.Flow[reading] {
	table, err := staging.New(ctx, postgres, "readings", staging.Config[reading]{Create: true, Key: []string{"sensor"}})
	must(err)
	return pipeline.Flow[reading]{
		Queue:   s.Queue,
		Chain:   pipeline.Then(pipeline.Decode(parseReading), pipeline.Dedup(s.Window, sensorOf)),
		Table:   table,
		Signals: s.Signals,
		Gate:    s.Gate,
	}
}

// sharded returns three shards.
func sharded(ctx context.Context) (s *pipeline.Shards, cleanup func()) {
	redis, name, cleanup := connectRedis()
	s, err := pipeline.NewShards(ctx, redis, name, 3, pipeline.ShardsConfig{Key: sensorKey})
	must(err)
	return s, cleanup
}

// A queue over three shards, which on a cluster are on different nodes, feeds one table.
func ExampleNewShards() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	redis, postgres, name, cleanup := connect()
	defer cleanup()
	s, err := pipeline.NewShards(ctx, redis, name, 3, pipeline.ShardsConfig{Key: sensorKey})
	must(err)
	flow := overShards(ctx, s, postgres)
	worker, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{})
	must(err)
	promoter, err := pipeline.NewPromoter(flow, pipeline.PromoterConfig{})
	must(err)
	ended := make(chan error, 2)
	go func() { ended <- worker.Run(ctx) }()
	go func() { ended <- promoter.Run(ctx) }()

	must(s.Push(ctx, []byte("attic 31"), []byte("cellar 12"), []byte("attic 31"), []byte("roof hot")))
	must(flow.Drain(ctx))
	books, err := flow.Books(ctx)
	must(err)
	for _, line := range books.Lines()[:2] {
		fmt.Println(line.Sum)
	}
	stop()
	fmt.Println(<-ended, <-ended)
	// Output:
	// taken 4 = acked 4 + in flight 0 + dead 0 + discarded 0
	// records 4 = kept 2 + duplicates 1 + filtered 0 + rejected 1
	// <nil> <nil>
}

// Each shard has a pipeline of its own, with workers and a promoter of its own. Here all feed one
// table; on several machines each may have a Postgres of its own.
func ExampleShards_Shard() {
	ctx := context.Background()
	redis, postgres, name, cleanup := connect()
	defer cleanup()
	s, err := pipeline.NewShards(ctx, redis, name, 3, pipeline.ShardsConfig{Key: sensorKey})
	must(err)
	whole := overShards(ctx, s, postgres)
	for i := range s.Len() {
		shard := s.Shard(i)
		flow := pipeline.Flow[reading]{
			Queue:   shard.Queue,
			Chain:   pipeline.Then(pipeline.Decode(parseReading), pipeline.Dedup(shard.Window, sensorOf)),
			Table:   whole.Table,
			Signals: shard.Signals,
			Gate:    shard.Gate,
		}
		_, err := pipeline.NewWorker(flow, pipeline.WorkerConfig{})
		fmt.Println(i, err)
	}
	// Output:
	// 0 <nil>
	// 1 <nil>
	// 2 <nil>
}

func ExampleShards_Push() {
	ctx := context.Background()
	s, cleanup := sharded(ctx)
	defer cleanup()
	must(s.Push(ctx, []byte("attic 31"), []byte("cellar 12")))
	st, err := s.Queue.Stats(ctx)
	must(err)
	fmt.Println(st.Ready, s.Len())
	// Output: 2 3
}

func ExampleShardGate_Gates() {
	s, cleanup := sharded(context.Background())
	defer cleanup()
	fmt.Println(len(s.Gate.Gates()))
	// Output: 3
}

func ExampleShardGate_Notify() {
	ctx := context.Background()
	s, cleanup := sharded(ctx)
	defer cleanup()
	fmt.Println(s.Gate.Notify(ctx))
	// Output: <nil>
}

func ExampleShardWindow_Name() {
	s, cleanup := sharded(context.Background())
	defer cleanup()
	fmt.Println(s.Window.Name() == s.Queue.Name(), s.Shard(0).Window.Name() == s.Shard(0).Queue.Name())
	// Output: true true
}

// An operator gives the id of a rejected record free.
func ExampleShardWindow_Of() {
	ctx := context.Background()
	s, cleanup := sharded(ctx)
	defer cleanup()
	fmt.Println(s.Window.Of("attic").Forget(ctx, "attic"))
	// Output: 0 <nil>
}

// claimed is a batch whose record has claimed its id.
func claimed(ctx context.Context, s *pipeline.Shards, id string) dedup.Batch {
	must(s.Push(ctx, []byte(id+" 31")))
	qb, err := s.Queue.Lease(ctx, queue.LeaseOptions{})
	must(err)
	return dedup.Batch{Guard: qb.Guard, Root: qb.Root, Records: 1}
}

func ExampleShardWindow_Claim() {
	ctx := context.Background()
	s, cleanup := sharded(ctx)
	defer cleanup()
	fmt.Println(s.Window.Claim(ctx, claimed(ctx, s, "attic"), nil, []string{"attic"}))
	fmt.Println(s.Window.Claim(ctx, claimed(ctx, s, "attic"), nil, []string{"attic"}))
	// Output:
	// [fresh] <nil>
	// [duplicate] <nil>
}

func ExampleShardWindow_Undo() {
	ctx := context.Background()
	s, cleanup := sharded(ctx)
	defer cleanup()
	b := claimed(ctx, s, "attic")
	_, err := s.Window.Claim(ctx, b, nil, []string{"attic"})
	must(err)
	undo, err := s.Window.Undo(ctx, []dedup.Claim{{Root: b.Root, ID: "attic"}, {Root: b.Root, ID: "cellar"}})
	fmt.Println(len(undo[0]), len(undo[1]), err)
	// Output: 1 0 <nil>
}

func ExampleShardWindow_Holders() {
	ctx := context.Background()
	s, cleanup := sharded(ctx)
	defer cleanup()
	b := claimed(ctx, s, "attic")
	_, err := s.Window.Claim(ctx, b, nil, []string{"attic"})
	must(err)
	holders, err := s.Window.Holders(ctx, "cellar", "attic")
	must(err)
	fmt.Println(holders[0].Held, holders[1].HeldBy(b.Root))
	// Output: false true
}
