package queue_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// held is what one worker of the model believes to hold. live: the model knows that it does.
type held struct {
	b    *queue.Batch
	live bool
}

// target is what a model drives: a queue, or one that is spread over shards.
type target interface {
	Push(ctx context.Context, payloads ...[]byte) error
	PushAt(ctx context.Context, at time.Time, payloads ...[]byte) error
	TryLease(ctx context.Context, o queue.LeaseOptions) (*queue.Batch, error)
	Extend(ctx context.Context, b *queue.Batch, d time.Duration) error
	Handoff(ctx context.Context, b *queue.Batch) error
	Release(ctx context.Context, b *queue.Batch, o queue.ReleaseOptions) error
	Settle(ctx context.Context, b *queue.Batch, x queue.Resolution) error
	Ack(ctx context.Context, ids ...string) (int, error)
	Reconcile(ctx context.Context, known queue.FatesFunc, settle queue.SettleFunc) (queue.ReconcileResult, error)
	DeadLetters(ctx context.Context, cursor string, n int) ([]queue.DeadLetter, string, error)
	Requeue(ctx context.Context, ids ...string) (int, error)
	Discard(ctx context.Context, ids ...string) (int, error)
}

// model drives a queue and knows where each record is: in the ledger once, in the dead-letter list,
// dropped, or still in the queue.
type model struct {
	q   target
	all map[string]*queue.Queue // every queue or shard that was ever used, by name
	c   rueidis.Client
	l   *ledger
	ctx context.Context

	pushed  int
	held    []*held // live leases, and stale ones that a sleeping worker will use
	handed  map[string]*queue.Batch
	dead    map[string]bool
	dropped map[string]bool
	spoiled map[string]bool // records that a worker refused at least once: only these may die
}

func (m *model) check(t *rapid.T) {
	pushed := int64(0)
	for _, name := range sortedKeys(m.all) {
		s, err := m.all[name].Stats(m.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.Imbalance() != 0 {
			t.Fatalf("books of %s: %+v", name, s)
		}
		pushed += s.Ready + s.Delayed + s.Taken
	}
	if pushed != int64(m.pushed) {
		t.Fatalf("books: pushed %d, they have %d", m.pushed, pushed)
	}
	for r, n := range m.l.times {
		if n != 1 {
			t.Fatalf("record %s was promoted %d times", r, n)
		}
		if m.dead[r] {
			t.Fatalf("record %s was promoted and is dead", r)
		}
	}
}

func (m *model) pick(t *rapid.T, want func(*held) bool) *held {
	var of []*held
	for _, h := range m.held {
		if want(h) {
			of = append(of, h)
		}
	}
	if len(of) == 0 {
		none(t)
	}
	return of[rapid.IntRange(0, len(of)-1).Draw(t, "lease")]
}

// none ends a step that does not apply; rapid draws another. It skips the step, never the test.
func none(rt *rapid.T) { rt.Skip("none") }

func (m *model) any(t *rapid.T) *held  { return m.pick(t, func(*held) bool { return true }) }
func (m *model) live(t *rapid.T) *held { return m.pick(t, func(h *held) bool { return h.live }) }

// fenced checks the answer of something that only the holder of a live lease may do.
func (m *model) fenced(t *rapid.T, h *held, what string, err error) {
	switch {
	case h.live && err != nil:
		t.Fatalf("%s by the holder: %v", what, err)
	case !h.live && !errors.Is(err, queue.ErrLeaseLost):
		t.Fatalf("%s with a lease that is another's by now: %v", what, err)
	}
}

// due makes a member of a sorted set of a queue due: the time that has passed, without waiting for
// it.
func (m *model) due(t *rapid.T, name, set, id string) {
	err := m.c.Do(m.ctx, m.c.B().Zadd().Key("{"+name+"}:queue:"+set).Xx().ScoreMember().ScoreMember(1, id).Build()).Error()
	if err != nil {
		t.Fatal(err)
	}
}

// allDue makes all members of a sorted set of every queue due.
func (m *model) allDue(t *rapid.T, set string) {
	for _, name := range sortedKeys(m.all) {
		ids, err := m.c.Do(m.ctx, m.c.B().Zrange().Key("{"+name+"}:queue:"+set).Min("0").Max("-1").Build()).AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			m.due(t, name, set, id)
		}
	}
}

func (m *model) lease(t *rapid.T, o queue.LeaseOptions) *queue.Batch { return m.leaseFrom(t, m.q, o) }

