package queue

import (
	"cmp"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"
)

// Defaults of Config. A zero field takes the default named like it.
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
	MaxPayload = 512 << 20 // Redis itself takes no larger string
	MaxRecords = 100_000   // a script moves a batch in one go; more would keep Redis from everybody else
)

// Eviction says what New does with a server whose maxmemory-policy is not noeviction. Such a server
// may throw the whole queue away when its memory is full, and no client is told.
type Eviction uint8

// The choices of Config.Eviction.
const (
	EvictionWarn   Eviction = iota // log a warning
	EvictionRefuse                 // New fails with ErrEviction
	EvictionIgnore                 // say nothing
)

// Config holds the settings of producers and consumers apart. The zero Config is a good one.
type Config struct {
	Push  PushConfig
	Lease LeaseConfig

	// Eviction says what New does with a server that may evict keys.
	Eviction Eviction
	// Logger takes warnings. nil: slog.Default().
	Logger *slog.Logger
}

// PushConfig holds the settings of a producer.
type PushConfig struct {
	// MaxPayload bounds one record in bytes.
	MaxPayload int
	// Chunk and ChunkBytes bound one LPUSH, whatever the length of a Push.
	Chunk, ChunkBytes int
	// MaxDepth bounds the records that are ready, delayed or in flight. A Push that would go over it
	// is refused whole, with ErrFull, however many producers push. 0: no bound.
	MaxDepth int64
	// Durable makes Push return only when the server has the records in its append-only file on disk
	// (WAITAOF). It needs Redis 7.2 or Valkey with appendonly yes: New fails elsewhere.
	Durable bool
	// DurableTimeout bounds the wait for the disk.
	DurableTimeout time.Duration
}

// LeaseConfig holds the settings of a consumer. LeaseOptions override the first four in one call.
type LeaseConfig struct {
	// Records and Bytes bound a batch; only a record larger than Bytes goes beyond, alone. A batch
	// that is redelivered comes whole, whatever the bounds are by then.
	Records, Bytes int
	// Linger is how long Lease waits for a batch to fill up once there is a first record. 0: not at all.
	Linger time.Duration
	// For is how long the lease lasts. A worker that needs longer extends it.
	Duration time.Duration
	// MaxFailures and MaxCrashes are how often a batch may be refused by a worker (Release with a
	// Failure), or outlive its worker's lease, before it is split, and, when it holds one record, buried.
	// The two are counted apart: a crash mostly says little about the batch, but a record that kills
	// its worker costs a whole lease each time, so it is looked for sooner. With the defaults such a
	// record stands alone in the dead list after 5 levels of 3 leases: 8 minutes for a batch of 1,000.
	MaxFailures, MaxCrashes int
	// Backoff is the first delay after a failure or crash; it doubles up to MaxBackoff, less a random
	// part of up to a half.
	Backoff, MaxBackoff time.Duration
	// Look is how often a waiting consumer looks by itself at what no push wakes it for: a batch that was released or
	// brought back, a resumed queue. Expired leases and delayed records are timed exactly. (Redis wakes a blocked client only
	// for an element that is in its list when the script is over, and in the ready list that would be a record.)
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
	for _, f := range []struct {
		name     string
		v        int64
		min, max int64
		unit     string
	}{
		{"Push.MaxPayload", int64(p.MaxPayload), 1, MaxPayload, " bytes"},
		{"Push.Chunk", int64(p.Chunk), 1, 10_000, " records"},
		{"Push.ChunkBytes", int64(p.ChunkBytes), 1, MaxPayload, " bytes"},
		{"Push.MaxDepth", p.MaxDepth, 0, 1 << 40, " records"},
		{"Lease.Records", int64(l.Records), 1, MaxRecords, " records"},
		{"Lease.Bytes", int64(l.Bytes), 1, MaxPayload, " bytes"},
		{"Lease.MaxFailures", int64(l.MaxFailures), 1, 1000, ""},
		{"Lease.MaxCrashes", int64(l.MaxCrashes), 1, 1000, ""},
	} {
		if f.v < f.min || f.v > f.max {
			return fmt.Errorf("%w: Config.%s is %d: must be %d to %d%s", ErrConfig, f.name, f.v, f.min, f.max, f.unit)
		}
	}
	for _, f := range []struct {
		name     string
		v        time.Duration
		min, max time.Duration
	}{
		{"Push.DurableTimeout", p.DurableTimeout, time.Millisecond, time.Hour},
		{"Lease.Linger", l.Linger, 0, time.Hour},
		{"Lease.For", l.Duration, time.Millisecond, 30 * 24 * time.Hour},
		{"Lease.Backoff", l.Backoff, time.Millisecond, 24 * time.Hour},
		{"Lease.MaxBackoff", l.MaxBackoff, l.Backoff, 24 * time.Hour},
		{"Lease.Look", l.PollInterval, time.Millisecond, time.Minute},
	} {
		if f.v < f.min || f.v > f.max {
			return fmt.Errorf("%w: Config.%s is %v: must be %v to %v", ErrConfig, f.name, f.v, f.min, f.max)
		}
	}
	if c.Eviction > EvictionIgnore {
		return fmt.Errorf("%w: Config.Eviction is %d: must be 0 to %d", ErrConfig, c.Eviction, EvictionIgnore)
	}
	return nil
}

// checkName keeps out what would break the hash tag or a line of redis-cli.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrName)
	case len(name) > 200:
		return fmt.Errorf("%w: it has %d bytes: at most 200", ErrName, len(name))
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: %q is not UTF-8", ErrName, name)
	case strings.ContainsAny(name, "{}"):
		return fmt.Errorf("%w: %q has a brace, which would break the hash tag of its keys", ErrName, name)
	}
	for _, r := range name {
		if r <= ' ' || r == 0x7f {
			return fmt.Errorf("%w: %q has a space or control character", ErrName, name)
		}
	}
	return nil
}
