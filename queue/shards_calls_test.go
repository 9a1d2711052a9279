package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// tagged is a client that counts the commands that it sends by the hash tag of their first key.
type tagged struct {
	rueidis.Client
	mu   sync.Mutex
	tags map[string]int
}

func (c *tagged) note(cmds ...rueidis.Completed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tags == nil {
		c.tags = map[string]int{}
	}
	for _, cmd := range cmds {
		for _, arg := range cmd.Commands()[1:] {
			if tag, _, ok := strings.Cut(arg, "}"); ok && strings.HasPrefix(tag, "{") {
				c.tags[tag[1:]]++
				break
			}
		}
	}
}

func (c *tagged) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	c.note(cmd)
	return c.Client.Do(ctx, cmd)
}

func (c *tagged) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	c.note(cmds...)
	return c.Client.DoMulti(ctx, cmds...)
}

// sent returns the commands that f sends, by hash tag.
func (c *tagged) sent(f func()) map[string]int {
	c.mu.Lock()
	c.tags = map[string]int{}
	c.mu.Unlock()
	f()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tags
}

// first is the sharding key of these tests: the first letter.
func first(p []byte) string { return string(p[:1]) }

// letters pushes a record of each of some letters and leases all.
func letters(t *testing.T, s *queue.Shards, n int) []*queue.Batch {
	t.Helper()
	for i := range n {
		must(t, s.Push(t.Context(), fmt.Appendf(nil, "%c", 'a'+i)))
	}
	return leaseAll(t, s, queue.LeaseOptions{Records: 1, Duration: time.Hour})
}

func leaseAll(t *testing.T, s *queue.Shards, o queue.LeaseOptions) (all []*queue.Batch) {
	t.Helper()
	for {
		b, err := s.TryLease(t.Context(), o)
		if errors.Is(err, queue.ErrEmpty) {
			return all
		}
		must(t, err)
		all = append(all, b)
	}
}