func (m *model) leaseFrom(t *rapid.T, q target, o queue.LeaseOptions) *queue.Batch {
	o.Settle = func(ctx context.Context, b *queue.Batch) (queue.Resolution, error) {
		s, err := m.l.settle(ctx, b)
		if err == nil && !s.Promoted && len(b.Payloads) == 1 {
			if !m.spoiled[string(b.Payloads[0])] {
				t.Fatalf("healthy record %s is buried: %+v", b.Payloads[0], b)
			}
			m.dead[string(b.Payloads[0])] = true
		}
		return s, err
	}
	m.allDue(t, "redo") // the time that a released batch has to wait has passed
	b, err := q.TryLease(m.ctx, o)
	if errors.Is(err, queue.ErrEmpty) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range m.held {
		if !h.live {
			continue
		}
		for _, p := range b.Payloads {
			if slices.Contains(texts(h.b.Payloads), string(p)) {
				t.Fatalf("record %s is in two live leases: %+v and %+v", p, h.b, b)
			}
		}
	}
	if _, ok := m.handed[b.ID]; ok {
		t.Fatalf("batch %s was handed off and is delivered", b.ID)
	}
	m.held = append(m.held, &held{b, true})
	return b
}

// finish is what the durable side does with a batch: it promotes it if it can, and then settles it
// as the ledger has it.
func (m *model) finish(t *rapid.T, b *queue.Batch) {
	var err error
	if m.l.promote(b) == queue.FatePromoted {
		_, err = m.q.Ack(m.ctx, b.ID)
	} else {
		err = m.q.Settle(m.ctx, b, queue.Resolution{})
	}
	if err != nil {
		t.Fatal(err)
	}
	delete(m.handed, b.ID)
	for _, h := range m.held {
		if h.b.ID == b.ID {
			h.live = false
		}
	}
}

func (m *model) steps() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"": m.check,
		"push": func(t *rapid.T) {
			n := rapid.IntRange(1, 12).Draw(t, "n")
			if err := m.q.Push(m.ctx, records(m.pushed, m.pushed+n)...); err != nil {
				t.Fatal(err)
			}
			m.pushed += n
		},
		"pushAt": func(t *rapid.T) {
			n := rapid.IntRange(1, 3).Draw(t, "n")
			at := time.Unix(rapid.SampledFrom([]int64{0, 1 << 40}).Draw(t, "at"), 0)
			if err := m.q.PushAt(m.ctx, at, records(m.pushed, m.pushed+n)...); err != nil {
				t.Fatal(err)
			}
			m.pushed += n
		},
		"lease": func(t *rapid.T) {
			m.lease(t, queue.LeaseOptions{Records: rapid.IntRange(1, 9).Draw(t, "records"), Bytes: rapid.SampledFrom([]int{4, 16, 1000}).Draw(t, "bytes"), Duration: time.Hour})
		},
		"extend": func(t *rapid.T) {
			h := m.any(t)
			m.fenced(t, h, "extend", m.q.Extend(m.ctx, h.b, time.Hour))
		},
		"handoff": func(t *rapid.T) {
			h := m.any(t)
			m.fenced(t, h, "handoff", m.q.Handoff(m.ctx, h.b))
			if h.live {
				m.handed[h.b.ID] = h.b
				h.live = false
			}
		},
		"release": func(t *rapid.T) {
			h := m.any(t)
			o := queue.ReleaseOptions{Failure: rapid.SampledFrom([]string{"", "bad"}).Draw(t, "failure")}
			m.fenced(t, h, "release", m.q.Release(m.ctx, h.b, o))
			if h.live && o.Failure != "" {
				m.spoil(h.b)
			}
			h.live = false
		},
		"expire": func(t *rapid.T) {
			h := m.live(t)
			m.due(t, h.b.Queue, "leases", h.b.ID)
			m.spoil(h.b)
			h.live = false
			m.leaseFrom(t, m.all[h.b.Queue], queue.LeaseOptions{Duration: time.Hour}) // this one is leased again, unless it backs off or was settled
		},
		"forget": func(t *rapid.T) { // a sleeping worker does not wake up
			h := m.pick(t, func(h *held) bool { return !h.live })
			m.held = slices.DeleteFunc(m.held, func(x *held) bool { return x == h })
		},
		"finish": func(t *rapid.T) { m.finish(t, m.any(t).b) }, // also with a lease lost long ago
		"promoteHanded": func(t *rapid.T) {
			for _, id := range sortedKeys(m.handed) {
				m.finish(t, m.handed[id])
				return
			}
			none(t)
		},
		"ackLost": func(t *rapid.T) { m.l.promote(m.any(t).b) },
		"reconcile": func(t *rapid.T) {
			staged := rapid.Bool().Draw(t, "staged")
			clear(m.l.regs)
			for id := range m.handed {
				m.l.regs[id] = staged
			}
			if _, err := m.q.Reconcile(m.ctx, m.l.known, m.l.settle); err != nil {
				t.Fatal(err)
			}
			for id := range m.handed {
				if !staged || m.l.kind[id] != queue.FateUnknown {
					delete(m.handed, id)
				}
			}
		},
		"requeue": func(t *rapid.T) {
			dead, _, err := m.q.DeadLetters(m.ctx, "", 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range dead {
				if !m.dead[string(d.Payload)] {
					t.Fatalf("%s is in the dead-letter list, and no step buried it", d.Payload)
				}
				delete(m.dead, string(d.Payload))
				delete(m.spoiled, string(d.Payload))
				if n, err := m.q.Requeue(m.ctx, d.ID); n != 1 || err != nil {
					t.Fatal(n, err)
				}
			}
		},
		"drop": func(t *rapid.T) {
			dead, _, err := m.q.DeadLetters(m.ctx, "", 1)
			if err != nil || len(dead) == 0 {
				none(t)
			}
			if n, err := m.q.Discard(m.ctx, dead[0].ID); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			delete(m.dead, string(dead[0].Payload))
			m.dropped[string(dead[0].Payload)] = true
		},
	}
}

