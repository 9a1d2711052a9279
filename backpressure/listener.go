package backpressure

import (
	"context"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// listener hears the gate's channel while somebody waits: one connection, however many wait. A message is a hint and
// may be lost; the waiters look by themselves too.
type listener struct {
	client  rueidis.Client
	channel string
	retry   time.Duration

	mu      sync.Mutex
	opened  chan struct{} // closed at the next message
	waiters int
	stop    context.CancelFunc
}

func (l *listener) join(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters++
	if l.waiters == 1 {
		ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
		go l.listen(ctx)
	}
}

func (l *listener) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters--
	if l.waiters == 0 {
		l.stop()
	}
}

// next is closed when something is heard from now on.
func (l *listener) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened == nil {
		l.opened = make(chan struct{})
	}
	return l.opened
}

func (l *listener) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened != nil {
		close(l.opened)
		l.opened = nil
	}
}

func (l *listener) listen(ctx context.Context) {
	// The confirmation is news too: what was told before it, nobody heard.
	ctx = rueidis.WithOnSubscriptionHook(ctx, func(rueidis.PubSubSubscription) { l.tell() })
	for ctx.Err() == nil {
		// A connection of its own: a subscriber on the shared one would put its messages between other people's
		// replies, and some servers refuse PUBLISH there.
		c, release := l.client.Dedicate()
		_ = c.Receive(ctx, c.B().Subscribe().Channel(l.channel).Build(), func(rueidis.PubSubMessage) { l.tell() })
		release()
		if ctx.Err() != nil {
			return
		}
		wait := time.NewTimer(min(l.retry, time.Second))
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
}
