package queue_test

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// damaged is a queue with a batch in each state, before something is done to its keys.
type damaged struct {
	q                        *queue.Queue
	key                      func(string) string // {name}:queue: + its argument
	leased, released, handed *queue.Batch
	dead, delayed            string
}

func newDamaged(t *testing.T, c rueidis.Client) damaged {
	t.Helper()
	cfg := quick
	cfg.Lease.MaxCrashes = 100
	q := open(t, c, cfg)
	ctx := t.Context()
	d := damaged{q: q, key: func(s string) string { return "{" + q.Name() + "}:queue:" + s }}
	must(t, q.Push(ctx, records(0, 13)...))
	one := lease(t, q, queue.LeaseOptions{Records: 1})
	must(t, q.Settle(ctx, one, queue.Resolution{}))
	d.dead = one.ID
	d.leased = lease(t, q, queue.LeaseOptions{Records: 4, Duration: time.Hour})
	d.handed = lease(t, q, queue.LeaseOptions{Records: 4})
	must(t, q.Handoff(ctx, d.handed))
	d.released = lease(t, q, queue.LeaseOptions{Records: 4, Duration: time.Hour})
	must(t, q.Release(ctx, d.released, queue.ReleaseOptions{}))
	must(t, q.PushAt(ctx, time.Now().Add(time.Hour), records(13, 16)...))
	delayed, err := c.Do(ctx, c.B().Zrange().Key(d.key("delayed")).Min("0").Max("-1").Build()).AsStrSlice()
	must(t, err)
	d.delayed = delayed[0]
	if a, err := q.Audit(ctx); err != nil || a.Balanced() != nil {
		t.Fatalf("before the damage: %v, %v", a.Balanced(), err)
	}
	return d
}

// longText is a text that no log should print whole.
var longText = strings.Repeat("long\x00\xff\n", 20_000)

