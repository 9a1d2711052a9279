package console

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/queue"
)

func TestOneCallForAllWhoAsk(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	var calls atomic.Int64
	release := make(chan struct{})
	r := &reading[int]{
		in:   &readers{ctx: t.Context(), store: "Redis", timeout: time.Minute, slots: make(chan struct{}, 1), wg: &wg},
		what: "the number", maxAge: time.Hour,
		read: func(context.Context) (int, error) { calls.Add(1); <-release; return 7, nil },
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	await(short, r) // a page that does not wait
	if g := r.get().warning(); g == nil || !strings.Contains(g.Reason, "Redis has not answered for") || g.ReadAt != nil {
		t.Errorf("got the warning %+v, want that Redis has not answered", g)
	}
	for range 100 {
		wg.Go(func() { await(t.Context(), r) })
	}
	close(release)
	wg.Wait()
	if a := r.get(); a.value != 7 || !a.ok || a.warning() != nil || calls.Load() != 1 {
		t.Errorf("got %+v after %d calls, want 7 after 1", a, calls.Load())
	}
	r.expire()
	await(t.Context(), r)
	if calls.Load() != 2 {
		t.Errorf("got %d calls after expire, want 2", calls.Load())
	}
}

func TestARecentAnswerIsShownWhileTheNextIsRead(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	var calls atomic.Int64
	release := make(chan struct{})
	r := &reading[int64]{
		in:   &readers{ctx: t.Context(), store: "Redis", timeout: time.Minute, slots: make(chan struct{}, 1), wg: &wg},
		what: "the number", maxAge: time.Hour,
		read: func(context.Context) (int64, error) { <-release; return calls.Add(1), nil },
	}
	age := func(d time.Duration) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.value, r.at, r.tried = 7, time.Now().Add(-d), time.Now().Add(-d)
	}
	age(2 * time.Hour)
	await(t.Context(), r) // the call does not end before the page
	if a := r.get(); a.value != 7 || a.warning() != nil || a.waiting == 0 {
		t.Errorf("got %+v with the warning %v, want the old answer while the next one is read", a, a.warning())
	}
	close(release)
	wg.Wait()
	age(4 * time.Hour)
	await(t.Context(), r)
	if a := r.get(); a.value != 2 {
		t.Errorf("got %+v, want that a page waits when the answer is very old", a)
	}
}

func TestAnErrorKeepsTheOldAnswer(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	fail := false
	r := &reading[int]{
		in:   &readers{ctx: t.Context(), store: "Redis", timeout: time.Minute, slots: make(chan struct{}, 1), wg: &wg},
		what: "the number",
		read: func(context.Context) (int, error) {
			if fail {
				return 0, errors.New("a\x07 b\n c")
			}
			return 7, nil
		},
	}
	await(t.Context(), r)
	fail = true
	r.expire()
	await(t.Context(), r)
	a := r.get()
	if g := a.warning(); a.value != 7 || !a.ok || g == nil || g.Reason != `a\a b c` || g.ReadAt == nil {
		t.Errorf("got %+v with the warning %+v, want the old answer and the error", a, g)
	}
}

func TestHistoryBreaksWhereItKnowsNothing(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	r := ring{started: start}
	at := func(n int) time.Time { return start.Add(time.Duration(n) * sampleInterval) }
	for i := range 10 {
		r.addAt(at(i), queue.Stats{Ready: int64(i), Taken: int64(i)})
		r.addAt(at(i).Add(time.Second), queue.Stats{Ready: 99}) // too early
	}
	for i := 30; i < 35; i++ { // the console slept
		r.addAt(at(i), queue.Stats{Taken: int64(i)})
	}
	r.addAt(at(35), queue.Stats{Taken: 1}) // the queue was restored
	now := at(36)
	h := r.history(now)
	parts, reset := h.parts()
	if len(parts) != 3 || len(parts[0]) != 10 || len(parts[1]) != 5 || len(parts[2]) != 1 {
		t.Errorf("got %d parts %v, want 10, 5 and 1 samples", len(parts), parts)
	}
	if len(reset) != 1 || !reset[0].Equal(at(35)) {
		t.Errorf("got resets at %v, want one at %v", reset, at(35))
	}
	c := depthChart(h, 100, now)
	if len(c.Lines) != 1+2*3 || len(c.Marks) != 2 || c.Bars[0].Class != "unknown" || !strings.Contains(c.Text, "knows nothing of the time before 03:00 UTC") {
		t.Errorf("got %d lines, marks %v and the text %q, want the gate, three parts, the start and the reset", len(c.Lines), c.Marks, c.Text)
	}
	for i := range 2 * maxSamples {
		r.addAt(at(100+i), queue.Stats{})
	}
	if n := len(r.samples); n > maxSamples+1 {
		t.Errorf("the ring has %d samples, want at most %d", n, maxSamples+1)
	}
	if h := r.history(at(100 + 2*maxSamples + 10*maxSamples)); len(h.Samples) != 0 {
		t.Errorf("got %d samples of more than an hour ago, want none", len(h.Samples))
	}
}

func TestNumbersForPeople(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 999: "999", 1234: "1,234", 9999: "9,999", 12_345: "12.3 k", 1_000_000: "1 M", 1_250_000: "1.2 M", -5: "−5", 7_000_000_000: "7 G"} {
		if got := count(n); got != want {
			t.Errorf("count(%d): got %q, want %q", n, got, want)
		}
	}
	if got := exact(-1234567); got != "−1,234,567" {
		t.Errorf("exact: got %q", got)
	}
	for _, c := range []struct {
		n             int64
		several, want string
	}{{0, "records", "0 records"}, {1, "batches", "1 batch"}, {1, "dead letters", "1 dead letter"}, {12_000, "rejects", "12,000 rejects"}} {
		if got := counted(c.n, c.several); got != c.want {
			t.Errorf("counted(%d, %q): got %q, want %q", c.n, c.several, got, c.want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0 ms", 1500 * time.Millisecond: "1.5 s", 3 * time.Second: "3 s", 90 * time.Second: "90 s",
		10 * time.Minute: "10 min", 5 * time.Hour: "5 h", 72 * time.Hour: "3 d", -2 * time.Second: "−2 s"} {
		if got := duration(d); got != want {
			t.Errorf("duration(%v): got %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{12: "12 B", 2048: "2.0 KiB", 5 << 20: "5.0 MiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d): got %q, want %q", n, got, want)
		}
	}
	if got := visible("a\x00b\x1b\xff\u202e\n\tä日"); got != "a\\x00b\\x1b\\xff\\u202e\n\tä日" {
		t.Errorf("visible: got %q", got)
	}
}

func TestNewestIDIsBehindEachUUIDv7OfToday(t *testing.T) {
	t.Parallel()
	now := time.Now()
	id := newestID(now)
	if !isUUID(id) || id <= newestID(now.Add(-48*time.Hour)) {
		t.Errorf("got %q, want an id after that of the day before", id)
	}
}
