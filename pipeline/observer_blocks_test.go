package pipeline

import (
	"context"
	"testing"
	"time"
)

// An observer that blocks for ever does not keep the end of Run waiting. One that is only slow
// receives every event.
func TestObserverThatBlocks(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	left := make(chan struct{})
	ev := &events{timeout: 20 * time.Millisecond, observer: ObserverFunc(func(context.Context, Event) {
		<-release
		left <- struct{}{}
	})}
	stop := ev.start(t.Context())
	ev.emit(t.Context(), Event{Op: OpLease})
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(time.Minute):
		t.Error("stop waits for an observer that blocks")
	}
	close(release)
	<-left

	seen := 0
	ev = &events{timeout: time.Minute, observer: ObserverFunc(func(context.Context, Event) { seen++ })}
	stop = ev.start(t.Context())
	for range 100 {
		ev.emit(t.Context(), Event{Op: OpLease})
	}
	if stop(); seen != 100 {
		t.Errorf("the observer received %d events, want 100", seen)
	}
}