// damages are what a person or another program may do to keys.
var damages = map[string]func(d damaged) []string{
	"the list of a leased batch is deleted":    func(d damaged) []string { return []string{"DEL", d.key("b:" + d.leased.ID)} },
	"the list of a released batch is deleted":  func(d damaged) []string { return []string{"DEL", d.key("b:" + d.released.ID)} },
	"the list of a handed-off one is deleted":  func(d damaged) []string { return []string{"DEL", d.key("b:" + d.handed.ID)} },
	"the meta of a leased batch is deleted":    func(d damaged) []string { return []string{"DEL", d.key("m:" + d.leased.ID)} },
	"the meta of a released batch is deleted":  func(d damaged) []string { return []string{"DEL", d.key("m:" + d.released.ID)} },
	"the meta of a handed-off one is deleted":  func(d damaged) []string { return []string{"DEL", d.key("m:" + d.handed.ID)} },
	"half a batch is gone":                     func(d damaged) []string { return []string{"LTRIM", d.key("b:" + d.released.ID), "0", "1"} },
	"a batch has a record more":                func(d damaged) []string { return []string{"LPUSH", d.key("b:" + d.leased.ID), "foreign"} },
	"a list is a string":                       func(d damaged) []string { return []string{"SET", d.key("b:" + d.leased.ID), "x"} },
	"a meta hash is a string":                  func(d damaged) []string { return []string{"SET", d.key("m:" + d.leased.ID), "x"} },
	"a meta hash of a released one is a list":  func(d damaged) []string { return []string{"SET", d.key("m:" + d.released.ID), "x"} },
	"a batch is missing in the leases":         func(d damaged) []string { return []string{"ZREM", d.key("leases"), d.leased.ID} },
	"a batch is missing among the handed off":  func(d damaged) []string { return []string{"ZREM", d.key("handed"), d.handed.ID} },
	"the leases are deleted":                   func(d damaged) []string { return []string{"DEL", d.key("leases")} },
	"the set for redelivery is deleted":        func(d damaged) []string { return []string{"DEL", d.key("redo")} },
	"the set of open batches is deleted":       func(d damaged) []string { return []string{"DEL", d.key("open")} },
	"the handed-off set is deleted":            func(d damaged) []string { return []string{"DEL", d.key("handed")} },
	"the books are deleted":                    func(d damaged) []string { return []string{"DEL", d.key("stat")} },
	"a counter is off":                         func(d damaged) []string { return []string{"HINCRBY", d.key("stat"), "inflight", "7"} },
	"the hash of a dead letter is deleted":     func(d damaged) []string { return []string{"DEL", d.key("d:" + d.dead)} },
	"a dead letter is a string":                func(d damaged) []string { return []string{"SET", d.key("d:" + d.dead), "x"} },
	"the payload of a dead letter is deleted":  func(d damaged) []string { return []string{"HDEL", d.key("d:" + d.dead), "p"} },
	"the list of a delayed push is deleted":    func(d damaged) []string { return []string{"DEL", d.key("l:" + d.delayed)} },
	"the list of a delayed push is a string":   func(d damaged) []string { return []string{"SET", d.key("l:" + d.delayed), "x"} },
	"a part of a delayed push is gone":         func(d damaged) []string { return []string{"RPOP", d.key("l:" + d.delayed)} },
	"the dead-letter list is deleted":          func(d damaged) []string { return []string{"DEL", d.key("dead")} },
	"the set of delayed pushes is deleted":     func(d damaged) []string { return []string{"DEL", d.key("delayed")} },
	"the leases are a string":                  func(d damaged) []string { return []string{"SET", d.key("leases"), "x"} },
	"the set of open batches is a string":      func(d damaged) []string { return []string{"SET", d.key("open"), "x"} },
	"the books are a string":                   func(d damaged) []string { return []string{"SET", d.key("stat"), "x"} },
	"a batch that never was is in the leases":  func(d damaged) []string { return []string{"ZADD", d.key("leases"), "1", "ghost"} },
	"a batch that never was waits":             func(d damaged) []string { return []string{"ZADD", d.key("redo"), "1", "ghost"} },
	"a list that belongs to nothing":           func(d damaged) []string { return []string{"RPUSH", d.key("b:ghost"), "a", "b"} },
	"a delayed list that belongs to nothing":   func(d damaged) []string { return []string{"RPUSH", d.key("l:ghost"), "a", "b"} },
	"a delayed push whose list is not there":   func(d damaged) []string { return []string{"ZADD", d.key("delayed"), "9e15", "ghost"} },
	"the list of a batch expires":              func(d damaged) []string { return []string{"PEXPIRE", d.key("b:" + d.leased.ID), "8640000000"} },
	"the meta of a batch expires":              func(d damaged) []string { return []string{"PEXPIRE", d.key("m:" + d.handed.ID), "8640000000"} },
	"the books expire":                         func(d damaged) []string { return []string{"PEXPIRE", d.key("stat"), "8640000000"} },
	"the leases expire":                        func(d damaged) []string { return []string{"PEXPIRE", d.key("leases"), "8640000000"} },
	"a dead letter expires":                    func(d damaged) []string { return []string{"PEXPIRE", d.key("d:" + d.dead), "8640000000"} },
	"a delayed push expires":                   func(d damaged) []string { return []string{"PEXPIRE", d.key("l:" + d.delayed), "8640000000"} },
	"the positions of sources are a string":    func(d damaged) []string { return []string{"SET", d.key("positions"), "x"} },
	"a lease ends in many years":               func(d damaged) []string { return []string{"ZADD", d.key("leases"), "4e12", d.leased.ID} },
	"a delay ends in many years":               func(d damaged) []string { return []string{"ZADD", d.key("redo"), "4e12", d.released.ID} },
	"a batch will be handed off in many years": func(d damaged) []string { return []string{"ZADD", d.key("handed"), "4e12", d.handed.ID} },
	"a batch will be sealed in many years":     func(d damaged) []string { return []string{"ZADD", d.key("open"), "4e12", d.handed.ID} },
	"a delayed push is due at no time":         func(d damaged) []string { return []string{"ZADD", d.key("delayed"), "inf", d.delayed} },
	"a dead letter has a negative place":       func(d damaged) []string { return []string{"HSET", d.key("d:" + d.dead), "off", "-1"} },
	"a dead letter died before 1970":           func(d damaged) []string { return []string{"HSET", d.key("d:" + d.dead), "first", "-1"} },
	"a batch was sealed before 1970":           func(d damaged) []string { return []string{"HSET", d.key("m:" + d.handed.ID), "first", "-1"} },
	"a batch has a negative counter":           func(d damaged) []string { return []string{"HSET", d.key("m:" + d.released.ID), "fails", "-1"} },
	"the state of a batch is a long text":      func(d damaged) []string { return []string{"HSET", d.key("m:" + d.leased.ID), "st", longText} },
	"a batch that never was has a long name":   func(d damaged) []string { return []string{"ZADD", d.key("redo"), "1", longText} },
	"a letter that never was has a long name":  func(d damaged) []string { return []string{"ZADD", d.key("dead"), "1", longText} },
	"a delayed push has a long name":           func(d damaged) []string { return []string{"ZADD", d.key("delayed"), "9e15", longText} },
	"a foreign key has a long name":            func(d damaged) []string { return []string{"SET", d.key(longText), "x"} },
	"a batch without an id is handed off":      func(d damaged) []string { return []string{"ZADD", d.key("handed"), "1", "ghost"} },
	"a foreign hash is handed off": func(d damaged) []string {
		return []string{"EVAL", "redis.call('HSET', KEYS[1], 'att', 1) return redis.call('ZADD', KEYS[2], 1, 'ghost')", "2", d.key("m:ghost"), d.key("handed")}
	},
	"a batch without a root":           func(d damaged) []string { return []string{"HSET", d.key("m:" + d.released.ID), "root", ""} },
	"the root of a batch is no id":     func(d damaged) []string { return []string{"HSET", d.key("m:" + d.handed.ID), "root", "x"} },
	"a place that no ledger stores":    func(d damaged) []string { return []string{"HSET", d.key("m:" + d.released.ID), "off", "4000000000"} },
	"a batch of too many records":      func(d damaged) []string { return []string{"HSET", d.key("m:" + d.leased.ID), "n", "9007199254740991"} },
	"a batch of fewer than no records": func(d damaged) []string { return []string{"HSET", d.key("m:" + d.leased.ID), "n", "-7"} },
	"a batch was sealed in thousands of years": func(d damaged) []string {
		return []string{"HINCRBY", d.key("m:" + d.released.ID), "sealed", "1000000000000000"}
	},
	"the root of a dead letter is no id":  func(d damaged) []string { return []string{"HSET", d.key("d:" + d.dead), "root", "x"} },
	"a letter dies in thousands of years": func(d damaged) []string { return []string{"HSET", d.key("d:" + d.dead), "died", "9007199254740991"} },
	"a letter is listed at no time":       func(d damaged) []string { return []string{"ZADD", d.key("dead"), "+inf", d.dead} },
	"a letter is listed before all time":  func(d damaged) []string { return []string{"ZADD", d.key("dead"), "-1e308", d.dead} },
	"a foreign hash among the letters":    func(d damaged) []string { return []string{"HSET", d.key("d:ghost"), "x", "y"} },
	"a foreign hash among the batches":    func(d damaged) []string { return []string{"HSET", d.key("m:ghost"), "x", "y"} },
	"a foreign string among the batches":  func(d damaged) []string { return []string{"SET", d.key("m:ghost"), "x"} },
	"a key that belongs to nothing":       func(d damaged) []string { return []string{"SET", d.key("foreign"), "x"} },
	"the key that must not exist":         func(d damaged) []string { return []string{"SET", d.key("never"), "x"} },
	"a list that is pushed for days": func(d damaged) []string {
		return []string{"EVAL", "redis.call('RPUSH', KEYS[1], 'a') return redis.call('PEXPIRE', KEYS[1], 86400000)", "1", d.key("l:ghost")}
	},
	"a delayed push is due and without a list": func(d damaged) []string { return []string{"ZADD", d.key("delayed"), "1", "ghost"} },
}

