package lookup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Defaults and limits of [Config] and [RemoteConfig].
const (
	DefaultMaxAge      = 10 * time.Second
	DefaultKeep        = time.Minute
	DefaultChunk       = 1000
	DefaultTTL         = time.Hour
	DefaultNegativeTTL = time.Minute
	DefaultLocalTTL    = time.Minute

	MinMaxAge = 20 * time.Millisecond
	MaxChunk  = 10_000
	// MaxName is the length of the longest name of a table, in bytes.
	MaxName = 200
)

// Loader reads the whole table from its source: it calls put for each entry and returns the first error that put or
// the source gives. put refuses a key that it has had already ([ErrDuplicateKey]) and a value that cannot be encoded.
type Loader[K comparable, V any] func(ctx context.Context, put func(K, V) error) error

// Stale says what a table does when it could not check its version for longer than MaxAge.
type Stale uint8

const (
	// Serve goes on with the snapshot it has.
	StaleServe Stale = iota
	// Fail makes Snapshot and GetMany return [ErrStale].
	StaleFail
)

// Config sets up a [Table]. All its fields are optional; without Load, this process only reads the table.
type Config[K comparable, V any] struct {
	// Load reads the table from its source; see [FromQuery] and [FromMap].
	Load Loader[K, V]
	// MaxAge bounds how late a new version arrives when every signal is lost: Run asks Redis twice in that time. And it
	// is the age of the last answer from which on Stale applies. Default 10 s.
	MaxAge time.Duration
	// Stale says what to do when Redis could not be asked for longer than MaxAge: Serve (the default) or Fail.
	Stale Stale
	// Every makes Run refresh the table from its source when its version is that old. However many processes Run, one
	// of them does it. 0 means never: call Refresh.
	RefreshInterval time.Duration
	// AllowEmpty lets a refresh replace the table by an empty one.
	AllowEmpty bool
	// Keep is how long a version outlives its successor, for processes that are still reading it. Default 1 minute.
	Keep time.Duration
	// Chunk is how many entries one write or read command carries. Default 1,000.
	Chunk int
	// Keys and Values turn keys and values into bytes and back. Default: keys of a string or integer kind as text,
	// others as JSON; values as JSON.
	Keys   Codec[K]
	Values Codec[V]
	// OnError is told of errors that Run retries, and of nothing else. It must not block.
	OnError func(error)
}

// RemoteConfig sets up a [Remote]. All its fields are optional.
type RemoteConfig[K comparable, V any] struct {
	// Fetch reads keys from the source and returns those that exist. Without it, what is not in Redis is missing.
	// See [FetchQuery].
	Fetch func(ctx context.Context, keys []K) (map[K]V, error)
	// TTL is how long an entry stays in Redis (default 1 hour), NegativeTTL how long a key that the source does not have
	// stays known as missing (default 1 minute): the bounds on how late a change of the source is seen.
	TTL, NegativeTTL time.Duration
	// Local is how long this process may answer from its own memory without asking Redis. A change in Redis ends it
	// at once, where the client has client-side caching. Default 1 minute.
	LocalTTL time.Duration
	// Chunk is how many keys one Fetch is asked for. Default 1,000.
	Chunk int
	// Keys and Values are as in [Config].
	Keys   Codec[K]
	Values Codec[V]
}

func (c Config[K, V]) withDefaults(name string) (Config[K, V], error) {
	c.MaxAge = cmp.Or(c.MaxAge, DefaultMaxAge)
	c.Keep = cmp.Or(c.Keep, DefaultKeep)
	c.Chunk = cmp.Or(c.Chunk, DefaultChunk)
	var err error
	if c.Keys, err = keyCodec(c.Keys); err != nil {
		return c, err
	}
	c.Values = valueCodec(c.Values)
	switch {
	case c.MaxAge < MinMaxAge:
		return c, fmt.Errorf("lookup: Config.MaxAge is %v: must be at least %v", c.MaxAge, MinMaxAge)
	case c.RefreshInterval < 0:
		return c, fmt.Errorf("lookup: Config.Every is %v: must not be negative", c.RefreshInterval)
	case c.RefreshInterval > 0 && c.Load == nil:
		return c, errors.New("lookup: Config.Every is set but Config.Load is not")
	case c.Keep < time.Millisecond:
		return c, fmt.Errorf("lookup: Config.Keep is %v: must be at least 1ms", c.Keep)
	case c.Chunk < 1 || c.Chunk > MaxChunk:
		return c, fmt.Errorf("lookup: Config.Chunk is %d: must be 1 to %d", c.Chunk, MaxChunk)
	case c.Stale > StaleFail:
		return c, fmt.Errorf("lookup: Config.Stale is %d: must be Serve or Fail", c.Stale)
	}
	return c, checkName(name)
}

func (c RemoteConfig[K, V]) withDefaults(name string) (RemoteConfig[K, V], error) {
	c.TTL = cmp.Or(c.TTL, DefaultTTL)
	c.NegativeTTL = cmp.Or(c.NegativeTTL, DefaultNegativeTTL)
	c.LocalTTL = cmp.Or(c.LocalTTL, DefaultLocalTTL)
	c.Chunk = cmp.Or(c.Chunk, DefaultChunk)
	var err error
	if c.Keys, err = keyCodec(c.Keys); err != nil {
		return c, err
	}
	c.Values = valueCodec(c.Values)
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"TTL", c.TTL}, {"Negative", c.NegativeTTL}, {"Local", c.LocalTTL}} {
		if d.d < time.Millisecond {
			return c, fmt.Errorf("lookup: RemoteConfig.%s is %v: must be at least 1ms", d.name, d.d)
		}
	}
	if c.Chunk < 1 || c.Chunk > MaxChunk {
		return c, fmt.Errorf("lookup: RemoteConfig.Chunk is %d: must be 1 to %d", c.Chunk, MaxChunk)
	}
	return c, checkName(name)
}

func checkName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("lookup: name has %d bytes: must be 1 to %d", len(name), MaxName)
	}
	if strings.ContainsAny(name, "{}") {
		return fmt.Errorf("lookup: name %q has a brace: braces mark the hash slot of a cluster", name)
	}
	return nil
}
