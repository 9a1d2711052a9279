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
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

func TestPushByOthersIsEqual(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{})
		ctx := t.Context()
		must(t, q.Push(ctx, []byte("a")))
		must(t, c.Do(ctx, c.B().Lpush().Key("{"+q.Name()+"}:ready").Element("b", "", "\x00\xff").Build()).Error())
		must(t, q.Push(ctx, []byte("c")))
		wantPayloads(t, lease(t, q, queue.LeaseOptions{}), [][]byte{[]byte("a"), []byte("b"), {}, {0, 0xff}, []byte("c")})
	})
}

func TestBadPush(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q := open(t, c, queue.Config{Push: queue.PushConfig{MaxPayload: 10, Chunk: 1}})
		ctx := t.Context()
		wantErr(t, q.Push(ctx), queue.ErrEmptyPush)
		wantErr(t, q.PushAt(ctx, time.Now()), queue.ErrEmptyPush)
		big := [][]byte{[]byte("ok"), []byte("ok"), make([]byte, 11)}
		for _, err := range []error{q.Push(ctx, big...), q.PushAt(ctx, time.Now(), big...)} {
			wantErr(t, err, queue.ErrTooLarge)
			var e *queue.TooLargeError
			if !errors.As(err, &e) || e.Index != 2 || e.Size != 11 || e.Max != 10 {
				t.Fatalf("%v", err)
			}
		}
		if s := books(t, q); s.Depth() != 0 {
			t.Fatalf("half done: %+v", s)
		}
	})
}

func TestBadNamesAndConfig(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	for _, name := range []string{"", "a{b", "a}b", "a b", "a\nb", "a\x7fb", "a\xffb", strings.Repeat("x", 201)} {
		_, err := queue.New(t.Context(), c, name, queue.Config{})
		wantErr(t, err, queue.ErrConfig)
	}
	for _, x := range []struct {
		cfg  queue.Config
		want string
	}{
		{queue.Config{Push: queue.PushConfig{MaxPayload: -1}}, "queue: invalid configuration: Config.Push.MaxPayload is -1, must be 1 to 536870912"},
		{queue.Config{Push: queue.PushConfig{MaxDepth: -5}}, "Config.Push.MaxDepth is -5"},
		{queue.Config{Lease: queue.LeaseConfig{Records: -1}}, "Config.Lease.Records is -1, must be 1 to 100000"},
		{queue.Config{Lease: queue.LeaseConfig{Bytes: -1}}, "Config.Lease.Bytes"},
		{queue.Config{Lease: queue.LeaseConfig{Duration: -time.Second}}, "Config.Lease.Duration is -1s, must be 1ms to 720h0m0s"},
		{queue.Config{Lease: queue.LeaseConfig{MaxCrashes: -1}}, "Config.Lease.MaxCrashes"},
		{queue.Config{Eviction: 9}, "Config.Eviction is 9, must be 0 to 2"},
	} {
		_, err := queue.New(t.Context(), c, servertest.Prefix(t), x.cfg)
		wantErr(t, err, queue.ErrConfig)
		if !strings.Contains(err.Error(), x.want) {
			t.Errorf("%q does not say %q", err, x.want)
		}
	}
	q := open(t, c, queue.Config{})
	for _, o := range []queue.LeaseOptions{{Records: -1}, {Records: queue.MaxRecords + 1}, {Bytes: -1}, {Duration: -1}, {Linger: -1}, {Idle: -1}} {
		_, err := q.TryLease(t.Context(), o)
		wantErr(t, err, queue.ErrConfig)
		_, err = q.Lease(t.Context(), o)
		wantErr(t, err, queue.ErrConfig)
	}
	_, _, err := q.DeadLetters(t.Context(), "", 0)
	wantErr(t, err, queue.ErrConfig)
	_, _, err = q.DeadLetters(t.Context(), "junk", 1)
	wantErr(t, err, queue.ErrConfig)
}

