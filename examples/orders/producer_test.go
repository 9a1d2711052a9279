package orders_test

import (
	"errors"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// Redis dies in the middle of a PushAll and comes back. Every payload is in the queue; those whose
// reply was lost may be there twice.
func TestPushAllSurvivesACrashOfRedis(t *testing.T) {
	t.Parallel()
	redis := servertest.OwnRedis(t, "--appendfsync", "always") // what it acknowledged is there after the crash
	client := redis.Client(t)
	p, err := orders.OpenProducer(t.Context(), client, "crash", 0)
	if err != nil {
		t.Fatal(err)
	}
	const all, crashAt = 20 * orders.PushSize, 7*orders.PushSize - 1
	payloads := func(yield func([]byte) bool) {
		for i := range all {
			if i == crashAt {
				if err := redis.Kill(); err != nil {
					t.Error(err)
				}
			}
			if !yield([]byte(time.Duration(i).String())) {
				return
			}
		}
	}
	var pushed, away, back int
	done, err := p.PushAll(t.Context(), payloads, orders.PushObserver{
		Pushed: func(n int, _, _ time.Duration) { pushed += n },
		Away: func(error) {
			away++
			if err := redis.Start(); err != nil {
				t.Error(err)
			}
		},
		Back: func() { back++ },
	})
	if err != nil || done.Records != all || pushed != all || away != 1 || back != 1 {
		t.Errorf("got %+v, %v; observed %d records, %d times away, %d times back; want %d records and one of each", done, err, pushed, away, back, all)
	}
	list, err := client.Do(t.Context(), client.B().Lrange().Key("{crash}:ready").Start(0).Stop(-1).Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	if n := len(slices.Compact(list)); n != all {
		t.Errorf("%d distinct payloads are in the queue, want %d", n, all)
	}
	if len(list) > all+done.Repeated {
		t.Errorf("%d payloads are in the queue, want at most %d and the %d that were repeated", len(list), all, done.Repeated)
	}
}

// What a server refuses for good is not tried again.
func TestPushAllReturnsFinalErrors(t *testing.T) {
	t.Parallel()
	client, name := servertest.Redis(t), servertest.Prefix(t)
	p, err := orders.OpenProducer(t.Context(), client, name, 0)
	if err != nil {
		t.Fatal(err)
	}
	again := orders.PushObserver{Away: func(err error) { t.Errorf("it tries again after %v", err) }}
	push := func(payloads iter.Seq[[]byte]) (orders.PushResult, error) {
		return p.PushAll(t.Context(), payloads, again)
	}
	done, err := push(slices.Values([][]byte{[]byte("fits"), make([]byte, queue.DefaultMaxPayload+1)}))
	if !errors.Is(err, queue.ErrTooLarge) || done.Records != 0 {
		t.Errorf("a payload that is too large: got %+v, %v; want ErrTooLarge and nothing pushed", done, err)
	}
	if err := client.Do(t.Context(), client.B().Set().Key("{"+name+"}:ready").Value("no list").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if done, err := push(slices.Values([][]byte{[]byte("x")})); err == nil || done.Records != 0 {
		t.Errorf("a key of another type: got %+v, %v; want an error", done, err)
	}
	if done, err := push(slices.Values([][]byte(nil))); err != nil || done.Records != 0 {
		t.Errorf("without payloads: got %+v, %v; want nothing", done, err)
	}
}
