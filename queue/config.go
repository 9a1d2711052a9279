package queue

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"
)

// Defaults of Config. A zero field takes the default with its name.
const (
	DefaultMaxPayload     = 1 << 20 // bytes of one record
	DefaultChunk          = 500     // records of one LPUSH
	DefaultChunkBytes     = 1 << 20 // bytes of one LPUSH
	DefaultDurableTimeout = 5 * time.Second

	DefaultRecords       = 2000     // records of a batch
	DefaultBytes         = 16 << 20 // bytes of a batch
	DefaultLeaseDuration = 30 * time.Second
	DefaultMaxFailures   = 5
	DefaultMaxCrashes    = 3
	DefaultBackoff       = time.Second
	DefaultMaxBackoff    = time.Minute
	DefaultPollInterval  = time.Second
)

// Limits of Config.
const (
	MaxPayload    = 512 << 20 // Redis accepts no larger string
	MaxChunk      = 10_000    // records of one LPUSH
	MaxChunkBytes = 16 << 20  // bytes of one LPUSH, unless one record is larger
	// MaxRecords bounds LeaseOptions.Records. A script seals a batch in one step, so a lease returns
	// at most 10,000 records, whatever was requested: more would block the server for too long. For
	// the same reason it returns at most 16 MiB, or one record, unless it takes the whole list.
	// Without MEMORY USAGE and SORT … STORE, or with compressed lists, the limit is 2,000.
	MaxRecords = 100_000
	// MaxReason bounds the stored reason of a failure, in bytes. A longer one is truncated.
	MaxReason = 1024
	// MaxWorker bounds the LeaseOptions.Worker that a batch keeps, in bytes. A longer one is
	// truncated.
	MaxWorker = 200
)

const (
	minDuration      = time.Millisecond
	maxLeaseDuration = 30 * 24 * time.Hour
	maxLinger        = time.Hour
)

// Eviction is what New does with a server whose maxmemory-policy is not noeviction. Such a server
// may evict the whole queue when its memory is full, without any error to a client.
type Eviction uint8

// The choices of Config.Eviction.
const (
	EvictionWarn   Eviction = iota // log a warning
	EvictionRefuse                 // New returns ErrEviction
	EvictionIgnore                 // do not check
)

// Config configures a Queue. Producers and consumers have separate settings. The zero Config is
// ready to use.
type Config struct {
	Push  PushConfig
	Lease LeaseConfig

	// Eviction is what New does with a server that may evict keys.
	Eviction Eviction
	// Logger receives warnings. nil: slog.Default().
	Logger *slog.Logger
}

// PushConfig holds the settings of a producer.
type PushConfig struct {
	// MaxPayload bounds one record in bytes.
	MaxPayload int
	// Chunk and ChunkBytes bound one LPUSH; a Push sends as many as it needs.
	Chunk, ChunkBytes int
	// MaxDepth bounds the records that are ready, delayed or in flight, across all producers. A Push
	// that would exceed it fails as a whole, with ErrFull. 0: no bound.
	MaxDepth int64
	// Durable makes Push wait until the records are in the server's append-only file on disk
	// (WAITAOF). It needs Redis 7.2 or Valkey with appendonly yes and appendfsync everysec or always:
	// otherwise New returns ErrNoAOF.
	Durable bool
	// DurableTimeout bounds the wait for the disk. After it, Push returns ErrNotDurable, and the
	// records are in the queue.
	DurableTimeout time.Duration
}