func TestWrongKeyType(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx := t.Context()
		for _, key := range []string{"ready", "queue:stat", "queue:leases", "queue:redo", "queue:handed", "queue:open", "queue:delayed", "queue:dead", "queue:broken"} {
			name := servertest.Prefix(t)
			q := openAs(t, c, name, queue.Config{}) // opened before its key is spoiled
			full := "{" + name + "}:" + key
			if key != "ready" {
				must(t, q.Push(ctx, records(0, 3)...))
			}
			must(t, c.Do(ctx, c.B().Set().Key(full).Value("x").Build()).Error())
			_, err := queue.New(ctx, c, name, queue.Config{Logger: quiet})
			wantErr(t, err, queue.ErrWrongType)
			var e *queue.WrongTypeError
			if !errors.As(err, &e) || e.Key != full || e.Type != "string" {
				t.Fatalf("%v", err)
			}
			if key == "queue:dead" || key == "queue:handed" || key == "queue:broken" || key == "queue:delayed" {
				continue // a lease of fresh records does not need it
			}
			_, err = q.TryLease(ctx, queue.LeaseOptions{})
			wantErr(t, err, queue.ErrWrongType)
			must(t, c.Do(ctx, c.B().Del().Key(full).Build()).Error())
			if key != "ready" {
				wantPayloads(t, lease(t, q, queue.LeaseOptions{}), records(0, 3)) // nothing was half done
			}
		}
	})
}

// A set of a wrong type ends each script before it has taken a batch out of another set, so that
// everything goes on when the key is deleted.
func TestWrongKeyTypeMovesNoBatch(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx := t.Context()
		for _, set := range []string{"redo", "handed", "broken"} {
			q := open(t, c, quick)
			key := func(s string) string { return "{" + q.Name() + "}:queue:" + s }
			must(t, q.Push(ctx, records(0, 4)...))
			sound := lease(t, q, queue.LeaseOptions{Records: 2, Duration: time.Hour})
			damaged := lease(t, q, queue.LeaseOptions{Records: 2, Duration: time.Hour})
			must(t, c.Do(ctx, c.B().Set().Key(key(set)).Value("x").Build()).Error())
			expired := sound
			if set != "redo" { // those two are needed only for a batch that is set aside
				expired = damaged
				must(t, c.Do(ctx, c.B().Hdel().Key(key("m:"+damaged.ID)).Field("st").Build()).Error())
				_, err := q.Ack(ctx, sound.ID, damaged.ID)
				wantErr(t, err, queue.ErrWrongType)
			}
			must(t, c.Do(ctx, c.B().Zadd().Key(key("leases")).Xx().ScoreMember().ScoreMember(1, expired.ID).Build()).Error())
			_, err := q.TryLease(ctx, queue.LeaseOptions{})
			wantErr(t, err, queue.ErrWrongType)
			if err := c.Do(ctx, c.B().Zscore().Key(key("leases")).Member(expired.ID).Build()).Error(); err != nil {
				t.Errorf("%s: the batch has left the leases: %v", set, err)
			}
			must(t, c.Do(ctx, c.B().Del().Key(key(set)).Build()).Error())
			a, err := q.Audit(ctx)
			must(t, err)
			wantDifferences := 0
			if set != "redo" {
				wantDifferences = 1 // the field that was deleted
			}
			if len(a.Differences) != wantDifferences {
				t.Errorf("%s: got %q, want %d differences", set, a.Differences, wantDifferences)
			}
		}
	})
}