// A call about batches goes to their shards and to no other one, so that its cost does not grow
// with the number of shards.
func TestEachBatchHasOneShard(t *testing.T) {
	t.Parallel()
	c := &tagged{Client: servertest.Redis(t)}
	s, err := queue.NewShards(t.Context(), c, servertest.Prefix(t), 4, first, queue.Config{Logger: quiet})
	must(t, err)
	ctx := t.Context()
	batches := letters(t, s, 16)
	one := func(what string, b *queue.Batch, f func() error) {
		t.Helper()
		sent := c.sent(func() {
			if err := f(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
		if len(sent) != 1 || sent[b.Queue] == 0 {
			t.Errorf("%s of a batch of %s sent %v, want commands to that shard alone", what, b.Queue, sent)
		}
	}
	for _, b := range batches[:4] {
		if q := s.OfID(b.ID); q == nil || q.Name() != b.Queue {
			t.Fatalf("batch %s is of %s, but OfID returns %v", b.ID, b.Queue, q)
		}
		one("extend", b, func() error { return s.Extend(ctx, b, time.Hour) })
		one("handoff", b, func() error { return s.Handoff(ctx, b) })
		one("get", b, func() error { _, err := s.Get(ctx, b.ID); return err })
		one("annotation", b, func() error { _, err := s.Annotation(ctx, b.ID, "dedup"); return err })
		one("batches", b, func() error {
			info, err := s.Batches(ctx, b.ID)
			if len(info) != 1 || info[0].State != queue.BatchStateHandedOff {
				t.Errorf("got %+v, want one batch that is handed off", info)
			}
			return err
		})
		one("ack", b, func() error {
			n, err := s.Ack(ctx, b.ID)
			if n != 1 {
				t.Errorf("%d batches acknowledged, want 1", n)
			}
			return err
		})
	}
	// Many batches in one call: a script for each shard, whatever the order of the ids, and nothing
	// for batches of other queues.
	other := open(t, c, quick)
	must(t, other.Push(ctx, records(0, 1)...))
	foreign := lease(t, other, queue.LeaseOptions{Duration: time.Hour})
	acks := []queue.Ack{{ID: foreign.ID}, {ID: "no id"}}
	shards := map[string]int{}
	for i, b := range batches[4:] {
		log := "{" + b.Queue + "}:log" + fmt.Sprint(i)
		must(t, c.Client.Do(ctx, c.B().Set().Key(log).Value("held").Build()).Error())
		acks = append(acks, queue.Ack{ID: b.ID, Undo: []queue.Undo{{Key: log, Old: "held", New: "free"}}})
		shards[b.Queue] = 1
	}
	sent := c.sent(func() {
		if n, err := s.AckWith(ctx, acks...); n != 12 || err != nil {
			t.Errorf("%d batches acknowledged, %v, want 12", n, err)
		}
	})
	if fmt.Sprint(sent) != fmt.Sprint(shards) {
		t.Errorf("the acknowledgement sent %v, want %v", sent, shards)
	}
	for i, b := range batches[4:] {
		text, err := c.Client.Do(ctx, c.B().Get().Key("{"+b.Queue+"}:log"+fmt.Sprint(i)).Build()).ToString()
		if must(t, err); text != "free" {
			t.Errorf("the undo of batch %s was not applied: got %q", b.ID, text)
		}
	}
	if st := books(t, other); st.InFlight != 1 {
		t.Errorf("a batch of another queue was touched: %+v", st)
	}
	if st, err := s.Stats(ctx); err != nil || st.Acked != 16 || st.Depth() != 0 || st.Balanced() != nil {
		t.Errorf("got %+v, %v, want 16 acknowledged", st, err)
	}
}

// The parts of a batch that is split, dead letters and requeued records stay in their shard, and
// are found there by their ids.
func TestShardsKeepTheirBatches(t *testing.T) {
	t.Parallel()
	cfg := quick
	cfg.Logger = quiet
	s, err := queue.NewShards(t.Context(), servertest.Redis(t), servertest.Prefix(t), 3, first, cfg)
	must(t, err)
	ctx := t.Context()
	for _, letter := range "abcdef" {
		for i := range 4 {
			must(t, s.Push(ctx, fmt.Appendf(nil, "%c%d", letter, i)))
		}
	}
	home := func(b *queue.Batch) {
		t.Helper()
		for _, p := range b.Payloads {
			if want := s.Queues()[s.ShardOf(first(p))].Name(); b.Queue != want || s.OfID(b.ID).Name() != want {
				t.Errorf("%s is in a batch of %s with an id of %s, want %s", p, b.Queue, s.OfID(b.ID).Name(), want)
			}
		}
	}
	for _, b := range leaseAll(t, s, queue.LeaseOptions{Duration: time.Hour}) {
		home(b)
		must(t, s.Settle(ctx, b, queue.Resolution{})) // void: it is split
	}
	for len(mustStats(t, s)) > 0 {
		for _, b := range leaseAll(t, s, queue.LeaseOptions{Duration: time.Hour}) {
			home(b)
			must(t, s.Settle(ctx, b, queue.Resolution{}))
		}
	}
	var ids, payloads []string
	for cursor := ""; ; {
		dead, next, err := s.DeadLetters(ctx, cursor, 5)
		must(t, err)
		if len(dead) > 5 || next != "" && len(dead) == 0 {
			t.Fatalf("a page of %d letters, next %q", len(dead), next)
		}
		for _, d := range dead {
			ids, payloads = append(ids, d.ID), append(payloads, string(d.Payload))
			if got, err := s.DeadLetter(ctx, d.ID); err != nil || string(got.Payload) != string(d.Payload) {
				t.Errorf("letter %s: got %q, %v, want %q", d.ID, got.Payload, err, d.Payload)
			}
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	slices.Sort(payloads)
	if len(slices.Compact(payloads)) != 24 {
		t.Fatalf("dead letters %v, want 24", payloads)
	}
	if _, _, err := s.DeadLetters(ctx, "3:", 5); !errors.Is(err, queue.ErrConfig) {
		t.Errorf("the cursor of a shard that is not there: %v, want ErrConfig", err)
	}
	if n, err := s.Discard(ctx, ids[:4]...); n != 4 || err != nil {
		t.Errorf("discarded %d, %v, want 4", n, err)
	}
	if n, err := s.Requeue(ctx, ids...); n != 20 || err != nil {
		t.Errorf("requeued %d, %v, want 20", n, err)
	}
	back := leaseAll(t, s, queue.LeaseOptions{Duration: time.Hour})
	if len(back) != 20 {
		t.Errorf("%d batches came back, want 20", len(back))
	}
	for _, b := range back {
		home(b)
		must(t, s.Settle(ctx, b, queue.Resolution{}))
	}
	if n, err := s.RequeueAll(ctx); n != 20 || err != nil {
		t.Errorf("requeued %d, %v, want all 20", n, err)
	}
	all, total, err := s.InFlight(ctx, time.Now().Add(time.Hour), 7)
	if err != nil || total != 20 || len(all) != 7 {
		t.Errorf("in flight: %d of %d, %v, want 7 of 20", len(all), total, err)
	}
	counts, err := s.Scan(ctx, queue.ScanOptions{}, func([]queue.ScannedRecord) error { return nil })
	must(t, err)
	for _, c := range counts {
		if want := map[queue.Place]int64{queue.PlaceInFlight: 20}[c.Place]; c.Scanned != want || !c.Complete() {
			t.Errorf("%v: %d of %d records scanned, want %d", c.Place, c.Scanned, c.Total, want)
		}
	}
	for _, q := range s.Queues() {
		books(t, q)
	}
}

// mustStats returns the batches that wait for redelivery.
func mustStats(t *testing.T, s *queue.Shards) []queue.BatchInfo {
	t.Helper()
	all, _, err := s.InFlight(t.Context(), time.Now().Add(time.Hour), 1000)
	must(t, err)
	return all
}

// A shard that fails keeps no other one from its work. The worker leaves it alone for a while, and
// the log names it.
func TestAShardThatFails(t *testing.T) {
	t.Parallel()
	c := &tagged{Client: servertest.Redis(t)}
	cfg := quick
	var text bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&text, nil))
	s, err := queue.NewShards(t.Context(), c, servertest.Prefix(t), 3, first, cfg)
	must(t, err)
	ctx := t.Context()
	batches := letters(t, s, 12)
	for _, b := range batches {
		must(t, s.Handoff(ctx, b))
	}
	bad := s.Queues()[1]
	var sound int
	for _, b := range batches {
		if b.Queue != bad.Name() {
			sound++
		}
	}
	if sound == 0 || sound == len(batches) {
		t.Fatal("the letters do not cover the shards")
	}
	leases, hidden := "{"+bad.Name()+"}:queue:leases", "{"+bad.Name()+"}:hidden"
	handed := "{" + bad.Name() + "}:queue:handed"
	rename := func(from, to string) {
		t.Helper()
		must(t, c.Client.Do(ctx, c.B().Rename().Key(from).Newkey(to).Build()).Error())
	}
	spoil := func(key string) {
		t.Helper()
		must(t, c.Client.Do(ctx, c.B().Set().Key(key).Value("spoilt").Build()).Error())
	}
	rename(handed, hidden)
	spoil(handed)
	r, err := s.Reconcile(ctx, func(_ context.Context, ids []string) ([]queue.BatchFate, error) {
		fates := make([]queue.BatchFate, len(ids))
		for i := range fates {
			fates[i].Fate = queue.FatePromoted
		}
		return fates, nil
	}, nil)
	if !errors.Is(err, queue.ErrWrongType) || !strings.Contains(err.Error(), bad.Name()) || r.Acked != sound || r.Seen != sound {
		t.Errorf("reconcile: got %+v, %v, want %d acknowledged and the error of %s", r, err, sound, bad.Name())
	}
	if _, err := s.Stats(ctx); !errors.Is(err, queue.ErrWrongType) || !strings.Contains(err.Error(), bad.Name()) {
		t.Errorf("stats: got %v, want the error of %s", err, bad.Name())
	}
	rename(hidden, handed)

	spoil(leases)
	sent := c.sent(func() {
		for range 30 {
			_, err := s.TryLease(ctx, queue.LeaseOptions{}) // the shard may have batches, so not ErrEmpty
			if !errors.Is(err, queue.ErrWrongType) || errors.Is(err, queue.ErrEmpty) || !strings.Contains(err.Error(), bad.Name()) {
				t.Errorf("lease: %v, want the error of %s", err, bad.Name())
			}
		}
	})
	if healthy := sent[s.Queues()[0].Name()]; sent[bad.Name()] == 0 || sent[bad.Name()] > healthy/2 {
		t.Errorf("the leases sent %v, want few commands to %s", sent, bad.Name())
	}
	if n := strings.Count(text.String(), "a shard fails"); n != 1 || !strings.Contains(text.String(), bad.Name()) {
		t.Errorf("the log names the shard %d times, want once:\n%s", n, text.String())
	}
	must(t, s.PushKeyed(ctx, []string{"a", "b", "c", "d", "e", "f"}, [][]byte{[]byte("a1"), []byte("b1"), []byte("c1"), []byte("d1"), []byte("e1"), []byte("f1")}))
	got := 0
	for err = nil; err == nil; got++ { // until the others are empty
		_, err = s.TryLease(ctx, queue.LeaseOptions{Records: 1})
	}
	if want := 5; got-1 != want { // all but c
		t.Errorf("the other shards give %d batches, want %d", got-1, want)
	}
	must(t, c.Client.Do(ctx, c.B().Del().Key(leases).Build()).Error())
	servertest.Eventually(t, "the shard gives its batches", func() bool {
		b, err := s.TryLease(ctx, queue.LeaseOptions{Records: 1})
		return err == nil && b.Queue == bad.Name()
	})
}

// A push that fails in one shard names the payloads of that shard, and no others.
func TestAPushThatFailsInOneShard(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	s, err := queue.NewShards(t.Context(), c, servertest.Prefix(t), 3, first, queue.Config{Logger: quiet})
	must(t, err)
	ctx := t.Context()
	bad := s.Queues()[2]
	must(t, c.Do(ctx, c.B().Set().Key("{"+bad.Name()+"}:ready").Value("spoilt").Build()).Error())
	var payloads [][]byte
	var want []int
	for i := range 20 {
		payloads = append(payloads, fmt.Appendf(nil, "%c%d", 'a'+i, i))
		if s.ShardOf(first(payloads[i])) == 2 {
			want = append(want, i)
		}
	}
	err = s.Push(ctx, payloads...)
	var failed *queue.ShardsPushError
	if !errors.As(err, &failed) || !errors.Is(err, queue.ErrWrongType) || !strings.Contains(err.Error(), bad.Name()) {
		t.Fatalf("got %v, want a ShardsPushError that names %s", err, bad.Name())
	}
	if errors.As(err, new(*queue.PushError)) {
		t.Error("the error holds the counts of one shard as if they were those of the push")
	}
	rest := slices.Concat(failed.Rest, failed.Unknown)
	slices.Sort(rest)
	if !slices.Equal(rest, want) || len(want) == 0 {
		t.Errorf("not pushed: %v, want %v", rest, want)
	}
	if got := leaseAllOf(t, s.Queues()[:2]); got != len(payloads)-len(want) {
		t.Errorf("%d records are in the other shards, want %d", got, len(payloads)-len(want))
	}
	// A gate that refuses a shard's part keeps only that part back.
	released := 0
	var mu sync.Mutex
	err = s.PushGated(ctx, func(_ context.Context, q *queue.Queue, n int, _ int64) (func(), error) {
		if q == bad {
			return nil, queue.ErrFull
		}
		return func() { mu.Lock(); defer mu.Unlock(); released += n }, nil
	}, payloads...)
	if !errors.As(err, &failed) || !errors.Is(err, queue.ErrFull) || !slices.Equal(failed.Rest, want) || len(failed.Unknown) > 0 {
		t.Errorf("got %v, want ErrFull for %v", err, want)
	}
	if released != len(payloads)-len(want) {
		t.Errorf("%d records were released at their gates, want %d", released, len(payloads)-len(want))
	}
}

func leaseAllOf(t *testing.T, queues []*queue.Queue) (n int) {
	t.Helper()
	for _, q := range queues {
		n += len(lease(t, q, queue.LeaseOptions{}).Payloads)
	}
	return n
}

// Equal ids must meet in one shard. A program that would scatter them is refused.
func TestPlacementByKeyIsKept(t *testing.T) {
	t.Parallel()
	c, name := servertest.Redis(t), servertest.Prefix(t)
	ctx := t.Context()
	shards := func(n int, by func([]byte) string) (*queue.Shards, error) {
		return queue.NewShards(ctx, c, name, n, by, queue.Config{Logger: quiet})
	}
	free, err := shards(3, nil)
	must(t, err)
	wantErr(t, free.PushKeyed(ctx, []string{"a"}, records(0, 1)), queue.ErrConfig)
	must(t, free.Push(ctx, records(0, 4)...))
	if _, err := shards(3, first); !errors.Is(err, queue.ErrConfig) || !strings.Contains(err.Error(), "4 records") {
		t.Errorf("a key for records that were pushed without: %v, want ErrConfig and their number", err)
	}
	for _, b := range leaseAll(t, free, queue.LeaseOptions{}) {
		_, err := free.Ack(ctx, b.ID)
		must(t, err)
	}
	keyed, err := shards(3, first)
	must(t, err)
	must(t, keyed.Push(ctx, []byte("a"), []byte("b")))
	blind, err := shards(3, nil) // a program that only reads, or a producer with a mistake
	must(t, err)
	wantErr(t, blind.Push(ctx, []byte("c")), queue.ErrConfig)
	must(t, blind.PushKeyed(ctx, []string{"a"}, [][]byte{[]byte("a")}))
	wantErr(t, blind.PushKeyed(ctx, []string{"a", "b"}, [][]byte{[]byte("a")}), queue.ErrConfig)
	if st, err := blind.Stats(ctx); err != nil || st.Ready != 3 {
		t.Errorf("got %+v, %v, want 3 ready", st, err)
	}
	if _, err := shards(5, nil); !errors.As(err, new(*queue.ShardsError)) {
		t.Errorf("another number of shards: %v, want a ShardsError", err)
	}
	for _, b := range leaseAll(t, keyed, queue.LeaseOptions{}) {
		_, err := keyed.Ack(ctx, b.ID)
		must(t, err)
	}
	if blind, err = shards(5, nil); err != nil { // the number changes, the placement stays
		t.Fatal(err)
	}
	wantErr(t, blind.Push(ctx, []byte("c")), queue.ErrConfig)
}

// A delayed push goes to the shards of its keys. In a shard that fails it is all or nothing.
func TestShardsPushAt(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	s, err := queue.NewShards(ctx, c, servertest.Prefix(t), 3, first, queue.Config{Logger: quiet})
	must(t, err)
	var payloads [][]byte
	for i := range 30 {
		payloads = append(payloads, fmt.Appendf(nil, "%c%d", 'a'+i%15, i))
	}
	must(t, s.PushAt(ctx, time.Now().Add(time.Hour), payloads...))
	st, err := s.Stats(ctx)
	must(t, err)
	if st.Delayed != 30 || st.Ready != 0 {
		t.Errorf("got %+v, want 30 delayed", st)
	}
	must(t, s.PushAt(ctx, time.Unix(1, 0), payloads...)) // due
	got := 0
	for _, b := range leaseAll(t, s, queue.LeaseOptions{}) {
		for _, p := range b.Payloads {
			if want := s.Queues()[s.ShardOf(first(p))].Name(); b.Queue != want {
				t.Errorf("%s is in %s, want %s", p, b.Queue, want)
			}
			got++
		}
	}
	if got != 30 {
		t.Errorf("%d records are due, want 30", got)
	}
	bad := s.Queues()[1]
	must(t, c.Do(ctx, c.B().Del().Key("{"+bad.Name()+"}:queue:delayed").Build()).Error())
	must(t, c.Do(ctx, c.B().Set().Key("{"+bad.Name()+"}:queue:delayed").Value("spoilt").Build()).Error())
	var want []int
	for i, p := range payloads {
		if s.ShardOf(first(p)) == 1 {
			want = append(want, i)
		}
	}
	err = s.PushAt(ctx, time.Now().Add(time.Hour), payloads...)
	var failed *queue.ShardsPushError
	if !errors.As(err, &failed) || !strings.Contains(err.Error(), bad.Name()) || len(want) == 0 {
		t.Fatalf("got %v, want a ShardsPushError that names %s", err, bad.Name())
	}
	rest := slices.Concat(failed.Rest, failed.Unknown)
	slices.Sort(rest)
	if !slices.Equal(rest, want) {
		t.Errorf("not pushed: %v, want %v", rest, want)
	}
	wantErr(t, s.PushAt(ctx, time.Now()), queue.ErrEmptyPush)
}

// Repair mends every shard, and one that cannot be mended keeps no other one from it.
func TestShardsRepair(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	s, err := queue.NewShards(ctx, c, servertest.Prefix(t), 3, first, queue.Config{Logger: quiet})
	must(t, err)
	key := func(i int, k string) string { return "{" + s.Queues()[i].Name() + "}:queue:" + k }
	for _, b := range letters(t, s, 12) {
		must(t, c.Do(ctx, c.B().Zrem().Key("{"+b.Queue+"}:queue:leases").Member(b.ID).Build()).Error())
	}
	ledger := newLedger()
	ledger.err = errors.New("the ledger is away")
	half := key(1, "b:*")
	lists, err := c.Do(ctx, c.B().Keys().Pattern(half).Build()).AsStrSlice()
	must(t, err)
	must(t, c.Do(ctx, c.B().Del().Key(lists[0]).Build()).Error())
	reports, err := s.Repair(ctx, ledger.settle)
	if !errors.Is(err, ledger.err) || !strings.Contains(err.Error(), s.Queues()[1].Name()) {
		t.Errorf("got %v, want the error of the ledger for %s", err, s.Queues()[1].Name())
	}
	for _, i := range []int{0, 2} {
		if r := reports[i]; r.Resumed == 0 || r.After.Balanced() != nil {
			t.Errorf("%s: got %+v, want it mended", s.Queues()[i].Name(), r)
		}
	}
	ledger.err = nil
	reports, err = s.Repair(ctx, ledger.settle)
	must(t, err)
	if r := reports[1]; r.Lost != 1 || r.After.Balanced() != nil {
		t.Errorf("got %+v, want one record written off", r)
	}
	if n := len(leaseAll(t, s, queue.LeaseOptions{})); n != 11 {
		t.Errorf("%d batches came back, want 11", n)
	}
}
