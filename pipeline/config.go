package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"time"

	"github.com/headrace/headrace/internal/redisx"
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
	DefaultCallTimeout       = 8 * time.Second
	DefaultShutdownTimeout   = 10 * time.Second
	DefaultPollInterval      = time.Second
	DefaultReconcileInterval = 30 * time.Second
	DefaultRefreshInterval   = 5 * time.Second
)

// WorkerConfig configures a [Worker]. The zero value takes the defaults.
type WorkerConfig struct {
	// Name is stored in the ledger with each batch. Default: host name and process id.
	Name string
	// Concurrency is how many batches the worker holds at once: while one waits for Postgres, the
	// next is transformed. Default [DefaultConcurrency], at most 1024.
	Concurrency int
	// Records and Bytes bound a batch. Linger is how long a batch may take to fill up. The first
	// record after a pause of that length does not wait for others. Defaults [DefaultRecords],
	// [DefaultBytes] and [DefaultLinger].
	Records int
	Bytes   int
	Linger  time.Duration
	// MaxRecords and MaxBytes bound all batches that the worker holds together: it leases the next
	// batch only when the largest possible one fits. Defaults: Concurrency times Records and Bytes.
	MaxRecords int
	MaxBytes   int
	// LeaseDuration is how long a batch stays with a worker that has stopped extending its lease. A
	// healthy worker extends its leases. Default [DefaultLeaseDuration], at least 100 ms.
	LeaseDuration time.Duration
	// BatchTimeout bounds the chain for one batch, and one attempt to stage it. A transform that
	// exceeds it loses its batch, which counts as a crash. It does not bound the wait for Postgres.
	// Default [DefaultBatchTimeout], or LeaseDuration if that is longer.
	BatchTimeout time.Duration
	// CallTimeout is how long one call to a store may take. If the store has not answered by then,
	// although TCP keeps the connection alive, the call is retried on another connection. For a store
	// that is only slow, the limit doubles after each call that was cut off. Default
	// [DefaultCallTimeout].
	CallTimeout time.Duration
	// ShutdownTimeout is how long a worker may take to finish its batches after its context has ended.
	// Default [DefaultShutdownTimeout].
	ShutdownTimeout time.Duration
	// Observer receives an event for every step. Nil: none.
	Observer Observer
	// Logger receives errors that the worker retries. Nil: slog.Default().
	Logger *slog.Logger
}

func (c WorkerConfig) withDefaults() (WorkerConfig, error) {
	c.Name = cmp.Or(c.Name, programName())
	c.Concurrency = cmp.Or(c.Concurrency, DefaultConcurrency)
	c.Records = cmp.Or(c.Records, DefaultRecords)
	c.Bytes = cmp.Or(c.Bytes, DefaultBytes)
	c.Linger = cmp.Or(c.Linger, DefaultLinger)
	c.MaxRecords = cmp.Or(c.MaxRecords, c.Concurrency*c.Records)
	c.MaxBytes = cmp.Or(c.MaxBytes, c.Concurrency*c.Bytes)
	c.LeaseDuration = cmp.Or(c.LeaseDuration, DefaultLeaseDuration)
	c.BatchTimeout = cmp.Or(c.BatchTimeout, max(DefaultBatchTimeout, c.LeaseDuration))
	c.CallTimeout = cmp.Or(c.CallTimeout, DefaultCallTimeout)
	c.ShutdownTimeout = cmp.Or(c.ShutdownTimeout, DefaultShutdownTimeout)
	c.Observer, c.Logger = sinks(c.Observer, c.Logger)
	for _, f := range []intField{
		{"WorkerConfig.Concurrency", c.Concurrency, 1, 1024},
		{"WorkerConfig.Records", c.Records, 1, 100_000},
		{"WorkerConfig.Bytes", c.Bytes, 1, 512 << 20},
		{"WorkerConfig.MaxRecords", c.MaxRecords, c.Records, math.MaxInt},
		{"WorkerConfig.MaxBytes", c.MaxBytes, c.Bytes, math.MaxInt},
	} {
		if err := f.validate(); err != nil {
			return c, err
		}
	}
	for _, f := range []durationField{
		{"WorkerConfig.Linger", c.Linger, 0, time.Hour},
		{"WorkerConfig.LeaseDuration", c.LeaseDuration, 100 * time.Millisecond, 30 * 24 * time.Hour},
		{"WorkerConfig.BatchTimeout", c.BatchTimeout, c.LeaseDuration, maxDuration},
		{"WorkerConfig.CallTimeout", c.CallTimeout, 10 * time.Millisecond, mostCallTimeout},
		{"WorkerConfig.ShutdownTimeout", c.ShutdownTimeout, 0, maxDuration},
	} {
		if err := f.validate(); err != nil {
			return c, err
		}
	}
	return c, nil
}