// Whatever happens to the keys: Audit names it, no batch is delivered without end or in part, and
// after Repair the books balance, and everything that is left can be taken.
func TestDamageIsNamedAndMended(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for what, damage := range damages {
			d := newDamaged(t, c)
			q, ctx := d.q, t.Context()
			cmd := damage(d)
			must(t, c.Do(ctx, c.B().Arbitrary(cmd...).Build()).Error())
			a, err := q.Audit(ctx)
			var wrong *queue.WrongTypeError
			if err == nil && a.Balanced() == nil || err != nil && !errors.As(err, &wrong) {
				t.Errorf("%s: audit found nothing: %v", what, err)
			}
			if err == nil && !errors.Is(a.Balanced(), queue.ErrImbalance) {
				t.Errorf("%s: got %v, want %v", what, a.Balanced(), queue.ErrImbalance)
			}
			for _, text := range append(a.Differences, errText(err)) {
				if len(text) > 2000 || !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\n") {
					t.Errorf("%s: got a text of %d bytes or with raw bytes: %.100q", what, len(text), text)
				}
			}
			// The lease expires.
			_ = c.Do(ctx, c.B().Zadd().Key(d.key("leases")).Xx().ScoreMember().ScoreMember(1, d.leased.ID).Build()).Error()
			drainDamaged(t, what, c, d)
			l := newLedger()
			if _, err := q.Reconcile(ctx, l.staged, l.settle); err != nil && !errors.Is(err, queue.ErrWrongType) {
				t.Errorf("%s: reconcile before the repair: %v", what, err)
			}
			r, err := q.Repair(ctx, l.settle)
			if err != nil {
				t.Errorf("%s: repair: %v", what, err)
				continue
			}
			if err := r.After.Balanced(); err != nil {
				t.Errorf("%s: after the repair (%+v): %v %v", what, r, err, r.After.Differences)
			}
			drainDamaged(t, what, c, d)
			_, err = q.RequeueAll(ctx)
			must(t, err)
			if _, err := q.Reconcile(ctx, l.known, l.settle); err != nil {
				t.Errorf("%s: reconcile: %v", what, err)
			}
			drainDamaged(t, what, c, d)
			if s := books(t, q); s.InFlight != 0 || s.Ready != 0 {
				t.Errorf("%s: something is left: %+v", what, s)
			}
		}
	})
}

