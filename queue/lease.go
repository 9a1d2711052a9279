package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/uid"
)

// TryLease leases a batch, or answers ErrEmpty or ErrPaused without waiting for records. It never lingers; with 500 records or
// more it may wait until others of this Queue have been answered.
func (q *Queue) TryLease(ctx context.Context, o LeaseOptions) (*Batch, error) {
	o, err := q.options(o)
	if err != nil {
		return nil, err
	}
	t, err := q.take(ctx, o, 1)
	switch {
	case err != nil:
		return nil, err
	case t.batch != nil:
		return t.batch, nil
	case t.paused:
		return nil, ErrPaused
	}
	return nil, ErrEmpty
}

// Lease leases a batch: the one that has waited for redelivery, or a fresh one of the oldest records. It waits until there is
// one or ctx is done. It costs one round trip, and, for a redelivered batch, one more.
//
// A ctx that is done never costs a record: the batch comes all the same when the script has run, and when even its reply is lost the
// lease runs out.
func (q *Queue) Lease(ctx context.Context, o LeaseOptions) (*Batch, error) {
	o, err := q.options(o)
	if err != nil {
		return nil, err
	}
	least := 1
	if o.Linger > 0 {
		least = o.Records
	}
	if t, err := q.take(ctx, o, least); err != nil || t.batch != nil {
		return t.batch, err
	}
	// One consumer of a process waits at the server; a push wakes one of them, not all.
	select {
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return q.await(ctx, o, least)
}

// options fills in and checks o.
func (q *Queue) options(o LeaseOptions) (LeaseOptions, error) {
	l := q.cfg.Lease
	o.Records = cmp.Or(o.Records, l.Records)
	o.Bytes = cmp.Or(o.Bytes, l.Bytes)
	o.Linger = cmp.Or(o.Linger, l.Linger)
	o.Duration = cmp.Or(o.Duration, l.Duration)
	switch {
	case o.Records < 1 || o.Records > MaxRecords:
		return o, fmt.Errorf("%w: LeaseOptions.Records is %d: must be 1 to %d", ErrConfig, o.Records, MaxRecords)
	case o.Bytes < 1 || o.Bytes > MaxPayload:
		return o, fmt.Errorf("%w: LeaseOptions.Bytes is %d: must be 1 to %d", ErrConfig, o.Bytes, MaxPayload)
	case o.Linger < 0 || o.Linger > time.Hour:
		return o, fmt.Errorf("%w: LeaseOptions.Linger is %v: must be 0 to %v", ErrConfig, o.Linger, time.Hour)
	case o.Duration < time.Millisecond || o.Duration > 30*24*time.Hour:
		return o, fmt.Errorf("%w: LeaseOptions.For is %v: must be %v to %v", ErrConfig, o.Duration, time.Millisecond, 30*24*time.Hour)
	}
	return o, nil
}

// taken is what one look at the queue gave: a batch, or why there is none.
type taken struct {
	batch  *Batch
	paused bool
	len    int           // of the ready list
	next   time.Duration // until something comes due; -1: nothing will
}

// take leases a batch if there is one, with at least the given number of records if it is fresh. It settles the batches that it
// meets on the way.
func (q *Queue) take(ctx context.Context, o LeaseOptions, least int) (taken, error) {
	for {
		if err := ctx.Err(); err != nil {
			return taken{}, err
		}
		t, settle, err := q.seal(ctx, o, least)
		if err != nil || !settle {
			return t, err
		}
		if err := q.settleOver(ctx, t.batch, o.Settle); err != nil {
			return taken{}, err
		}
	}
}

// inTurn calls f, by a few at a time when batches are large.
func (q *Queue) inTurn(ctx context.Context, records int, f func()) error {
	if records >= largeBatch {
		select { // by chance, if both can be
		case q.sealing <- struct{}{}:
			defer func() { <-q.sealing }()
		case <-ctx.Done():
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	f()
	return nil
}

// seal runs the lease script, and reads the batch in the same round trip if it is the fresh one that was asked for.
func (q *Queue) seal(caller context.Context, o LeaseOptions, least int) (t taken, settle bool, err error) {
	ctx, cancel := outlive(caller, time.Second)
	defer cancel()
	l := q.cfg.Lease
	fast := "0"
	if q.fast {
		fast = "1"
	}
	var r []rueidis.RedisResult
	for try := 0; ; try++ {
		// A new id for every call: this one may have been used, though no reply says so.
		id := uid.New()
		args := []string{q.prefix, id, itoa(o.Records), itoa(o.Bytes), ms(o.Duration), itoa(least), itoa(l.MaxFailures), itoa(l.MaxCrashes),
			ms(l.Backoff), ms(l.MaxBackoff), strconv.FormatFloat(rand.Float64(), 'f', 4, 64), fast}
		read := func() rueidis.Completed { return q.c.B().Lrange().Key(q.list(id)).Start(0).Stop(-1).Build() }
		if err := q.inTurn(caller, o.Records, func() {
			r = q.c.DoMulti(ctx, q.evalsha(leaseScript, true, args), read())
			if noScript(r[0].Error()) {
				r = q.c.DoMulti(ctx, q.eval(leaseScript, true, args), read())
			}
		}); err != nil {
			return taken{}, false, err
		}
		if !refused(r[0].Error()) || !pause(ctx, try) {
			break
		}
	}
	v, err := r[0].ToArray()
	if err != nil {
		return t, false, wrap("lease", err)
	}
	if len(v) < 3 {
		return t, false, errors.New("queue: lease: strange reply")
	}
	kind, err := v[0].ToString()
	if err != nil {
		return t, false, wrap("lease", err)
	}
	if kind == "P" || kind == "E" {
		next, _ := v[1].AsInt64()
		n, _ := v[2].AsInt64()
		t = taken{paused: kind == "P", len: int(n), next: -1}
		if kind == "E" && next >= 0 {
			t.next = time.Duration(next) * time.Millisecond
		}
		return t, false, nil
	}
	if len(v) != 6 {
		return t, false, errors.New("queue: lease: strange reply")
	}
	id, err := v[1].ToString()
	if err != nil {
		return t, false, wrap("lease", err)
	}
	attempt, _ := v[2].AsInt64()
	deadline, _ := v[3].AsInt64()
	now, _ := v[4].AsInt64()
	b := &Batch{Queue: q.name, ID: id, Root: id, Attempt: attempt, Deadline: time.UnixMilli(deadline), Guard: q.meta(id)}
	if kind == "B" {
		n, _ := v[5].AsInt64()
		b.Sealed, b.FirstSeen = time.UnixMilli(now), time.UnixMilli(now)
		list, err := r[1].ToArray()
		if err != nil || len(list) != int(n) {
			list, err = q.payloads(ctx, id)
		}
		if err != nil {
			return t, false, wrap("lease", err)
		}
		if len(list) != int(n) {
			return t, false, fmt.Errorf("queue: lease: batch %s has %d records, not %d", id, len(list), n)
		}
		return taken{batch: b}, false, b.fill(list)
	}
	meta, err := v[5].AsStrMap()
	if err != nil {
		return t, false, wrap("lease", err)
	}
	b.describe(meta)
	list, err := q.payloads(ctx, id)
	if err != nil {
		return t, false, wrap("lease", err)
	}
	if n, _ := strconv.Atoi(meta["n"]); len(list) != n {
		// Settled in the moment between by somebody who needs no lease for that: there is nothing to hold.
		if len(list) == 0 {
			return q.seal(ctx, o, least)
		}
		return t, false, fmt.Errorf("queue: lease: batch %s has %d records, not %d", id, len(list), n)
	}
	return taken{batch: b}, kind == "S", b.fill(list)
}

// payloads reads a batch's list. The batch is leased by then, so it is worth waiting for.
func (q *Queue) payloads(ctx context.Context, id string) ([]rueidis.RedisMessage, error) {
	for try := 0; ; try++ {
		list, err := q.c.Do(ctx, q.c.B().Lrange().Key(q.list(id)).Start(0).Stop(-1).Build()).ToArray()
		if !refused(err) || !pause(ctx, try) {
			return list, err
		}
	}
}

func (q *Queue) list(id string) string { return q.prefix + "b:" + id }
func (q *Queue) meta(id string) string { return q.prefix + "m:" + id }

// fill takes the payloads from a list as Redis has it: the oldest at its right end.
func (b *Batch) fill(list []rueidis.RedisMessage) error {
	b.Payloads = make([][]byte, len(list))
	for i := range list {
		p, err := list[i].AsBytes()
		if err != nil {
			return wrap("read batch "+b.ID, err)
		}
		b.Payloads[len(list)-1-i] = p
		b.Bytes += len(p)
	}
	return nil
}

// describe takes what the meta hash says.
func (b *Batch) describe(meta map[string]string) {
	num := func(field string) int64 { n, _ := strconv.ParseInt(meta[field], 10, 64); return n }
	b.Root = cmp.Or(meta["root"], b.ID)
	b.Offset = int(num("off"))
	b.Failures = int(num("fails"))
	b.Crashes = int(num("crashes"))
	b.Reason = meta["reason"]
	b.Sealed = time.UnixMilli(num("sealed"))
	b.FirstSeen = time.UnixMilli(num("first"))
	for field := range meta {
		if len(field) > 2 && field[:2] == "r:" {
			b.Annotated = true
		}
	}
}

// Extend makes the lease of b last d from now (0: Config.Lease.For). ErrLeaseLost: it is not b's any more. b
// itself is not changed, so that a heartbeat may run beside its worker.
func (q *Queue) Extend(ctx context.Context, b *Batch, d time.Duration) error {
	if d == 0 {
		d = q.cfg.Lease.Duration
	}
	if d < time.Millisecond {
		return fmt.Errorf("%w: Extend by %v: must be at least %v", ErrConfig, d, time.Millisecond)
	}
	return q.own(ctx, "extend", "L", b, ms(d), "0")
}

// ExtendWaiting is Extend for a batch that the caller's own code has finished with, and that now waits
// for the durable side. If the caller dies then, the batch is not suspected: the lease expires without
// counting as a crash. The next Extend takes this back.
func (q *Queue) ExtendWaiting(ctx context.Context, b *Batch, d time.Duration) error {
	if d == 0 {
		d = q.cfg.Lease.Duration
	}
	if d < time.Millisecond {
		return fmt.Errorf("%w: ExtendWaiting by %v: must be at least %v", ErrConfig, d, time.Millisecond)
	}
	return q.own(ctx, "extend", "L", b, ms(d), "1")
}

// Handoff passes the lease of b from the worker to whoever promotes. From here on nothing runs out: only
// Reconcile brings the batch back.
func (q *Queue) Handoff(ctx context.Context, b *Batch) error {
	return q.own(ctx, "handoff", "L", b)
}

// Release gives b back, to be delivered again, whole.
func (q *Queue) Release(ctx context.Context, b *Batch, o ReleaseOptions) error {
	return q.release(ctx, "L", b, o)
}

func (q *Queue) release(ctx context.Context, state string, b *Batch, o ReleaseOptions) error {
	if o.Delay < 0 {
		return fmt.Errorf("%w: ReleaseOptions.Delay is %v: must not be negative", ErrConfig, o.Delay)
	}
	delay := ms(o.Delay)
	if o.Delay == 0 {
		delay = "-1"
	}
	return q.own(ctx, "release", state, b, delay, o.Failure, ms(q.cfg.Lease.Backoff), ms(q.cfg.Lease.MaxBackoff),
		strconv.FormatFloat(rand.Float64(), 'f', 4, 64))
}

func (q *Queue) own(ctx context.Context, op, state string, b *Batch, args ...string) error {
	v, err := q.run(ctx, ownScript, true, append([]string{q.prefix, op, b.ID, strconv.FormatInt(b.Attempt, 10), state}, args...)...).AsInt64()
	if err != nil {
		return wrap(op, err)
	}
	if v < 0 {
		return fmt.Errorf("%w: %s of batch %s, attempt %d", ErrLeaseLost, op, b.ID, b.Attempt)
	}
	return nil
}