// PromoterConfig configures a [Promoter]. The zero value takes the defaults.
type PromoterConfig struct {
	// Name identifies the promoter in events and in reports of a stall. Default: host name and process
	// id.
	Name string
	// PollInterval is how often the promoter polls for staged batches without a signal. Default
	// [DefaultPollInterval].
	PollInterval time.Duration
	// ReconcileInterval is how often the promoter compares handed-off batches with the registries and
	// the ledger, even without an error. It also does so at start and after every error. Default
	// [DefaultReconcileInterval].
	ReconcileInterval time.Duration
	// Promote bounds one promotion. With its Timeout 0, a promotion has one and a half times
	// CallTimeout, and twice as long after each one that exceeds its time. With its Lane set, the
	// promoter promotes that lane only.
	Promote staging.PromoteOptions
	// Refresh is called after promotions, at most once per RefreshInterval, and once more on shutdown
	// if rows were promoted since. Calls never overlap, and promotions continue during a call. A
	// typical function calls Refresh of a matview.Refresher for a small view. Nil: nothing is
	// refreshed.
	Refresh func(ctx context.Context) error
	// RefreshInterval is the least time between two calls of Refresh. Default
	// [DefaultRefreshInterval].
	RefreshInterval time.Duration
	// Notify is called when Run begins and after each promotion, between promotions. It must return at
	// once. A typical function is the method Notify of a matview.Refresher whose method Run runs in
	// the same program: views are then refreshed in the pauses of the load, and not again and again
	// during it. Nil: no call.
	Notify func()
	// CallTimeout is how long one call to a store may take. If the store has not answered by then,
	// although TCP keeps the connection alive, the call is retried on another connection. For a store
	// that is only slow, the limit doubles after each call that was cut off. Default
	// [DefaultCallTimeout].
	CallTimeout time.Duration
	// Retention is how long the ledger and resolved rejects are kept. The promoter deletes older
	// entries, at most once an hour, and never any that are younger than the oldest record in flight
	// in its own queue, plus an hour. So set it only if no other queue feeds the table: a batch of
	// another queue that is older than the pruned part would be rejected. From the first start on, the
	// books of the two stores are not compared any more: see Books.Quiet. The table must have a method
	// Prune, as *staging.Table does. Zero: everything is kept.
	Retention time.Duration
	// ShutdownTimeout is how long a promoter may take to finish the current promotion, and a due
	// refresh, after its context has ended. Default [DefaultShutdownTimeout].
	ShutdownTimeout time.Duration
	// Observer receives an event for every step. Nil: none.
	Observer Observer
	// Logger receives errors that the promoter retries. Nil: slog.Default().
	Logger *slog.Logger
}

func (c PromoterConfig) withDefaults() (PromoterConfig, error) {
	c.Name = cmp.Or(c.Name, programName())
	c.PollInterval = cmp.Or(c.PollInterval, DefaultPollInterval)
	c.ReconcileInterval = cmp.Or(c.ReconcileInterval, DefaultReconcileInterval)
	c.RefreshInterval = cmp.Or(c.RefreshInterval, DefaultRefreshInterval)
	c.CallTimeout = cmp.Or(c.CallTimeout, DefaultCallTimeout)
	c.ShutdownTimeout = cmp.Or(c.ShutdownTimeout, DefaultShutdownTimeout)
	c.Observer, c.Logger = sinks(c.Observer, c.Logger)
	for _, f := range []durationField{
		{"PromoterConfig.PollInterval", c.PollInterval, time.Millisecond, maxDuration},
		{"PromoterConfig.ReconcileInterval", c.ReconcileInterval, time.Millisecond, maxDuration},
		{"PromoterConfig.RefreshInterval", c.RefreshInterval, time.Millisecond, maxDuration},
		{"PromoterConfig.CallTimeout", c.CallTimeout, 10 * time.Millisecond, mostCallTimeout},
		{"PromoterConfig.ShutdownTimeout", c.ShutdownTimeout, 0, maxDuration},
		{"PromoterConfig.Retention", cmp.Or(c.Retention, minRetention), minRetention, 100 * maxDuration},
		{"PromoterConfig.Promote.Timeout", c.Promote.Timeout, 0, maxDuration},
	} {
		if err := f.validate(); err != nil {
			return c, err
		}
	}
	if err := (intField{"PromoterConfig.Promote.MaxRows", c.Promote.MaxRows, 0, 1 << 30}).validate(); err != nil {
		return c, err
	}
	return c, nil
}

func programName() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}

// sinks replaces a nil observer or logger, also a nil pointer in the interface.
func sinks(o Observer, l *slog.Logger) (Observer, *slog.Logger) {
	if redisx.IsNil(o) {
		o = nil
	}
	if l == nil {
		l = slog.Default()
	}
	return o, l
}

const maxDuration = 366 * 24 * time.Hour

type intField struct {
	name               string
	value, least, most int
}

func (f intField) validate() error {
	if f.value < f.least || f.value > f.most {
		return fmt.Errorf("%w: %s is %d, must be %d to %d", ErrConfig, f.name, f.value, f.least, f.most)
	}
	return nil
}

type durationField struct {
	name               string
	value, least, most time.Duration
}

func (f durationField) validate() error {
	if f.value < f.least || f.value > f.most {
		return fmt.Errorf("%w: %s is %v, must be %v to %v", ErrConfig, f.name, f.value, f.least, f.most)
	}
	return nil
}
