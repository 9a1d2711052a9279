package backpressure

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"
)

// The defaults of [Config].
const (
	DefaultHigh           = 1_000_000
	DefaultReservationTTL = 30 * time.Second
	DefaultPollInterval   = 5 * time.Second
	DefaultLagInterval    = time.Second
)

// Source is a number in Redis that says how much is waiting: the length of a list, or a field of a hash that is moved in the
// same script as what it counts. Exactly one of List and Hash is set. The key wears the gate's hash tag: "{name}:ready".
type Source struct {
	List        string
	Hash, Field string
	// Minus subtracts the number: taken minus acked is what is in flight.
	Minus bool
}

// Config configures a [Gate]. At least one of Records, Bytes and a lag is set.
type Config struct {
	// Records are added up to the depth in records.
	Records []Source
	// High closes the gate and is never exceeded, Low opens it again. Defaults [DefaultHigh] and half of High.
	High, Low int64

	// Bytes are added up to the depth in bytes; the watermarks as above. HighBytes has no default.
	Bytes               []Source
	HighBytes, LowBytes int64

	// LagKey is a sorted set whose lowest score is the time of the oldest record that waits, in Unix milliseconds.
	LagKey string
	// Lag says how long the oldest record waits, from anywhere. It is asked at most every LagInterval (default [DefaultLagInterval]).
	Lag         func(ctx context.Context) (time.Duration, error)
	LagInterval time.Duration
	// HighLag closes the gate, LowLag (default: half of it) opens it again. Lag is a brake, not a bound.
	HighLag, LowLag time.Duration

	// ReservationTTL is how long a producer may take from Wait to [Reservation.Release]. Default [DefaultReservationTTL].
	ReservationTTL time.Duration
	// Look is how often a waiting producer looks by itself, should every signal be lost. Default [DefaultPollInterval].
	PollInterval time.Duration
}

func (c Config) withDefaults() Config {
	if len(c.Records) > 0 {
		c.High = cmp.Or(c.High, DefaultHigh)
		c.Low = cmp.Or(c.Low, c.High/2)
	}
	c.LowBytes = cmp.Or(c.LowBytes, c.HighBytes/2)
	c.LowLag = cmp.Or(c.LowLag, c.HighLag/2)
	c.LagInterval = cmp.Or(c.LagInterval, DefaultLagInterval)
	c.ReservationTTL = cmp.Or(c.ReservationTTL, DefaultReservationTTL)
	c.PollInterval = cmp.Or(c.PollInterval, DefaultPollInterval)
	return c
}

// maxDepth keeps sums exact in Lua, whose only number is a double.
const maxDepth = 1 << 52

func (c Config) validate(name string) error {
	if name == "" || len(name) > 200 || strings.ContainsAny(name, "{}") {
		return fmt.Errorf("backpressure: name is %q: must be 1 to 200 bytes without braces", name)
	}
	if len(c.Records) == 0 && len(c.Bytes) == 0 && c.LagKey == "" && c.Lag == nil {
		return fmt.Errorf("backpressure: Config.Records, Bytes, LagKey and Lag are empty: must set at least one")
	}
	if len(c.Records) == 0 && (c.High != 0 || c.Low != 0) {
		return fmt.Errorf("backpressure: Config.High is %d and Low is %d: must be 0 without Config.Records", c.High, c.Low)
	}
	if c.LagKey != "" && c.Lag != nil {
		return fmt.Errorf("backpressure: Config.LagKey and Config.Lag are both set: must be one")
	}
	tag := "{" + name + "}"
	for _, list := range []struct {
		field     string
		sources   []Source
		high, low int64
	}{{"Records", c.Records, c.High, c.Low}, {"Bytes", c.Bytes, c.HighBytes, c.LowBytes}} {
		suffix := ""
		if list.field == "Bytes" {
			suffix = "Bytes"
		}
		if len(list.sources) > 64 {
			return fmt.Errorf("backpressure: Config.%s has %d sources: must be 0 to 64", list.field, len(list.sources))
		}
		for i, s := range list.sources {
			key := s.List + s.Hash
			if (s.List == "") == (s.Hash == "") || (s.Hash == "") != (s.Field == "") {
				return fmt.Errorf("backpressure: Config.%s[%d] is %+v: must be a List, or a Hash and a Field", list.field, i, s)
			}
			if !strings.HasPrefix(key, tag) {
				return fmt.Errorf("backpressure: Config.%s[%d] has the key %q: must begin with %q, to be in the gate's slot", list.field, i, key, tag)
			}
		}
		if len(list.sources) == 0 && list.field == "Records" {
			continue
		}
		if len(list.sources) == 0 && list.high == 0 && list.low == 0 {
			continue
		}
		if len(list.sources) == 0 {
			return fmt.Errorf("backpressure: Config.High%s is %d: must be 0 without Config.%s", suffix, list.high, list.field)
		}
		if list.high < 2 || list.high > maxDepth {
			return fmt.Errorf("backpressure: Config.High%s is %d: must be 2 to %d", suffix, list.high, int64(maxDepth))
		}
		if list.low < 1 || list.low >= list.high {
			return fmt.Errorf("backpressure: Config.Low%s is %d: must be 1 to %d, below High%s", suffix, list.low, list.high-1, suffix)
		}
	}
	if c.LagKey != "" && !strings.HasPrefix(c.LagKey, tag) {
		return fmt.Errorf("backpressure: Config.LagKey is %q: must begin with %q, to be in the gate's slot", c.LagKey, tag)
	}
	if lag := c.LagKey != "" || c.Lag != nil; lag != (c.HighLag != 0) {
		return fmt.Errorf("backpressure: Config.HighLag is %v: must be set together with LagKey or Lag, and only then", c.HighLag)
	} else if lag && (c.HighLag < 2*time.Millisecond || c.LowLag < time.Millisecond || c.LowLag >= c.HighLag) {
		return fmt.Errorf("backpressure: Config.HighLag is %v and LowLag is %v: must be at least 2ms and 1ms, LowLag below HighLag", c.HighLag, c.LowLag)
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"ReserveFor", c.ReservationTTL}, {"Look", c.PollInterval}, {"LagEvery", c.LagInterval}} {
		if d.value < time.Millisecond || d.value > time.Hour {
			return fmt.Errorf("backpressure: Config.%s is %v: must be 1ms to 1h", d.field, d.value)
		}
	}
	return nil
}
