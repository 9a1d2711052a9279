package matview

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
)

// Callers that arrive while a run is under way share the next one. One that leaves takes no other
// along.
func TestRefreshIsShared(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	var runs atomic.Int32
	inChanged, goOn := make(chan bool), make(chan bool)
	r, err := New(t.Context(), pool, "dashboard", Config{
		Views: []View{{Name: "v", SQL: "SELECT 1 AS one"}},
		Changed: func(ctx context.Context) (string, error) {
			inChanged <- true
			<-goOn
			return strconv.Itoa(int(runs.Add(1))), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	call := func(ctx context.Context, want error) {
		wg.Go(func() {
			if _, err := r.Refresh(ctx); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
	waiters := func(n int) {
		for {
			r.mu.Lock()
			ok := n == 0 && r.next == nil || r.next != nil && r.next.waiters == n
			r.mu.Unlock()
			if ok {
				return
			}
			runtime.Gosched()
		}
	}
	call(t.Context(), nil)
	<-inChanged
	ctx, cancel := context.WithCancel(t.Context())
	call(ctx, context.Canceled) // the only one who waits for the next run
	waiters(1)
	cancel()
	waiters(0)
	ctx, cancel = context.WithCancel(t.Context())
	call(ctx, context.Canceled) // the first of eleven
	waiters(1)
	for range 10 {
		call(t.Context(), nil)
	}
	waiters(11)
	cancel()
	waiters(10)
	goOn <- true
	<-inChanged
	goOn <- true
	wg.Wait()
	if n := runs.Load(); n != 2 {
		t.Errorf("%d runs, want 2", n)
	}

	// The last one to leave a run that is under way ends it.
	ctx, cancel = context.WithCancel(t.Context())
	call(ctx, context.Canceled)
	<-inChanged
	cancel()
	goOn <- true
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil || r.next != nil {
		t.Error("a run is left over")
	}
}