// Repair gives a batch back whose lease, or whose delay, would end in many years, and makes a
// delayed push due that is due at no time.
func TestTimesThatNeverComeAreMended(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		d := newDamaged(t, c)
		ctx := t.Context()
		for set, member := range map[string]string{"leases": d.leased.ID, "redo": d.released.ID, "handed": d.handed.ID, "delayed": d.delayed} {
			score := map[string]string{"delayed": "+inf"}[set]
			must(t, c.Do(ctx, c.B().Arbitrary("ZADD", d.key(set), cmp.Or(score, "4e12"), member).Build()).Error())
		}
		_, err := d.q.TryLease(ctx, queue.LeaseOptions{})
		wantErr(t, err, queue.ErrEmpty)
		r, err := d.q.Repair(ctx, newLedger().settle)
		must(t, err)
		if err := r.After.Balanced(); err != nil {
			t.Errorf("after the repair: %v", r.After.Differences)
		}
		if handed, err := d.q.HandedOff(ctx); err != nil || len(handed) != 1 || time.Until(handed[0].Since) > time.Hour {
			t.Errorf("got handed-off batches %+v, %v, want one of this hour", handed, err)
		}
		got := map[string]bool{}
		for range 3 {
			b := lease(t, d.q, queue.LeaseOptions{Records: 3, Duration: time.Hour})
			got[b.ID] = true
			if len(b.Payloads) == 3 && string(b.Payloads[0]) == "13" {
				got["delayed"] = true
			}
		}
		if !got[d.leased.ID] || !got[d.released.ID] || !got["delayed"] {
			t.Errorf("got batches %v, want %s, %s and the delayed push", got, d.leased.ID, d.released.ID)
		}
	})
}

// A program of one version leaves the data of another one alone.
func TestRepairOfAnotherLayout(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	d := newDamaged(t, c)
	ctx := t.Context()
	must(t, c.Do(ctx, c.B().Hset().Key(d.key("stat")).FieldValue().FieldValue("layout", "next").Build()).Error())
	must(t, c.Do(ctx, c.B().Del().Key(d.key("leases")).Build()).Error())
	must(t, c.Do(ctx, c.B().Set().Key(d.key("redo")).Value("of another type").Build()).Error())
	before := redisxtest.Dump(t, c, d.q.Name())
	_, err := d.q.Repair(ctx, nil)
	wantErr(t, err, queue.ErrLayout)
	if after := redisxtest.Dump(t, c, d.q.Name()); after != before {
		t.Error("Repair has changed the data of another version")
	}
	must(t, c.Do(ctx, c.B().Del().Key(d.key("redo")).Build()).Error())
	_, err = d.q.Audit(ctx)
	wantErr(t, err, queue.ErrLayout)
}

// drainDamaged acknowledges what can be leased, now and when all leases and delays of batches are
// over. Errors are allowed: only an end is not.
func drainDamaged(t *testing.T, what string, c rueidis.Client, d damaged) {
	t.Helper()
	for deliveries := 0; ; deliveries++ {
		_ = allDue(c, d.key("leases")) // it may be of another type
		_ = allDue(c, d.key("redo"))
		b, err := d.q.TryLease(t.Context(), queue.LeaseOptions{Records: 4, Duration: time.Hour})
		switch {
		case deliveries > 40:
			t.Fatalf("%s: deliveries do not end", what)
		case err != nil:
			return
		case b.ID == d.leased.ID && !slices.Equal(texts(b.Payloads), texts(d.leased.Payloads)):
			t.Errorf("%s: batch %s was delivered with %q, want %q", what, b.ID, texts(b.Payloads), texts(d.leased.Payloads))
		}
		if _, err = d.q.Ack(t.Context(), b.ID); err != nil {
			wantErr(t, err, queue.ErrWrongType) // its lease expires
			return
		}
	}
}

