package redisxtest

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
)

// Clock is a Redis whose time moves only when the test moves it.
type Clock struct {
	*miniredis.Miniredis
	// Now is the time of the server.
	Now time.Time
}

// NewClock starts a server at a time, and returns it with a client. Both end with the test.
func NewClock(t testing.TB, now time.Time) (*Clock, rueidis.Client) {
	t.Helper()
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{m.Addr()}, DisableCache: true, ForceSingleClient: true, AlwaysRESP2: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	k := &Clock{Miniredis: m}
	k.SetTo(now)
	return k, c
}

// Advance lets time pass: keys expire.
func (k *Clock) Advance(d time.Duration) {
	k.Set(d)
	k.FastForward(d)
}

// Set sets the clock forward or back, as an operator does. No key expires at once.
func (k *Clock) Set(d time.Duration) { k.SetTo(k.Now.Add(d)) }

// SetTo sets the clock to a time.
func (k *Clock) SetTo(now time.Time) {
	k.Now = now
	k.SetTime(now)
}