func TestBoundedPushIsAHardBound(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		const bound = 100
		q := open(t, c, queue.Config{Push: queue.PushConfig{MaxDepth: bound}})
		ctx := t.Context()
		var accepted atomic.Int64
		var wg sync.WaitGroup
		stop := make(chan struct{})
		wg.Go(func() {
			var held []*queue.Batch
			for {
				s, err := q.Stats(ctx)
				if err != nil || s.Depth() > bound {
					t.Errorf("depth %d over the bound: %v", s.Depth(), err)
				}
				if b, err := q.TryLease(ctx, queue.LeaseOptions{Records: 10}); err == nil {
					held = append(held, b)
				}
				if len(held) > 3 {
					if _, err := q.Ack(ctx, held[0].ID); err != nil {
						t.Error(err)
					}
					held = held[1:]
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		var producers sync.WaitGroup
		for p := range 16 {
			producers.Go(func() {
				for i := range 30 {
					n := 1 + (i+p)%7
					err := q.Push(ctx, records(0, n)...)
					switch {
					case err == nil:
						accepted.Add(int64(n))
					case !errors.Is(err, queue.ErrFull):
						t.Error(err)
					}
				}
			})
		}
		producers.Wait()
		close(stop)
		wg.Wait()
		s := books(t, q)
		if s.Taken+s.Ready != accepted.Load() {
			t.Fatalf("accepted %d, in the books %d: a push was refused in part", accepted.Load(), s.Taken+s.Ready)
		}
		err := q.Push(ctx, make([][]byte, bound+1)...)
		var e *queue.FullError
		if !errors.As(err, &e) || e.Max != bound || e.Records != bound+1 || e.Depth != s.Depth() {
			t.Fatalf("%v", err)
		}
		wantErr(t, q.PushAt(ctx, time.Now().Add(time.Hour), make([][]byte, bound+1)...), queue.ErrFull)
	})
}

func TestDurablePush(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		q, err := queue.New(t.Context(), c, servertest.Prefix(t), queue.Config{Push: queue.PushConfig{Durable: true}, Logger: quiet})
		if err != nil { // no WAITAOF, or no AOF
			wantErr(t, err, queue.ErrNoAOF)
			t.Log(err)
			return
		}
		must(t, q.Push(t.Context(), records(0, 5)...))
		wantPayloads(t, lease(t, q, queue.LeaseOptions{}), records(0, 5))
	})
}

func TestDurablePushOnAServerThatCan(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t, "--appendonly", "yes", "--appendfsync", "everysec")
	c := s.Client(t)
	if err := c.Do(t.Context(), c.B().Waitaof().Numlocal(0).Numreplicas(0).Timeout(1).Build()).Error(); err != nil {
		// Redis 7.0 has no WAITAOF: then New must say so, and that is all there is to see here.
		_, err := queue.New(t.Context(), c, servertest.Prefix(t), queue.Config{Push: queue.PushConfig{Durable: true}, Logger: quiet})
		wantErr(t, err, queue.ErrNoAOF)
		return
	}
	q := open(t, c, queue.Config{Push: queue.PushConfig{Durable: true, Chunk: 2}})
	bounded := openAs(t, c, q.Name(), queue.Config{Push: queue.PushConfig{Durable: true, MaxDepth: 7}})
	must(t, q.Push(t.Context(), records(0, 5)...))
	must(t, bounded.Push(t.Context(), records(5, 7)...))
	wantErr(t, bounded.Push(t.Context(), records(7, 8)...), queue.ErrFull)
	must(t, s.Kill())
	must(t, s.Start())
	wantPayloads(t, lease(t, q, queue.LeaseOptions{}), records(0, 7))
	// A disk that is never asked: the records are in the queue, and not confirmed on disk.
	slow := openAs(t, c, q.Name(), queue.Config{Push: queue.PushConfig{Durable: true, DurableTimeout: 20 * time.Millisecond}})
	must(t, c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("appendfsync", "no").Build()).Error())
	err := slow.Push(t.Context(), records(7, 9)...)
	var pe *queue.PushError
	if !errors.As(err, &pe) || !errors.Is(err, queue.ErrNotDurable) || pe.Pushed != 2 || pe.Unknown != 0 {
		t.Fatalf("%v", err)
	}
}

// refuseFirst is a client whose server refuses the first of several commands.
type refuseFirst struct{ rueidis.Client }

func (c refuseFirst) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	if len(cmds) > 1 && cmds[0].Commands()[0] == "LPUSH" {
		cmds[0] = c.B().Arbitrary("LPUSH").Keys(cmds[0].Commands()[1]).Build() // with nothing
	}
	return c.Client.DoMulti(ctx, cmds...)
}

// The caller knows the records by their places: what follows Pushed + Unknown is certainly not in
// the queue.
func TestALaterChunkThanTheRefusedOne(t *testing.T) {
	t.Parallel()
	q := open(t, refuseFirst{servertest.Redis(t)}, queue.Config{Push: queue.PushConfig{Chunk: 100}})
	var pe *queue.PushError
	if err := q.Push(t.Context(), records(0, 110)...); !errors.As(err, &pe) || pe.Pushed != 0 || pe.Unknown != 110 {
		t.Errorf("%v", err)
	}
	if s := books(t, q); s.Ready != 10 {
		t.Errorf("%+v", s)
	}
}