// A damaged batch that the ledger has as promoted is acknowledged, not buried.
func TestRepairAsksTheLedger(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, promoted := range []bool{true, false} {
			d := newDamaged(t, c)
			l := newLedger()
			if promoted {
				l.promote(d.released)
			}
			must(t, c.Do(t.Context(), c.B().Arbitrary("RPOP", d.key("b:"+d.released.ID)).Build()).Error())
			_, err := d.q.TryLease(t.Context(), queue.LeaseOptions{Records: 100, Duration: time.Hour})
			if err != nil {
				wantErr(t, err, queue.ErrEmpty)
			}
			r, err := d.q.Repair(t.Context(), l.settle)
			must(t, err)
			want := queue.RepairReport{Buried: 3, Lost: 1}
			if promoted {
				want = queue.RepairReport{Acked: 1}
			}
			if r.Buried != want.Buried || r.Lost != want.Lost || r.Acked != want.Acked {
				t.Errorf("promoted %v: got %+v, want %+v", promoted, r, want)
			}
			if err := books(t, d.q).Balanced(); err != nil {
				t.Error(err)
			}
		}
	})
}

// The acknowledgement of a damaged batch undoes what goes with it, in the same step, and only once.
func TestRepairAppliesTheUndo(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx := t.Context()
		for what, args := range map[string][]string{"half the list": {"LTRIM", "b:", "0", "1"}, "the list": {"DEL", "b:"}, "the meta hash": {"DEL", "m:"}} {
			d := newDamaged(t, c)
			args[1] = d.key(args[1] + d.handed.ID)
			must(t, c.Do(ctx, c.B().Arbitrary(args...).Build()).Error())
			claims := "{" + d.q.Name() + "}:claims"
			must(t, c.Do(ctx, c.B().Set().Key(claims).Value("..mine..").Build()).Error())
			promoted := func(context.Context, *queue.Batch) (queue.Resolution, error) {
				return queue.Resolution{Promoted: true, Undo: []queue.Undo{{Key: claims, Offset: 2, Old: "mine", New: "free"}}}, nil
			}
			r, err := d.q.Repair(ctx, promoted)
			must(t, err)
			got, err := c.Do(ctx, c.B().Get().Key(claims).Build()).ToString()
			must(t, err)
			if r.Acked != 1 || got != "..free.." {
				t.Errorf("without %s: got %d acknowledged and %q, want 1 and %q", what, r.Acked, got, "..free..")
			}
			foreign := func(context.Context, *queue.Batch) (queue.Resolution, error) {
				return queue.Resolution{Promoted: true, Undo: []queue.Undo{{Key: "elsewhere", Old: "f"}}}, nil
			}
			must(t, c.Do(ctx, c.B().Del().Key(d.key("b:"+d.leased.ID)).Build()).Error())
			_, err = d.q.Repair(ctx, foreign)
			wantErr(t, err, queue.ErrUndo)
		}
	})
}

// While Repair asks the ledger, a promoter acknowledges the damaged batch and gives its claim back,
// and another record makes the same claim. Repair leaves that claim alone.
func TestRepairOfABatchThatIsAcknowledgedMeanwhile(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx, d := t.Context(), newDamaged(t, c)
		must(t, c.Do(ctx, c.B().Rpop().Key(d.key("b:"+d.handed.ID)).Build()).Error())
		claims := "{" + d.q.Name() + "}:claims"
		claim := func() { must(t, c.Do(ctx, c.B().Set().Key(claims).Value("mine").Build()).Error()) }
		claim()
		promoted := queue.Resolution{Promoted: true, Undo: []queue.Undo{{Key: claims, Old: "mine", New: "free"}}}
		_, err := d.q.Repair(ctx, func(_ context.Context, b *queue.Batch) (queue.Resolution, error) {
			n, err := d.q.AckWith(ctx, queue.Ack{ID: b.ID, Undo: promoted.Undo})
			if n != 1 || err != nil {
				t.Errorf("acknowledged: got %d batches, %v, want 1", n, err)
			}
			claim()
			return promoted, nil
		})
		must(t, err)
		got, err := c.Do(ctx, c.B().Get().Key(claims).Build()).ToString()
		must(t, err)
		if got != "mine" {
			t.Errorf("the claim of another record: got %q, want %q", got, "mine")
		}
		if err := books(t, d.q).Balanced(); err != nil {
			t.Error(err)
		}
	})
}

