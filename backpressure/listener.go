package backpressure

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// retrySubscription is the pause after a subscription has ended.
const retrySubscription = time.Second

// listener subscribes to the gate's channel while producers of this process wait: one connection
// for all of them. A message is a hint and may be lost; the waiters poll too.
type listener struct {
	client  rueidis.Client
	channel string
	logger  *slog.Logger

	mu      sync.Mutex
	waiters map[string]*waiter
	running bool
	ready   bool               // the subscription is confirmed
	stop    context.CancelFunc // of the running subscription
}

// waiter is one producer that waits.
type waiter struct {
	granted chan struct{}      // it has been let through, or has to poll for another reason
	expiry  chan time.Duration // when the next reservation expires, as the last message has it
}

func newListener(client rueidis.Client, channel string, logger *slog.Logger) *listener {
	return &listener{client: client, channel: channel, logger: logger, waiters: map[string]*waiter{}}
}

func (l *listener) register(id string) *waiter {
	w := &waiter{granted: make(chan struct{}, 1), expiry: make(chan time.Duration, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters[id] = w
	return w
}

func (l *listener) unregister(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiters, id)
	if len(l.waiters) == 0 && l.running {
		l.stop()
	}
}

// listen starts the subscription if there is none.
func (l *listener) listen(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running {
		l.running = true
		ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
		go l.run(ctx)
	}
}

// interrupted notes that the subscription has ended, and returns how many producers wait.
func (l *listener) interrupted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = false
	return len(l.waiters)
}

func (l *listener) subscribed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready
}

// wake makes waiters poll: those with the ids, or all.
func (l *listener) wake(all bool, ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if all {
		l.ready = true
		for _, w := range l.waiters {
			w.wake()
		}
	}
	for _, id := range ids {
		if w := l.waiters[id]; w != nil {
			w.wake()
		}
	}
}

func (w *waiter) wake() {
	select {
	case w.granted <- struct{}{}:
	default: // it is awake
	}
}

// message handles "<ms until the next expiry, -1: none> <id>…".
func (l *listener) message(text string) {
	ids := strings.Fields(text)
	if len(ids) == 0 {
		return
	}
	l.wake(false, ids[1:]...)
	ms, err := strconv.ParseInt(ids[0], 10, 64)
	if err != nil || ms < 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.waiters {
		select { // the last one counts
		case <-w.expiry:
		default:
		}
		w.expiry <- time.Duration(ms) * time.Millisecond
	}
}

// wait waits until a poll is due.
func (w *waiter) wait(ctx context.Context, poll time.Duration) error {
	due := time.Now().Add(poll)
	timer := time.NewTimer(poll)
	defer timer.Stop()
	for {
		select {
		case <-w.granted:
			return nil
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case d := <-w.expiry:
			if at := time.Now().Add(d + time.Millisecond + rand.N(expiryJitter)); at.Before(due) {
				due = at
				timer.Reset(time.Until(at))
			}
		}
	}
}

// run keeps a subscription until ctx is done or the client is closed.
func (l *listener) run(ctx context.Context) {
	closing := false // the client is
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.running, l.ready = false, false
		if len(l.waiters) > 0 && !closing { // one came while this ended
			l.running = true
			ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
			go l.run(ctx)
		}
	}()
	// What was published before the confirmation was lost, so it wakes all.
	hook := rueidis.WithOnSubscriptionHook(ctx, func(s rueidis.PubSubSubscription) {
		if s.Kind == "subscribe" {
			l.wake(true)
		}
	})
	logged := false
	for ctx.Err() == nil {
		// A connection of its own: a subscriber on a shared one would put its messages between the
		// replies of others, and some servers refuse PUBLISH there.
		c, release := l.client.Dedicate()
		err := c.Receive(hook, c.B().Subscribe().Channel(l.channel).Build(), func(m rueidis.PubSubMessage) { l.message(m.Message) })
		release()
		closing = errors.Is(err, rueidis.ErrClosing)
		if l.interrupted() == 0 || ctx.Err() != nil || closing {
			return
		}
		if _, refused := rueidis.IsRedisErr(err); refused && !logged {
			logged = true
			l.logger.WarnContext(ctx, "backpressure: cannot subscribe: waiting producers poll instead", "channel", l.channel, "error", err)
		}
		pause := time.NewTimer(retrySubscription)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
	}
}