// LeaseConfig holds the settings of a consumer. [LeaseOptions] override Records, Bytes, Linger,
// Idle and Duration for one call.
type LeaseConfig struct {
	// Records and Bytes bound a batch. A record larger than Bytes gets a batch of its own. A
	// redelivered batch is always whole, even if it exceeds the current bounds. A large batch may stay
	// below its bounds: see MaxRecords.
	Records, Bytes int
	// Linger is how long Lease waits for a batch to fill up once there is a first record. 0: no wait.
	Linger time.Duration
	// Idle is the pause after which Lease does not linger: a record that arrives after this Queue has
	// seen none for that long is leased at once. If Idle is as long as Linger, one process makes
	// almost no additional batches. With k processes, each of which meets only a part of the records,
	// a stream of up to k records in the time of Idle makes up to k times as many batches. 0: every
	// record lingers. Shards never linger.
	Idle time.Duration
	// Duration is how long the lease lasts. A worker that needs longer calls Extend.
	Duration time.Duration
	// MaxFailures bounds the reported failures of a batch (Release with a Failure), MaxCrashes its
	// expired leases. A batch that reaches either limit is split, or buried if it holds one record.
	// The two are counted separately. A crash usually has nothing to do with the batch, but a record
	// that kills its worker costs a whole lease each time, so it is isolated sooner. With the
	// defaults, such a record reaches the dead-letter list after 5 levels of 3 leases: 8 minutes for a
	// batch of 1,000.
	MaxFailures, MaxCrashes int
	// Backoff is the delay after the first failure or crash. It doubles with each further one, up to
	// MaxBackoff. Jitter shortens each delay by up to half.
	Backoff, MaxBackoff time.Duration
	// PollInterval is how often a waiting consumer polls for work that triggers no wake-up: a released
	// batch, a resumed queue, a lease or a delayed push that began while the consumer waited.
	// Consumers wake exactly when any other lease expires or delayed record is due; those of Shards up
	// to PollInterval later.
	// (Redis wakes a blocked client only for an element that stays in the list; in the ready list that
	// would be a record.)
	PollInterval time.Duration
}

func (c *Config) withDefaults() error {
	p, l := &c.Push, &c.Lease
	p.MaxPayload = cmp.Or(p.MaxPayload, DefaultMaxPayload)
	p.Chunk = cmp.Or(p.Chunk, DefaultChunk)
	p.ChunkBytes = cmp.Or(p.ChunkBytes, DefaultChunkBytes)
	p.DurableTimeout = cmp.Or(p.DurableTimeout, DefaultDurableTimeout)
	l.Records = cmp.Or(l.Records, DefaultRecords)
	l.Bytes = cmp.Or(l.Bytes, DefaultBytes)
	l.Duration = cmp.Or(l.Duration, DefaultLeaseDuration)
	l.MaxFailures = cmp.Or(l.MaxFailures, DefaultMaxFailures)
	l.MaxCrashes = cmp.Or(l.MaxCrashes, DefaultMaxCrashes)
	l.Backoff = cmp.Or(l.Backoff, DefaultBackoff)
	l.MaxBackoff = cmp.Or(l.MaxBackoff, max(DefaultMaxBackoff, l.Backoff))
	l.PollInterval = cmp.Or(l.PollInterval, DefaultPollInterval)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	for _, err := range []error{
		within("Config.Push.MaxPayload", p.MaxPayload, 1, MaxPayload),
		within("Config.Push.Chunk", p.Chunk, 1, MaxChunk),
		within("Config.Push.ChunkBytes", p.ChunkBytes, 1, MaxChunkBytes),
		within("Config.Push.MaxDepth", p.MaxDepth, 0, 1<<40),
		within("Config.Push.DurableTimeout", p.DurableTimeout, minDuration, time.Hour),
		within("Config.Lease.Records", l.Records, 1, MaxRecords),
		within("Config.Lease.Bytes", l.Bytes, 1, MaxPayload),
		within("Config.Lease.Linger", l.Linger, 0, maxLinger),
		within("Config.Lease.Idle", l.Idle, 0, maxLinger),
		within("Config.Lease.Duration", l.Duration, minDuration, maxLeaseDuration),
		within("Config.Lease.MaxFailures", l.MaxFailures, 1, 1000),
		within("Config.Lease.MaxCrashes", l.MaxCrashes, 1, 1000),
		within("Config.Lease.Backoff", l.Backoff, minDuration, 24*time.Hour),
		within("Config.Lease.MaxBackoff", l.MaxBackoff, l.Backoff, 24*time.Hour),
		within("Config.Lease.PollInterval", l.PollInterval, minDuration, time.Minute),
		within("Config.Eviction", c.Eviction, EvictionWarn, EvictionIgnore),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// within returns ErrConfig unless the field's value is in its range.
func within[T cmp.Ordered](field string, value, least, most T) error {
	if value < least || value > most {
		return fmt.Errorf("%w: %s is %v, must be %v to %v", ErrConfig, field, value, least, most)
	}
	return nil
}
