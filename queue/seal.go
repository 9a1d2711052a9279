package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// replyGrace is how long a call waits for its reply after its context is done. The script may have
// run, and then the reply holds a batch.
const replyGrace = time.Second

// readChunk bounds the records of one LRANGE of a batch with up to DefaultBytes, so that a large
// batch does not hold the server.
const readChunk = 2000

// chunkOf returns how many records one LRANGE reads of a batch with up to the given bytes.
func chunkOf(bytes int) int {
	return max(1, readChunk*DefaultBytes/max(bytes, DefaultBytes))
}

// seal calls the lease script, and reads the batch in the same round trip if it is a small fresh
// one.
func (q *Queue) seal(caller context.Context, o LeaseOptions, least int) (leased, error) {
	ctx, cancel := redisx.Outlive(caller, replyGrace)
	defer cancel()
	if q.idle(o) {
		least = 1
	}
	narrowed := q.narrowed.Load()
	o = q.withinReply(o)
	least = min(least, o.Records)
	if err := q.reclaim(ctx); err != nil {
		return leased{}, wrap("lease", err)
	}
	var results []rueidis.RedisResult
	var id string
	err := q.server.Retry(ctx, func() error {
		// Every call makes an id of its own: the one before may be in use, though no reply came.
		id = q.newID()
		call := q.call(leaseScript, drains, q.sealArgs(id, o, least)...)
		return q.inTurn(caller, o.Records, func() error {
			results = q.server.Once(ctx, call, func() []rueidis.Completed {
				return []rueidis.Completed{q.readList(id, 0, chunkOf(o.Bytes))}
			})
			return results[0].Error()
		})
	})
	if err != nil {
		if len(results) > 0 && !answered(results[0].Error()) {
			q.unanswered.add(id, o.Duration)
			q.lostReply(caller, err, narrowed, o.Bytes)
		}
		return leased{}, q.wrapScript(caller, "lease", err)
	}
	r, err := parseSealReply(results[0])
	if err != nil {
		return leased{}, err
	}
	if r.ready > 0 || r.id != "" {
		q.met.Store(time.Now().UnixNano())
	}
	q.gotReply(r.kind)
	// A batch whose records cannot be read is not given back: the end of its lease counts, so that a
	// batch which breaks each connection is split.
	return q.hydrate(ctx, r, results[1], chunkOf(o.Bytes))
}

// sealArgs are the arguments of lease.lua.
func (q *Queue) sealArgs(id string, o LeaseOptions, least int) []string {
	l := q.cfg.Lease
	return []string{
		id, itoa(o.Records), itoa(o.Bytes), ms(o.Duration), itoa(least), itoa(l.MaxFailures), itoa(l.MaxCrashes),
		ms(l.Backoff), ms(l.MaxBackoff), randomArg(), flag(q.fast), cut(o.Worker, MaxWorker),
	}
}

// randomArg is a random number from 0 to 1, for a script.
func randomArg() string { return strconv.FormatFloat(rand.Float64(), 'f', 6, 64) }