func (m *model) spoil(b *queue.Batch) {
	for _, p := range b.Payloads {
		m.spoiled[string(p)] = true
	}
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// drain lets all leases expire, and finishes every batch. Then every record must be where it
// belongs.
func (m *model) drain(t *rapid.T) {
	m.allDue(t, "delayed")
	for _, h := range m.held {
		if h.live {
			m.due(t, h.b.Queue, "leases", h.b.ID)
			m.spoil(h.b)
			h.live = false
		}
	}
	for _, id := range sortedKeys(m.handed) {
		m.finish(t, m.handed[id])
	}
	for b := m.lease(t, queue.LeaseOptions{Duration: time.Hour}); b != nil; b = m.lease(t, queue.LeaseOptions{Duration: time.Hour}) {
		m.finish(t, b)
	}
	m.check(t)
	dead := int64(0)
	for _, name := range sortedKeys(m.all) {
		a, err := m.all[name].Audit(m.ctx)
		if err != nil || !a.Quiet || len(a.Differences) > 0 || a.Records != 0 || a.Stats.Ready != 0 {
			t.Fatalf("audit of %s: %+v %v", name, a, err)
		}
		dead += a.Dead
	}
	for i := range m.pushed {
		r := fmt.Sprint(i)
		n := m.l.times[r]
		if m.dead[r] {
			n++
		}
		if m.dropped[r] {
			n++
		}
		if n != 1 {
			t.Fatalf("record %s ended %d times: promoted %d, dead %v, dropped %v", r, n, m.l.times[r], m.dead[r], m.dropped[r])
		}
	}
	if int(dead) != len(m.dead) {
		t.Fatalf("%d dead, want %d", dead, len(m.dead))
	}
}

// A random sequence of what workers, promoters, time and an operator do loses no record, delivers
// none to two live leases, buries no healthy one, and promotes each once.
func TestSequences(t *testing.T) {
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		checks := 60
		if strings.HasSuffix(t.Name(), "/shared") {
			checks = 250
		}
		setChecks(t, checks)
		name, n := servertest.Prefix(t), 0
		cfg := quick
		cfg.Logger = quiet
		rapid.Check(t, func(rt *rapid.T) {
			n++
			q, err := queue.New(t.Context(), c, fmt.Sprintf("%s-%d", name, n), cfg)
			if err != nil {
				rt.Fatal(err)
			}
			m := newModel(t, c, q, q)
			rt.Repeat(m.steps())
			m.drain(rt)
		})
		t.Logf("%d sequences", n)
	})
}

func newModel(t *testing.T, c rueidis.Client, q target, all ...*queue.Queue) *model {
	m := &model{
		q: q, all: map[string]*queue.Queue{}, c: c, l: newLedger(), ctx: t.Context(), handed: map[string]*queue.Batch{},
		dead: map[string]bool{}, dropped: map[string]bool{}, spoiled: map[string]bool{},
	}
	for _, x := range all {
		m.all[x.Name()] = x
	}
	return m
}

// setChecks sets how many sequences rapid tries, unless a flag does.
func setChecks(t *testing.T, checks int) {
	checks = servertest.Rounds(checks)
	if testing.Short() {
		checks /= 10
	}
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		must(t, f.Value.Set(fmt.Sprint(checks)))
		t.Cleanup(func() { _ = f.Value.Set(f.DefValue) })
	}
	must(t, flag.Set("rapid.nofailfile", "true"))
	must(t, flag.Set("rapid.shrinktime", "10s"))
}
