package window

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/headrace/headrace/internal/redisx"
)

// The defaults of [Config].
const (
	DefaultLateness      = 5 * time.Second
	DefaultIdle          = time.Minute
	DefaultMaxAhead      = 5 * time.Minute
	DefaultRetention     = 7 * 24 * time.Hour
	DefaultLeaseDuration = time.Minute
	DefaultMaxFailures   = 8
	DefaultBackoff       = time.Second
	DefaultMaxBackoff    = 5 * time.Minute
	DefaultPollInterval  = 500 * time.Millisecond
)

// Eviction is what [New] does about a server whose maxmemory-policy is not noeviction.
type Eviction uint8

const (
	// EvictionWarn logs a warning.
	EvictionWarn Eviction = iota
	// EvictionRefuse returns [ErrEviction].
	EvictionRefuse
	// EvictionIgnore does not check the policy.
	EvictionIgnore
)

// Config configures a [Store]. At least one of Size and Keep must be set. All programs that share a
// name must use the same values. While a change reaches one program after the other, [New] logs the
// fields that differ, and each call follows the values of its own program. Size is one for all.
type Config struct {
	// Size is the size of the tumbling windows. They begin at multiples of Size since 1970 in UTC. 0:
	// there are none.
	//
	// A new size takes effect when a program with that size starts, for running programs too. Open
	// windows keep their size, and close as they would have. For each key the new size applies from
	// the end of its last window.
	Size time.Duration
	// Keep is how far back the sliding window reaches, by the server's clock. 0: there is none.
	Keep time.Duration

	// Lateness is how far an event may be behind the newest event of its key and still be in time.
	// The watermark of a key is its newest event minus Lateness. It closes the windows that it
	// passes. It never goes back: what it has passed stays closed when Lateness grows. Default
	// [DefaultLateness]; negative: none.
	Lateness time.Duration
	// Idle closes the windows of a key that has received no event for this long, by the server's
	// clock. A window whose end is still ahead of that clock stays open until then. Default
	// [DefaultIdle].
	Idle time.Duration
	// MaxAhead is how far an event may be ahead of the server's clock. Without this bound, one wrong
	// clock could close every window. Default [DefaultMaxAhead].
	MaxAhead time.Duration
	// Retention is how long untouched data stays: windows that no closer takes, dead windows and late
	// events. The watermark of a key stays twice as long. Default [DefaultRetention].
	Retention time.Duration
	// Remember is how long the events of a window stay after [Store.Done], so that a retried Add
	// counts them as repeated and not as late. They take as much memory as before: some 120 bytes an
	// event in addition to its data, and 60 to 200 in windows of few events. So 1,000 events of 100
	// bytes a second take 19 GB a day. Set it to the time in which producers retry. Default Retention;
	// negative: they are deleted at once.
	Remember time.Duration

	// LeaseDuration is how long a closer holds a window. Default [DefaultLeaseDuration].
	LeaseDuration time.Duration
	// MaxFailures is how often a window may fail before it moves to the dead-letter list. It fails
	// when its handler returns an error or the lease of its closer expires. Default
	// [DefaultMaxFailures].
	MaxFailures int
	// Backoff is the delay after the first failure. It doubles with each further one, up to
	// MaxBackoff. The first expired lease costs no delay beyond the lease. Defaults
	// [DefaultBackoff] and [DefaultMaxBackoff].
	Backoff, MaxBackoff time.Duration
	// PollInterval is how often [Store.Run] polls for windows that are due. Default
	// [DefaultPollInterval].
	PollInterval time.Duration

	// Eviction is what New does with a server that may evict keys. Default: log a warning.
	Eviction Eviction
	// Logger receives the errors that [Store.Run] retries, each failure of a handler, and windows that
	// expired. An outage has a line when it begins, now and then, and when it ends. nil:
	// slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Lateness = max(0, cmp.Or(c.Lateness, DefaultLateness))
	c.Idle = cmp.Or(c.Idle, DefaultIdle)
	c.MaxAhead = cmp.Or(c.MaxAhead, DefaultMaxAhead)
	c.Retention = cmp.Or(c.Retention, DefaultRetention)
	c.Remember = max(0, cmp.Or(c.Remember, c.Retention))
	c.LeaseDuration = cmp.Or(c.LeaseDuration, DefaultLeaseDuration)
	c.MaxFailures = cmp.Or(c.MaxFailures, DefaultMaxFailures)
	c.Backoff = cmp.Or(c.Backoff, DefaultBackoff)
	c.MaxBackoff = cmp.Or(c.MaxBackoff, max(DefaultMaxBackoff, c.Backoff))
	c.PollInterval = cmp.Or(c.PollInterval, DefaultPollInterval)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// record returns what all programs should have in common.
func (c Config) record() redisx.Record {
	return redisx.NewRecord(
		redisx.Field{Name: "Size", Value: c.Size}, redisx.Field{Name: "Lateness", Value: c.Lateness}, redisx.Field{Name: "Idle", Value: c.Idle},
		redisx.Field{Name: "MaxAhead", Value: c.MaxAhead}, redisx.Field{Name: "Retention", Value: c.Retention},
		redisx.Field{Name: "Remember", Value: c.Remember}, redisx.Field{Name: "MaxFailures", Value: c.MaxFailures},
	)
}

// longest is the longest duration of a Config.
const longest = 366 * 24 * time.Hour

func (c Config) validate(name string) error {
	if err := redisx.CheckName(name); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if c.Size == 0 && c.Keep == 0 {
		return fmt.Errorf("%w: Config.Size and Config.Keep are 0: must set at least one", ErrConfig)
	}
	for _, d := range []struct {
		field      string
		value, min time.Duration
	}{
		{"Size", c.Size, 0}, {"Keep", c.Keep, 0}, {"Lateness", c.Lateness, 0}, {"Idle", c.Idle, time.Millisecond},
		{"MaxAhead", c.MaxAhead, time.Millisecond}, {"Retention", c.Retention, time.Millisecond},
		{"LeaseDuration", c.LeaseDuration, time.Millisecond}, {"Backoff", c.Backoff, time.Millisecond},
		{"MaxBackoff", c.MaxBackoff, time.Millisecond}, {"PollInterval", c.PollInterval, time.Millisecond},
	} {
		if d.value < d.min || d.value > longest {
			return fmt.Errorf("%w: Config.%s is %v, must be %v to %v", ErrConfig, d.field, d.value, d.min, longest)
		}
		if d.value%time.Millisecond != 0 {
			return fmt.Errorf("%w: Config.%s is %v, must be whole milliseconds", ErrConfig, d.field, d.value)
		}
	}
	if c.Remember > c.Retention {
		return fmt.Errorf("%w: Config.Remember is %v, must be at most Config.Retention, %v", ErrConfig, c.Remember, c.Retention)
	}
	if c.MaxFailures < 1 || c.MaxFailures > 1000 {
		return fmt.Errorf("%w: Config.MaxFailures is %d, must be 1 to 1000", ErrConfig, c.MaxFailures)
	}
	if c.MaxBackoff < c.Backoff {
		return fmt.Errorf("%w: Config.MaxBackoff is %v, must be at least Config.Backoff, %v", ErrConfig, c.MaxBackoff, c.Backoff)
	}
	if c.Eviction > EvictionIgnore {
		return fmt.Errorf("%w: Config.Eviction is %d, must be 0 to %d", ErrConfig, c.Eviction, EvictionIgnore)
	}
	if least := c.Size + c.Lateness + c.Idle + c.LeaseDuration; c.Retention < least {
		return fmt.Errorf("%w: Config.Retention is %v, must be at least Size + Lateness + Idle + LeaseDuration, %v", ErrConfig, c.Retention, least)
	}
	return nil
}