// inTurn calls f, for large batches by a few callers at a time. Its error is that of f, or of ctx
// when f was not called.
func (q *Queue) inTurn(ctx context.Context, records int, f func() error) error {
	if records >= largeBatch {
		select { // at random if both are ready
		case q.sealing <- struct{}{}:
			defer func() { <-q.sealing }()
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return f()
}

// sealReply is the reply of lease.lua.
type sealReply struct {
	kind          string // fresh, again, settle, empty, more, paused or layout
	id            string
	attempt       int64
	deadline, now time.Time
	records       int               // of a fresh batch
	meta          map[string]string // of a redelivered batch
	next          time.Duration     // of an empty queue
	ready         int               // of an empty queue
	layout        string
}

// sealElements is how many elements a reply of each kind has.
var sealElements = map[string]int{"fresh": 6, "again": 6, "settle": 6, "empty": 3, "more": 1, "paused": 1, "layout": 2}

func parseSealReply(result rueidis.RedisResult) (r sealReply, err error) {
	v, err := result.ToArray()
	if err != nil {
		return r, wrap("lease", err)
	}
	if len(v) == 0 {
		return r, unexpected("lease", 0, 1)
	}
	if r.kind, err = v[0].ToString(); err != nil {
		return r, wrap("lease", err)
	}
	want, known := sealElements[r.kind]
	if !known || len(v) != want {
		return r, unexpected("lease: "+r.kind, len(v), want)
	}
	number := func(i int) (n int64) {
		if err == nil {
			n, err = v[i].AsInt64()
		}
		return n
	}
	switch r.kind {
	case "empty":
		r.next, r.ready = time.Duration(number(1))*time.Millisecond, int(number(2))
	case "layout":
		r.layout, err = v[1].ToString()
	case "fresh", "again", "settle":
		r.attempt, r.deadline, r.now = number(2), time.UnixMilli(number(3)), time.UnixMilli(number(4))
		if err == nil {
			r.id, err = v[1].ToString()
		}
		if r.kind == "fresh" {
			r.records = int(number(5))
		} else if err == nil {
			r.meta, err = v[5].AsStrMap()
			r.records, _ = strconv.Atoi(r.meta["n"])
		}
	}
	return r, wrap("lease", err)
}

// hydrate makes the result of a call from its reply. list is the beginning of the list of a fresh
// batch; the rest is read by chunks.
func (q *Queue) hydrate(ctx context.Context, r sealReply, list rueidis.RedisResult, chunk int) (leased, error) {
	switch r.kind {
	case "layout":
		return leased{}, q.layoutError(r.layout)
	case "paused":
		return leased{paused: true, next: -1}, nil
	case "more":
		return leased{again: true}, nil
	case "empty":
		return leased{ready: r.ready, next: r.next}, nil
	}
	b := &Batch{Queue: q.name, ID: r.id, Root: r.id, Attempt: r.attempt, Deadline: r.deadline, Guard: q.metaKey(r.id)}
	var payloads []rueidis.RedisMessage
	var err error
	if r.kind == "fresh" {
		b.Sealed, b.FirstSeen = r.now, r.now
		payloads, err = list.ToArray()
	} else {
		b.describe(r.meta)
	}
	if err != nil || len(payloads) < r.records {
		// The batch is leased by now, so it is worth a further round trip.
		payloads, err = q.payloads(ctx, r.id, r.records, chunk, payloads)
		if errors.Is(err, ErrReplyLimit) && r.kind == "settle" {
			b.Payloads = make([][]byte, r.records) // the split and the burial need their number only
			return leased{batch: b, settle: true}, nil
		}
		if err != nil {
			return leased{}, wrapKeys(ctx, q.server, "lease", err, q.listType(r.id))
		}
	}
	switch {
	case len(payloads) == 0:
		// Another process has settled it in between, which needs no lease.
		return leased{again: true}, nil
	case len(payloads) != r.records:
		return leased{}, fmt.Errorf("%w: batch %s: got %d records, want %d", ErrBroken, r.id, len(payloads), r.records)
	}
	return leased{batch: b, settle: r.kind == "settle"}, b.fill(payloads)
}

// payloads reads the n records of a batch's list after those that are read already, in chunks.
func (q *Queue) payloads(ctx context.Context, id string, n, chunk int, have []rueidis.RedisMessage) ([]rueidis.RedisMessage, error) {
	if q.replyBound() > 0 {
		return q.readNarrow(ctx, id, n, have)
	}
	build := func() (cmds []rueidis.Completed) {
		for at := len(have); at < n; at += chunk {
			cmds = append(cmds, q.readList(id, at, chunk))
		}
		return cmds
	}
	all, err := concat(have, q.client.DoMulti(ctx, build()...))
	if err == nil {
		return all, nil
	}
	if !answered(err) && ctx.Err() == nil {
		q.lostReply(ctx, err, 0, DefaultBytes)
		if err := q.checkConnection(ctx); err != nil {
			return nil, err
		}
		return q.readNarrow(ctx, id, n, have)
	}
	return concat(have, q.server.ReadAll(ctx, build))
}

// concat appends the elements of replies to a copy of have.
func concat(have []rueidis.RedisMessage, replies []rueidis.RedisResult) ([]rueidis.RedisMessage, error) {
	all := slices.Clone(have)
	for _, r := range replies {
		part, err := r.ToArray()
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	return all, nil
}

// readList reads n elements of a batch's list. A client that reads from replicas reads it from the
// primary too.
func (q *Queue) readList(id string, from, n int) rueidis.Completed {
	return q.server.Command("LRANGE", q.listKey(id), itoa(from), itoa(from+n-1))
}

func (q *Queue) listKey(id string) string { return q.prefix + "b:" + id }
func (q *Queue) metaKey(id string) string { return q.prefix + "m:" + id }

// metaType and listType are the keys of a batch with their types.
func (q *Queue) metaType(id string) redisx.KeyType {
	return redisx.KeyType{Key: q.metaKey(id), Type: "hash"}
}
func (q *Queue) listType(id string) redisx.KeyType {
	return redisx.KeyType{Key: q.listKey(id), Type: "list"}
}
