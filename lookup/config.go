package lookup

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/headrace/headrace/internal/redisx"
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
	MaxName = redisx.MaxName
)

// Loader reads the whole table from its source. It calls put for each entry, and returns the first
// error of put or of the source. put rejects a key that it already has ([ErrDuplicateKey]) and a
// value that it cannot encode. An error of put fails the refresh, even if the Loader ignores it.
// Several goroutines may call put until the Loader returns.
type Loader[K comparable, V any] func(ctx context.Context, put func(K, V) error) error

// Stale is what a table does when it has been unable to check its version for longer than MaxAge.
type Stale uint8

const (
	// StaleServe keeps serving the snapshot.
	StaleServe Stale = iota
	// StaleFail makes Snapshot and GetMany return [ErrStale].
	StaleFail
)

// Config configures a [Table]. All its fields are optional. Without Load, this process only reads
// the table.
type Config[K comparable, V any] struct {
	// Load reads the table from its source; see [FromQuery] and [FromMap].
	Load Loader[K, V]
	// MaxAge bounds how late a new version arrives if every signal is lost: Run polls Redis twice in
	// that time. Stale applies when the last answer of Redis is older than MaxAge. Default 10 s.
	MaxAge time.Duration
	// Stale is what to do when Redis has not answered for longer than MaxAge. Default StaleServe.
	Stale Stale
	// RefreshInterval is the age at which Run refreshes the table from its source. Only one of the
	// processes that run the table does the work. 0: never; call Refresh.
	RefreshInterval time.Duration
	// AllowEmpty lets a refresh replace the table with an empty one.
	AllowEmpty bool
	// Keep is how long an old version stays in Redis after its successor becomes current, for
	// processes that are still reading it. Default 1 minute.
	Keep time.Duration
	// Chunk is the number of entries in one hash in Redis, and in one read or write command. Default
	// 1,000.
	Chunk int
	// Keys and Values turn keys and values into bytes and back. Default: keys of a string or integer
	// kind as text, others as JSON; values as JSON. JSON cannot hold a text that is not valid UTF-8:
	// an entry with one is [ErrEncode].
	Keys   Codec[K]
	Values Codec[V]
	// Logger receives the errors that Run retries: the first of a series, and the recovery. Default
	// slog.Default().
	Logger *slog.Logger
}

// RemoteConfig configures a [Remote]. All its fields are optional.
type RemoteConfig[K comparable, V any] struct {
	// Fetch reads keys from the source and returns those that exist. Without it, a key that is not in
	// Redis is missing. Both the slice and the map are Fetch's own. See [FetchQuery].
	Fetch func(ctx context.Context, keys []K) (map[K]V, error)
	// TTL is how long an entry stays in Redis (default 1 hour). NegativeTTL is how long a key that the
	// source lacks is remembered as missing (default 1 minute). They bound how late a change of the
	// source becomes visible.
	TTL, NegativeTTL time.Duration
	// LocalTTL is how long this process may serve an entry from its own memory. With client-side
	// caching, a change in Redis invalidates the entry when the server's message arrives, some tenths
	// of a millisecond later. The ClientTrackingOptions of the client may prevent that: with NOLOOP,
	// or with BCAST and a prefix that is not the table's, the server sends no message, and an entry
	// may be old until LocalTTL. Default 1 minute.
	LocalTTL time.Duration
	// Chunk is the number of keys that one call of Fetch gets. Default 1,000.
	Chunk int
	// Keys and Values are as in [Config]. An entry that cannot be encoded is returned and not stored;
	// Logger receives the error. A key that Keys cannot encode is not in Redis.
	Keys   Codec[K]
	Values Codec[V]
	// Logger receives the errors of writes to Redis, which do not fail a look-up: the first of a
	// series, and the recovery. Default slog.Default().
	Logger *slog.Logger
}

// configErr returns an ErrConfig that names a field, its value and the allowed range.
func configErr(field string, value any, allowed string, args ...any) error {
	return fmt.Errorf("%w: %s is %v, must be %s", ErrConfig, field, value, fmt.Sprintf(allowed, args...))
}

func (c Config[K, V]) withDefaults(name string) (Config[K, V], error) {
	c.MaxAge = cmp.Or(c.MaxAge, DefaultMaxAge)
	c.Keep = cmp.Or(c.Keep, DefaultKeep)
	c.Chunk = cmp.Or(c.Chunk, DefaultChunk)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	var err error
	if c.Keys, err = keyCodec(c.Keys); err != nil {
		return c, err
	}
	c.Values = valueCodec(c.Values)
	switch {
	case c.MaxAge < MinMaxAge:
		return c, configErr("Config.MaxAge", c.MaxAge, "at least %v", MinMaxAge)
	case c.RefreshInterval < 0:
		return c, configErr("Config.RefreshInterval", c.RefreshInterval, "0 or more")
	case c.RefreshInterval > 0 && c.Load == nil:
		return c, configErr("Config.RefreshInterval", c.RefreshInterval, "0 without Config.Load")
	case c.Keep < time.Millisecond:
		return c, configErr("Config.Keep", c.Keep, "at least 1ms")
	case c.Chunk < 1 || c.Chunk > MaxChunk:
		return c, configErr("Config.Chunk", c.Chunk, "1 to %d", MaxChunk)
	case c.Stale > StaleFail:
		return c, configErr("Config.Stale", c.Stale, "StaleServe or StaleFail")
	}
	return c, checkName(name)
}

func (c RemoteConfig[K, V]) withDefaults(name string) (RemoteConfig[K, V], error) {
	c.TTL = cmp.Or(c.TTL, DefaultTTL)
	c.NegativeTTL = cmp.Or(c.NegativeTTL, DefaultNegativeTTL)
	c.LocalTTL = cmp.Or(c.LocalTTL, DefaultLocalTTL)
	c.Chunk = cmp.Or(c.Chunk, DefaultChunk)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	var err error
	if c.Keys, err = keyCodec(c.Keys); err != nil {
		return c, err
	}
	c.Values = valueCodec(c.Values)
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"TTL", c.TTL}, {"NegativeTTL", c.NegativeTTL}, {"LocalTTL", c.LocalTTL}} {
		if d.d < time.Millisecond {
			return c, configErr("RemoteConfig."+d.name, d.d, "at least 1ms")
		}
	}
	if c.Chunk < 1 || c.Chunk > MaxChunk {
		return c, configErr("RemoteConfig.Chunk", c.Chunk, "1 to %d", MaxChunk)
	}
	return c, checkName(name)
}

func checkName(name string) error {
	if err := redisx.CheckName(name); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return nil
}
