package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// Defaults of [WorkerConfig] and [PromoterConfig].
const (
	DefaultConcurrency       = 2
	DefaultRecords           = 2000
	DefaultBytes             = 16 << 20
	DefaultLinger            = 20 * time.Millisecond
	DefaultLeaseDuration     = 30 * time.Second
	DefaultBatchTimeout      = 10 * time.Minute
	DefaultShutdownTimeout   = 10 * time.Second
	DefaultPollInterval      = time.Second
	DefaultReconcileInterval = 30 * time.Second
	DefaultRefreshInterval   = 5 * time.Second
)

// Queue is what a worker and a promoter need of a queue: *[queue.Queue] has it.
type Queue interface {
	Name() string
	Lease(ctx context.Context, o queue.LeaseOptions) (*queue.Batch, error)
	Extend(ctx context.Context, b *queue.Batch, d time.Duration) error
	Handoff(ctx context.Context, b *queue.Batch) error
	Release(ctx context.Context, b *queue.Batch, o queue.ReleaseOptions) error
	AckWith(ctx context.Context, acks ...queue.Ack) (int, error)
	Settle(ctx context.Context, b *queue.Batch, s queue.Resolution) error
	Reconcile(ctx context.Context, known queue.FatesFunc, settle queue.SettleFunc) (queue.ReconcileResult, error)
	Stats(ctx context.Context) (queue.Stats, error)
	HandedOff(ctx context.Context) ([]queue.HandedOff, error)
}

// Table is what a worker and a promoter need of a staged table: *[staging.Table] has it.
type Table[T any] interface {
	Stage(ctx context.Context, l staging.Load[T]) (staging.Outcome, error)
	Void(ctx context.Context, b staging.Batch) (staging.Fate, error)
	Fates(ctx context.Context, ids []string) ([]staging.Fate, error)
	RejectsByBatch(ctx context.Context, ids []string) (map[string][]staging.Reject, error)
	Promote(ctx context.Context, o staging.PromoteOptions) (staging.PromoteResult, error)
	Epoch(ctx context.Context) (string, error)
	Books(ctx context.Context, since time.Time) (staging.Books, error)
}

// Flow is what the programs of one pipeline share: give the same to the workers and to the promoter.
type Flow[T any] struct {
	// Queue is what producers push to.
	Queue Queue
	// Chain makes rows of payloads. Its [Dedup] stage, if any, names the window that the claims of rejected records are given back to.
	Chain Stage[[]byte, T]
	// Table is what the rows end in.
	Table Table[T]
	// Signals wake the next program within milliseconds; nil: each looks by itself, as often as its configuration says.
	Signals *Signals
	// Gate is told when acknowledged records have made room, so that waiting producers wake at once; nil: none is told. A *[backpressure.Gate] fits.
	Gate interface {
		Notify(ctx context.Context) error
	}
}

func (f Flow[T]) check() error {
	switch {
	case f.Queue == nil:
		return errors.New("pipeline: Flow.Queue is nil: give the *queue.Queue that the producers push to")
	case f.Chain.run == nil:
		return errors.New("pipeline: Flow.Chain is empty: begin it with Decode")
	case f.Table == nil:
		return errors.New("pipeline: Flow.Table is nil: give the *staging.Table that the rows end in")
	}
	return nil
}

// WorkerConfig is how a [Worker] works. The zero value is good.
type WorkerConfig struct {
	// Name stands in the ledger beside each batch. Default: host name and process id.
	Name string
	// Concurrency is how many batches are in hand at once: while one waits for Postgres, the next is transformed. Default [DefaultConcurrency], at most 1024.
	Concurrency int
	// Records and Bytes bound a batch; Linger is how long it may take to fill up. Defaults [DefaultRecords], [DefaultBytes], [DefaultLinger].
	Records int
	Bytes   int
	Linger  time.Duration
	// Lease is how long a batch stays with a worker that gives no sign of life; a healthy one extends it by itself. Default [DefaultLease], at least 100 ms.
	LeaseDuration time.Duration
	// Hold is how long the chain may take for one batch, and one try of staging. A transform that hangs loses its batch then, which counts as a crash; waiting for
	// Postgres is not bounded by it. Default [DefaultBatchTimeout].
	BatchTimeout time.Duration
	// Grace is how long a worker that was told to stop may take to finish what it has in hand. Default [DefaultShutdownTimeout].
	ShutdownTimeout time.Duration
	Observer        Observer
	Logger          *slog.Logger // default: slog.Default()
}

