package lookup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"
)

// Run keeps the snapshot current until ctx is done, and then returns nil: it listens to the signal that every refresh
// sends, asks Redis by itself twice in MaxAge, and refreshes the table when it is older than Every. It returns an
// error only where trying again is pointless. Errors that it retries go to OnError. Several Runs of one table, here
// and in other processes, are fine.
//
// The signal is Pub/Sub, on a connection of its own: that works on every server and with the client as the caller made
// it, also where tracking of keys is missing or switched off. A lost signal costs at most MaxAge; after a lost
// connection the version is asked for as soon as the next one listens.
func (t *Table[K, V]) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	wake := make(chan struct{}, 1)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		t.listen(ctx, wake)
	}()
	defer func() {
		cancel()
		<-listening
	}()

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-timer.C:
		}
		age, err := t.sync(ctx, nil)
		next := t.cfg.MaxAge / 2
		if t.cfg.RefreshInterval > 0 && (err == nil && age >= t.cfg.RefreshInterval || errors.Is(err, ErrNotLoaded)) {
			if err = t.refreshOld(ctx); err == nil {
				age = 0
			}
		}
		if err != nil && ctx.Err() == nil {
			t.report(err)
			next = min(next, time.Second)
		} else if t.cfg.RefreshInterval > 0 {
			next = min(next, max(t.cfg.RefreshInterval-age, time.Millisecond))
		}
		timer.Reset(next)
	}
}

// refreshOld refreshes the table unless somebody has done so since this process looked.
func (t *Table[K, V]) refreshOld(ctx context.Context) error {
	p, age, err := t.ask(ctx)
	if err != nil && !errors.Is(err, ErrNotLoaded) || err == nil && age < t.cfg.RefreshInterval {
		return err
	}
	_, err = t.refreshFrom(ctx, p.version)
	return err
}

// listen wakes Run at each signal, and whenever a connection begins to listen: signals may have been lost before.
func (t *Table[K, V]) listen(ctx context.Context, wake chan<- struct{}) {
	ring := func() {
		select {
		case wake <- struct{}{}:
		default: // Run has not looked since the last one: it will see this too
		}
	}
	for ctx.Err() == nil {
		err := t.subscribe(ctx, ring)
		if ctx.Err() != nil {
			return
		}
		t.report(err)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// subscribe listens on a connection of its own until that breaks or ctx is done. An ordinary connection would be
// shared with commands, and not every server takes commands from a subscriber.
func (t *Table[K, V]) subscribe(ctx context.Context, ring func()) error {
	c, release := t.client.Dedicate()
	defer release()
	broken := c.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage:      func(rueidis.PubSubMessage) { ring() },
		OnSubscription: func(rueidis.PubSubSubscription) { ring() },
	})
	if err := c.Do(ctx, c.B().Subscribe().Channel(t.channel).Build()).Error(); err != nil {
		return fmt.Errorf("lookup: subscribe: %w", err)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-broken:
		return fmt.Errorf("lookup: the subscription broke: %w", err)
	}
}

func (t *Table[K, V]) report(err error) {
	if t.cfg.OnError != nil && err != nil {
		t.cfg.OnError(err)
	}
}