func TestEvictionIsNoticed(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t, "--maxmemory-policy", "allkeys-lru")
	c := s.Client(t)
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	_, err := queue.New(t.Context(), c, "q", queue.Config{Logger: log})
	must(t, err)
	if !strings.Contains(out.String(), "allkeys-lru") {
		t.Errorf("no warning: %q", out.String())
	}
	_, err = queue.New(t.Context(), c, "q", queue.Config{Eviction: queue.EvictionRefuse})
	wantErr(t, err, queue.ErrEviction)
	out.Reset()
	_, err = queue.New(t.Context(), c, "q", queue.Config{Logger: log, Eviction: queue.EvictionIgnore})
	must(t, err)
	// A server that does not report its policy passes the check.
	must(t, c.Do(t.Context(), c.B().Arbitrary("ACL", "SETUSER", "default", "-config", "-info").Build()).Error())
	_, err = queue.New(t.Context(), c, "q", queue.Config{Logger: log, Eviction: queue.EvictionRefuse})
	must(t, err)
	if out.Len() > 0 {
		t.Errorf("warned: %s", out.String())
	}
}

// A Redis at maxmemory refuses producers and lets consumers drain it, also one that waits, and one
// that redelivers, splits and buries.
func TestFullRedisDrains(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t, "--maxmemory-policy", "noeviction")
	c := s.Client(t)
	q := open(t, c, quick)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const pushed = 200
	for i := range pushed {
		must(t, q.Push(ctx, bytes.Repeat([]byte{byte(i)}, 100_000)))
	}
	must(t, c.Do(ctx, c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "12mb").Build()).Error())
	wantErr(t, q.Push(ctx, []byte("one more")), queue.ErrMemory)
	bounded := openAs(t, c, q.Name(), queue.Config{Push: queue.PushConfig{MaxDepth: 1000}})
	wantErr(t, bounded.Push(ctx, []byte("one more")), queue.ErrMemory)
	full := func() bool {
		return strings.Contains(fmt.Sprint(c.Do(ctx, c.B().Set().Key("x").Value("y").Build()).Error()), "OOM")
	}
	if !full() {
		t.Fatal("not full")
	}
	wantErr(t, q.PushAt(ctx, time.Now(), make([]byte, 100)), queue.ErrMemory)
	l := newLedger()
	var bad string
	got := 0
	for i := 0; ; i++ {
		b, err := leaseOrEmpty(t, q, queue.LeaseOptions{Records: 9, Settle: l.settle})
		if errors.Is(err, queue.ErrEmpty) {
			break
		}
		must(t, err)
		if i == 0 {
			if !full() {
				t.Fatal("a lease has made room")
			}
			bad = string(b.Payloads[4])
		}
		if slices.Contains(texts(b.Payloads), bad) && full() {
			must(t, q.Release(ctx, b, queue.ReleaseOptions{Failure: "bad"}))
			continue
		}
		if b.Crashes > 0 {
			t.Fatalf("%+v", b)
		}
		must(t, q.Extend(ctx, b, time.Minute))
		must(t, q.Handoff(ctx, b))
		n, err := q.Ack(ctx, b.ID)
		if n != 1 || err != nil {
			t.Fatal(n, err)
		}
		got += len(b.Payloads)
	}
	st := books(t, q)
	if got+int(st.Dead) != pushed || st.Splits == 0 {
		t.Fatalf("pushed %d, got %d: %+v", pushed, got, st)
	}
	must(t, q.Push(ctx, []byte("room again")))
}

// The peek is refused by a full Redis; a consumer that waits there for what comes back looks by a
// timer instead.
func TestWaitingAtAFullRedis(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	c := s.Client(t)
	q := open(t, c, quick)
	ctx := t.Context()
	must(t, q.Push(ctx, []byte("a")))
	held := lease(t, q, queue.LeaseOptions{})
	must(t, c.Do(ctx, c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error())
	ch := waiting(ctx, q, queue.LeaseOptions{})
	must(t, q.Release(ctx, held, queue.ReleaseOptions{}))
	l := <-ch
	must(t, l.err)
	if l.b.ID != held.ID {
		t.Fatalf("%+v", l.b)
	}
}