func (c WorkerConfig) withDefaults() (WorkerConfig, error) {
	if c.Name == "" {
		host, _ := os.Hostname()
		c.Name = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	orInt(&c.Concurrency, DefaultConcurrency)
	orInt(&c.Records, DefaultRecords)
	orInt(&c.Bytes, DefaultBytes)
	orDur(&c.Linger, DefaultLinger)
	orDur(&c.LeaseDuration, DefaultLeaseDuration)
	orDur(&c.BatchTimeout, max(DefaultBatchTimeout, c.LeaseDuration))
	orDur(&c.ShutdownTimeout, DefaultShutdownTimeout)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	switch {
	case c.Concurrency < 1 || c.Concurrency > 1024:
		return c, fmt.Errorf("pipeline: WorkerConfig.Concurrency is %d: must be from 1 to 1024", c.Concurrency)
	case c.Records < 1 || c.Records > 100_000:
		return c, fmt.Errorf("pipeline: WorkerConfig.Records is %d: must be from 1 to 100000", c.Records)
	case c.Bytes < 1 || c.Bytes > 512<<20:
		return c, fmt.Errorf("pipeline: WorkerConfig.Bytes is %d: must be from 1 to %d", c.Bytes, 512<<20)
	case c.Linger < 0 || c.Linger > time.Hour:
		return c, fmt.Errorf("pipeline: WorkerConfig.Linger is %v: must be from 0 to 1h", c.Linger)
	case c.LeaseDuration < 100*time.Millisecond || c.LeaseDuration > 30*24*time.Hour:
		return c, fmt.Errorf("pipeline: WorkerConfig.Lease is %v: must be from 100ms to 720h", c.LeaseDuration)
	case c.BatchTimeout < c.LeaseDuration:
		return c, fmt.Errorf("pipeline: WorkerConfig.Hold is %v: must be at least Lease, %v", c.BatchTimeout, c.LeaseDuration)
	case c.ShutdownTimeout < 0:
		return c, fmt.Errorf("pipeline: WorkerConfig.Grace is %v: must not be negative", c.ShutdownTimeout)
	}
	return c, nil
}

// PromoterConfig is how a [Promoter] works. The zero value is good.
type PromoterConfig struct {
	// Every is how often the promoter looks by itself, without a signal. Default [DefaultPollInterval].
	PollInterval time.Duration
	// Reconcile is how often handed-off batches are compared with the registries and the ledger though nothing seems wrong. It
	// is done at start and after every error too. Default [DefaultReconcileInterval].
	ReconcileInterval time.Duration
	// Promote bounds one promotion.
	Promote staging.PromoteOptions
	// Refresh is called after promotions, not more often than RefreshInterval, and never for two at once; the promoter goes on
	// meanwhile. A [matview.Refresher] fits in by a closure. Nil: nothing is refreshed.
	Refresh         func(ctx context.Context) error
	RefreshInterval time.Duration // default [DefaultRefreshInterval]
	// Grace is how long a promoter that was told to stop may take to finish the promotion in hand. Default [DefaultShutdownTimeout].
	ShutdownTimeout time.Duration
	Observer        Observer
	Logger          *slog.Logger // default: slog.Default()
}

func (c PromoterConfig) withDefaults() (PromoterConfig, error) {
	orDur(&c.PollInterval, DefaultPollInterval)
	orDur(&c.ReconcileInterval, DefaultReconcileInterval)
	orDur(&c.RefreshInterval, DefaultRefreshInterval)
	orDur(&c.ShutdownTimeout, DefaultShutdownTimeout)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"Every", c.PollInterval}, {"Reconcile", c.ReconcileInterval}, {"RefreshEvery", c.RefreshInterval}, {"Grace", c.ShutdownTimeout}} {
		if f.d < 0 {
			return c, fmt.Errorf("pipeline: PromoterConfig.%s is %v: must not be negative", f.name, f.d)
		}
	}
	return c, nil
}

func orInt(v *int, def int) {
	if *v == 0 {
		*v = def
	}
}

func orDur(v *time.Duration, def time.Duration) {
	if *v == 0 {
		*v = def
	}
}
