package lookup

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

const (
	// retryAfter bounds the pause after a failed poll.
	retryAfter = time.Second
	// The pauses between two tries to subscribe.
	firstResubscribe = 100 * time.Millisecond
	lastResubscribe  = 10 * time.Second
)

// Run keeps the snapshot current until ctx is done, and then returns nil. It subscribes to the
// signal that every refresh sends, polls Redis twice in MaxAge, and refreshes the table when it is
// older than RefreshInterval. Errors that it retries go to Config.Logger. Only a client that the
// program has closed ends Run early, with an error. Several calls of Run may be active for one
// table, in this process and in others.
//
// The signal is Pub/Sub on a connection of its own. That works on every server and with the
// caller's client as it is, even without client-side caching. A lost signal delays a new version by
// at most MaxAge. After a lost connection Run polls as soon as it has subscribed again. A user who
// may not subscribe still gets every version, within MaxAge.
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
	var client redisx.Closed
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-timer.C:
		}
		next, err := t.poll(ctx)
		if client.By(err) {
			return fmt.Errorf("lookup: Run of %s has stopped: %w", t.name, err)
		}
		timer.Reset(next)
	}
}

// poll makes the current version this process's snapshot, refreshes it if it is due, and returns
// the pause to the next poll. It has logged the error of the poll.
func (t *Table[K, V]) poll(ctx context.Context) (next time.Duration, err error) {
	next = t.cfg.MaxAge / 2
	age, err := t.sync(ctx, nil)
	if t.cfg.RefreshInterval > 0 && (err == nil && t.due(age) || err != nil && replaceable(err)) {
		if err = t.refreshOld(ctx); err == nil {
			age = 0
		}
	}
	if ctx.Err() != nil {
		return next, ctx.Err()
	}
	t.log.Report(ctx, "polling", err)
	if err != nil {
		return min(next, retryAfter), err
	}
	if t.cfg.RefreshInterval > 0 {
		next = min(next, max(t.cfg.RefreshInterval-age, time.Millisecond))
	}
	return next, nil
}

// due reports whether Run must refresh a version of this age. A negative age means that the
// server's clock was set back: the age is meaningless then.
func (t *Table[K, V]) due(age time.Duration) bool {
	return t.cfg.RefreshInterval > 0 && (age >= t.cfg.RefreshInterval || age < 0)
}

// refreshOld refreshes the table unless another process has done so since this one polled.
func (t *Table[K, V]) refreshOld(ctx context.Context) error {
	v, age, err := t.ask(ctx)
	if err == nil && !t.due(age) {
		// It is read, or replaced if it cannot be read whole.
		if _, err = t.sync(ctx, nil); err == nil {
			return nil
		}
	}
	if err != nil && !replaceable(err) {
		return err
	}
	_, err = t.refreshFrom(ctx, v.id)
	return err
}

// listen wakes Run at each signal, and whenever a subscription begins, because signals may have
// been lost before.
func (t *Table[K, V]) listen(ctx context.Context, wake chan<- struct{}) {
	pause := firstResubscribe
	for ctx.Err() == nil {
		subscribed := false
		err := t.subscribe(ctx, func() {
			subscribed = true
			t.log.Report(ctx, "the subscription", nil)
			select {
			case wake <- struct{}{}:
			default: // Run has not polled since the last signal, and sees this version too
			}
		})
		if ctx.Err() != nil {
			return
		}
		t.log.Report(ctx, "the subscription", err)
		if subscribed {
			pause = firstResubscribe
		}
		if !redisx.Sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, lastResubscribe)
	}
}

// subscribe listens on a connection of its own until it breaks or ctx is done, and calls ring when
// the subscription begins and at each signal. An ordinary connection would be shared with commands,
// which some servers refuse from a subscriber.
func (t *Table[K, V]) subscribe(ctx context.Context, ring func()) error {
	c, release := t.server.Client().Dedicate()
	defer release()
	broken := c.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage:      func(rueidis.PubSubMessage) { ring() },
		OnSubscription: func(rueidis.PubSubSubscription) { ring() },
	})
	if err := c.Do(ctx, c.B().Subscribe().Channel(t.channel).Build()).Error(); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-broken:
		return fmt.Errorf("the subscription broke: %w", err)
	}
}
