package window

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// The defaults of [Config].
const (
	DefaultLateness      = 5 * time.Second
	DefaultIdle          = time.Minute
	DefaultMaxAhead      = 5 * time.Minute
	DefaultRetention     = 7 * 24 * time.Hour
	DefaultLeaseDuration = time.Minute
	DefaultPollInterval  = 500 * time.Millisecond
)

// Config configures [Windows]. At least one of Size and Keep is set; all programs of one name use the same values.
type Config struct {
	// Size of the tumbling windows, which begin at multiples of it since 1970 in UTC. 0: none.
	Size time.Duration
	// Keep is how far back the sliding window reaches. 0: none.
	Keep time.Duration

	// Lateness is how far an event may be behind the newest of its key and still be in time: the watermark of a key is its newest event
	// minus Lateness, and closes the windows that it passes. Default [DefaultLateness]; negative means none.
	Lateness time.Duration
	// Idle closes all windows of a key for which nothing came for so long, by the server's clock. Default [DefaultIdle].
	Idle time.Duration
	// MaxAhead is how far an event may be ahead of the server's clock. One wrong clock could otherwise close every
	// window. Default [DefaultMaxAhead].
	MaxAhead time.Duration
	// Retention is how long anything stays that nobody touches: windows that no closer comes for, late events, what a key
	// remembers of its watermark. Default [DefaultRetention].
	Retention time.Duration
	// Lease is how long a closer has a window to itself. Default [DefaultLeaseDuration].
	LeaseDuration time.Duration
	// Poll is how often [Store.Run] looks for windows that are due. Default [DefaultPollInterval].
	PollInterval time.Duration
	// OnError hears of errors that [Store.Run] goes on after. nil: nobody does.
	OnError func(error)
}

func (c Config) withDefaults() Config {
	c.Lateness = max(0, cmp.Or(c.Lateness, DefaultLateness))
	c.Idle = cmp.Or(c.Idle, DefaultIdle)
	c.MaxAhead = cmp.Or(c.MaxAhead, DefaultMaxAhead)
	c.Retention = cmp.Or(c.Retention, DefaultRetention)
	c.LeaseDuration = cmp.Or(c.LeaseDuration, DefaultLeaseDuration)
	c.PollInterval = cmp.Or(c.PollInterval, DefaultPollInterval)
	if c.OnError == nil {
		c.OnError = func(error) {}
	}
	return c
}

func (c Config) validate(name string) error {
	if name == "" || len(name) > 200 || strings.ContainsAny(name, "{}") {
		return fmt.Errorf("window: name is %q: must be 1 to 200 bytes without braces", name)
	}
	if c.Size == 0 && c.Keep == 0 {
		return fmt.Errorf("window: Config.Size and Config.Keep are 0: must set at least one")
	}
	const year = 366 * 24 * time.Hour
	for _, d := range []struct {
		field      string
		value, min time.Duration
	}{
		{"Size", c.Size, 0}, {"Keep", c.Keep, 0}, {"Lateness", c.Lateness, 0}, {"Idle", c.Idle, time.Millisecond}, {"MaxAhead", c.MaxAhead, time.Millisecond},
		{"Retention", c.Retention, time.Millisecond}, {"Lease", c.LeaseDuration, time.Millisecond}, {"Poll", c.PollInterval, time.Millisecond},
	} {
		if d.value < d.min || d.value > year {
			return fmt.Errorf("window: Config.%s is %v: must be %v to %v", d.field, d.value, d.min, year)
		}
		if d.value%time.Millisecond != 0 {
			return fmt.Errorf("window: Config.%s is %v: must be whole milliseconds", d.field, d.value)
		}
	}
	if least := c.Size + c.Lateness + c.Idle + c.LeaseDuration; c.Retention < least {
		return fmt.Errorf("window: Config.Retention is %v: must be at least Size + Lateness + Idle + Lease, %v", c.Retention, least)
	}
	return nil
}
