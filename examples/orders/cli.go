package orders

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/examples/internal/ops"
	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/pipeline"
)

// Names are the names by which the pipeline of the example programs is found from outside.
var Names = ops.Names{Queue: Name, Table: Table, Views: Name}

// Connect connects to the two stores of the environment and opens the pipeline in them. Call done
// at the end.
func Connect(ctx context.Context, p *program.Program, o Options) (app *App, done func(), err error) {
	redis, pg, done, err := p.Both(ctx)
	if err != nil {
		return nil, nil, err
	}
	app, err = program.Open(ctx, p, func(ctx context.Context) (*App, error) { return OpenAs(ctx, redis, pg, Name, o) })
	if err != nil {
		done()
		return nil, nil, err
	}
	return app, done, nil
}

// NoCreateFlag defines the flag of a program that leaves the schema alone.
func NoCreateFlag(f *program.Flags, o *Options) {
	f.Bool(&o.NoCreate, "no-create", "create nothing in Postgres: see headrace grants print")
}

// GeneratorFlags defines the flags of a program that generates orders. cfg.Seed is the default of
// -seed; 0 means the time.
func GeneratorFlags(f *program.Flags, cfg *Config) {
	f.Int(&cfg.Orders, "orders", DefaultOrders, 1, 100_000_000, "records to push")
	f.Share(&cfg.Duplicates, "duplicates", DefaultDuplicates, 0.9, "share that repeats an earlier order")
	f.Share(&cfg.Bad, "bad", DefaultBad, 0.9, "share that must be rejected")
	f.Bool(&cfg.Burst, "burst", "give all orders one timestamp")
	seed := "the time"
	if cfg.Seed != 0 {
		seed = fmt.Sprint(cfg.Seed)
	} else {
		cfg.Seed = uint64(time.Now().UnixNano())
	}
	f.Uint64(&cfg.Seed, "seed", "the same seed makes the same orders (default "+seed+")")
}

// DepthFlag defines the limit of the gate.
func DepthFlag(f *program.Flags, depth *int) {
	f.Int(depth, "depth", Depth, 1, 100_000_000, "records that may wait")
}

// WorkerFlags defines the flags of a program that runs a worker.
func WorkerFlags(f *program.Flags, cfg *pipeline.WorkerConfig) {
	f.Int(&cfg.Concurrency, "workers", pipeline.DefaultConcurrency, 1, 64, "batches processed at once")
	f.Int(&cfg.Records, "batch", pipeline.DefaultRecords, 1, 100_000, "records of a batch")
	f.Duration(&cfg.LeaseDuration, "lease", pipeline.DefaultLeaseDuration, time.Second, "a silent worker loses its batches")
}

// Job is what a program that runs the whole job takes from its command line: which orders to
// generate, and how to work.
type Job struct {
	Orders Config
	Depth  int // of the gate
	Worker pipeline.WorkerConfig
}

// MainJob is [program.Main] for such a program. It parses the flags of the Job. The orders have the
// same seed each time, so two runs compare. Log lines below a warning are left out.
func MainJob(name, help string, run func(ctx context.Context, p *program.Program, job Job) error) {
	program.Main(name, func(ctx context.Context, p *program.Program, args []string) error {
		job := Job{Orders: Config{Seed: 1}}
		flags := program.NewFlags(p.Name, help)
		GeneratorFlags(flags, &job.Orders)
		DepthFlag(flags, &job.Depth)
		WorkerFlags(flags, &job.Worker)
		if err := flags.Parse(p, args); err != nil {
			return err
		}
		if err := job.Orders.Check(); err != nil {
			return &program.UsageError{Text: err.Error()}
		}
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
		return run(ctx, p, job)
	})
}

// Report returns an observer that reports the waits of a PushAll through say.
func Report(say func(format string, args ...any)) PushObserver {
	return PushObserver{
		Full: func(why *backpressure.FullError) {
			say("the queue is full (%s: %d, the limit is %d); waiting for the workers", why.What, why.Depth+why.Reserved, why.High)
		},
		Room: func() { say("the queue has room again") },
		Away: func(err error) { say("Redis does not accept the push; trying again (%v)", err) },
		Back: func() { say("Redis accepts pushes again") },
	}
}