// moving is a client of a queue on which something happens during each pass of an audit, between
// the reading of the sets and that of the keys.
type moving struct {
	rueidis.Client
	during func()
}

func (c *moving) Nodes() map[string]rueidis.Client {
	c.during()
	return c.Client.Nodes()
}

// What moves while Audit reads is no difference, and Repair does not touch it: a push that becomes
// visible keeps its time, and a letter that is requeued is no longer dead.
func TestAuditWhileSomethingMoves(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		client := &moving{Client: c}
		q := open(t, client, quick)
		ctx := t.Context()
		bury := func() (id string) {
			must(t, q.Push(ctx, records(0, 1)...))
			b := lease(t, q, queue.LeaseOptions{Records: 1})
			must(t, q.Settle(ctx, b, queue.Resolution{}))
			return b.ID
		}
		for what, during := range map[string]func(){
			"a push becomes visible":  func() { must(t, q.PushAt(ctx, time.Now().Add(time.Hour), records(0, 2)...)) },
			"a record is buried":      func() { bury() },
			"a record comes and goes": func() { _, err := q.Discard(ctx, bury()); must(t, err) },
		} {
			client.during = during
			a, err := q.Audit(ctx)
			must(t, err)
			if err := a.Balanced(); err != nil || a.Quiet {
				t.Errorf("%s: got %v, quiet %v, want no difference of a queue that moves", what, err, a.Quiet)
			}
			r, err := q.Repair(ctx, nil)
			must(t, err)
			if r.Relisted != 0 || r.Lost != 0 || r.Buried != 0 {
				t.Errorf("%s: got %+v, want nothing repaired", what, r)
			}
		}
		client.during = func() {}
		if b, err := q.TryLease(ctx, queue.LeaseOptions{}); !errors.Is(err, queue.ErrEmpty) {
			t.Errorf("got %v, %v, want no record: all are due in an hour or dead", b, err)
		}
		a, err := q.Audit(ctx)
		must(t, err)
		must(t, a.Balanced())
	})
}

// Repair keeps what another program has put in place of a batch, also the second time.
func TestRepairKeepsForeignKeys(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		d, ctx := newDamaged(t, c), t.Context()
		kept := map[string]bool{}
		for i, key := range []string{"b:" + d.handed.ID, "m:" + d.leased.ID, "b:" + d.handed.ID, "d:" + d.dead, "l:" + d.delayed, "foreign"} {
			must(t, c.Do(ctx, c.B().Set().Key(d.key(key)).Value(strconv.Itoa(i)).Build()).Error())
			r, err := d.q.Repair(ctx, newLedger().settle)
			must(t, err)
			must(t, r.After.Balanced())
			if len(r.Aside) != 1 || kept[r.Aside[0]] {
				t.Fatalf("%s: got %q aside, want one new key", key, r.Aside)
			}
			kept[r.Aside[0]] = true
			if v, err := c.Do(ctx, c.B().Get().Key(r.Aside[0]).Build()).ToString(); v != strconv.Itoa(i) {
				t.Errorf("%s: got %q, %v, want %d", key, v, err, i)
			}
		}
	})
}

// A number of records that no batch can have does not get into the books.
func TestAckOfAnImpossibleNumber(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, n := range []string{"9007199254740991", "-4", "0", "100001"} {
			d, ctx := newDamaged(t, c), t.Context()
			must(t, c.Do(ctx, c.B().Hset().Key(d.key("m:"+d.handed.ID)).FieldValue().FieldValue("n", n).Build()).Error())
			_, err := d.q.Ack(ctx, d.handed.ID)
			must(t, err)
			l := newLedger()
			l.promote(d.handed)
			_, err = d.q.Repair(ctx, l.settle)
			must(t, err)
			if s := books(t, d.q); s.Acked != 4 || s.Lost != 0 || s.Balanced() != nil {
				t.Errorf("n = %s: got %d acked and %d lost, %v, want 4 and 0", n, s.Acked, s.Lost, s.Balanced())
			}
		}
	})
}
