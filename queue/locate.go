package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// BatchState is the state of a sealed batch.
type BatchState uint8

// The states of a sealed batch.
const (
	BatchStateLeased    BatchState = iota + 1 // a worker holds it
	BatchStateSettling                        // it failed too often; it will be split or buried
	BatchStateWaiting                         // it waits for redelivery
	BatchStateHandedOff                       // it waits for a promoter
	BatchStateBroken                          // set aside: its keys are inconsistent
)

// batchStates are the states as the meta hash has them.
var batchStates = map[string]BatchState{
	"L": BatchStateLeased, "S": BatchStateSettling, "R": BatchStateWaiting, "H": BatchStateHandedOff, "B": BatchStateBroken,
}

// String returns the name of the state.
func (s BatchState) String() string {
	switch s {
	case BatchStateLeased:
		return "leased"
	case BatchStateSettling:
		return "settling"
	case BatchStateWaiting:
		return "waiting for redelivery"
	case BatchStateHandedOff:
		return "handed off"
	case BatchStateBroken:
		return "broken"
	}
	return fmt.Sprintf("BatchState(%d)", uint8(s))
}

// BatchInfo describes a sealed batch without its records.
type BatchInfo struct {
	ID       string
	State    BatchState
	Root     string // see Batch
	Offset   int
	Records  int
	Attempt  int64
	Failures int
	Crashes  int
	Reason   string // the last reported failure
	// Worker is the LeaseOptions.Worker of the last lease.
	Worker string
	// Since is the deadline of a lease, the time from which a waiting batch may be leased, or when
	// the batch was handed off or set aside, by the server's clock.
	Since time.Time
	// Waits reports that the worker's own code has finished and the batch waits for the durable side.
	Waits             bool
	Sealed, FirstSeen time.Time // see Batch
}

// Holds reports whether the batch holds the record at a place of a root batch.
func (b BatchInfo) Holds(root string, place int) bool {
	return b.Root == root && b.Offset <= place && place < b.Offset+b.Records
}

// Batches describes those of the given batches that are in flight. It reads up to 500 in a round
// trip, and no records.
func (q *Queue) Batches(ctx context.Context, ids ...string) ([]BatchInfo, error) {
	var all []BatchInfo
	for p := range slices.Chunk(ids, page) {
		_, batches, err := q.locate(ctx, append([]string{"ids"}, p...)...)
		if err != nil {
			return nil, err
		}
		all = append(all, batches...)
	}
	return all, nil
}

// InFlight describes up to n of the batches in flight whose records were first sealed at the given
// time or before, youngest first. It also returns how many batches are in flight in all. It takes
// one round trip. n is at most 1,000, and each batch costs the server some 5 µs.
func (q *Queue) InFlight(ctx context.Context, until time.Time, n int) (batches []BatchInfo, total int64, err error) {
	if err := within("InFlight: n", n, 1, maxInFlight); err != nil {
		return nil, 0, err
	}
	total, batches, err = q.locate(ctx, "before", itoa(n), strconv.FormatInt(redisx.UnixMilli(until), 10))
	return batches, total, err
}

// maxInFlight bounds the batches of one call of locate.lua.
const maxInFlight = 1000

// locateFields is the number of fields of a batch in a reply of locate.lua.
const locateFields = 12

// locate runs locate.lua.
func (q *Queue) locate(ctx context.Context, args ...string) (total int64, out []BatchInfo, err error) {
	rows, err := q.run(ctx, locateScript, drains, args...).ToArray()
	switch {
	case err != nil:
		return 0, nil, q.wrapScript(ctx, "locate", err)
	case len(rows) == 0:
		return 0, nil, unexpected("locate", 0, 1)
	}
	if total, err = rows[0].AsInt64(); err != nil {
		return 0, nil, wrap("locate", err)
	}
	for _, row := range rows[1:] {
		b, err := parseBatchInfo(row)
		if err != nil {
			return 0, nil, err
		}
		out = append(out, b)
	}
	return total, out, nil
}

func parseBatchInfo(row rueidis.RedisMessage) (b BatchInfo, err error) {
	v, err := row.ToArray()
	if err != nil {
		return b, wrap("locate", err)
	}
	if len(v) != 3 {
		return b, unexpected("locate", len(v), 3)
	}
	if b.ID, err = v[0].ToString(); err != nil {
		return b, wrap("locate", err)
	}
	score, err := v[1].ToString()
	if err != nil {
		return b, wrap("locate", err)
	}
	f, err := v[2].AsStrSlice()
	if err != nil {
		return b, wrap("locate", err)
	}
	if len(f) != locateFields {
		return b, unexpected("locate", len(f), locateFields)
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(f[i], 10, 64); return n }
	if at, err := strconv.ParseFloat(score, 64); err == nil {
		b.Since = time.UnixMilli(int64(at))
	}
	b.State, b.Attempt, b.Records = batchStates[f[0]], number(1), int(number(2))
	b.Root, b.Offset = cmp.Or(f[3], b.ID), int(number(4))
	b.Failures, b.Crashes = int(number(5)), int(number(6))
	b.Sealed, b.FirstSeen = time.UnixMilli(number(7)), time.UnixMilli(number(8))
	b.Waits, b.Worker, b.Reason = f[9] != "", f[10], f[11]
	return b, nil
}

// Annotation returns the annotations that another package keeps with a batch, one byte a record, in
// the field "r:" + name of its guard. It is empty if there are none or the batch is gone.
func (q *Queue) Annotation(ctx context.Context, batch, name string) (string, error) {
	text, err := q.server.Read(ctx, "HGET", q.metaKey(batch), "r:"+name).ToString()
	if rueidis.IsRedisNil(err) {
		return "", nil
	}
	return text, wrapKeys(ctx, q.server, "annotation", err, q.metaType(batch))
}

// Place is where a record is in a queue.
type Place uint8

// The places that Scan looks through, in this order.
const (
	PlaceDelayed  Place = iota + 1 // pushed for later
	PlaceReady                     // in the ready list
	PlaceInFlight                  // in a sealed batch
	PlaceDead                      // in the dead-letter list
)

// String returns the name of the place.
func (p Place) String() string {
	switch p {
	case PlaceInFlight:
		return "in flight"
	case PlaceReady:
		return "ready"
	case PlaceDelayed:
		return "delayed"
	case PlaceDead:
		return "dead"
	}
	return fmt.Sprintf("Place(%d)", uint8(p))
}

// ScannedRecord is a record that Scan passes on.
type ScannedRecord struct {
	Place   Place
	Payload []byte
	// Batch holds a record in flight at Position. Position is otherwise the number of records before
	// this one: in the ready list, in the delayed push, or in the dead-letter list.
	Batch    *BatchInfo
	Position int
	// Due is when a delayed record may be leased.
	Due time.Time
	// Dead is the dead letter that has the record.
	Dead *DeadLetter
}

// ScanOptions bound a Scan. A zero field takes its default.
type ScanOptions struct {
	// Records and Bytes bound what is read of each place. Default 1,000 records and 8 MiB.
	Records, Bytes int
}

// Defaults of ScanOptions.
const (
	DefaultScanRecords = 1000
	DefaultScanBytes   = 8 << 20
)

// ScanCount is how far a Scan got in one place.
type ScanCount struct {
	Place Place
	// Scanned records were passed on, of Total that were there when the Scan began.
	Scanned, Total int64
	// Moved reports that consumers took records of the ready list during the scan, so that some of
	// the others may have been missed.
	Moved bool
}

// Complete reports whether Scan read the whole place.
func (c ScanCount) Complete() bool { return c.Scanned >= c.Total && !c.Moved }

// Scan reads payloads without leasing them, oldest first: delayed ones, those of the ready list, of
// batches in flight, and dead letters. It passes them to visit in parts. A part has records of one
// place, and of one batch if they are in flight. Scan stops when visit returns an error, and
// returns that error. It also returns how far it got in each place.
//
// Scan visits the places in the order in which records move, so it may visit a record that moves
// during the scan twice. It can miss a record that is requeued or delayed during the scan. It can
// also miss one of the ready list while consumers work: see [ScanCount].Moved.
//
// A record has no index by its content, so this is the only way to find one in the ready list. The
// bounds keep it cheap: about one command for 500 records or 256 KiB.
//
// A record over the server's client-output-buffer-limit ends the scan with [ErrReplyLimit]. A dead
// letter over that limit is skipped, and does not count as scanned.
func (q *Queue) Scan(ctx context.Context, o ScanOptions, visit func([]ScannedRecord) error) ([]ScanCount, error) {
	if visit == nil {
		return nil, fmt.Errorf("%w: Scan: visit is nil, must be a function", ErrConfig)
	}
	o.Records = cmp.Or(o.Records, DefaultScanRecords)
	o.Bytes = cmp.Or(o.Bytes, DefaultScanBytes)
	if err := within("ScanOptions.Records", o.Records, 1, math.MaxInt32); err != nil {
		return nil, err
	}
	if err := within("ScanOptions.Bytes", o.Bytes, 1, math.MaxInt32); err != nil {
		return nil, err
	}
	s, err := q.Stats(ctx)
	if err != nil {
		return nil, err
	}
	counts := []ScanCount{
		{Place: PlaceDelayed, Total: s.Delayed}, {Place: PlaceReady, Total: s.Ready}, {Place: PlaceInFlight, Total: s.InFlight}, {Place: PlaceDead, Total: s.Dead},
	}
	for i, scan := range []func(context.Context, *scanRun) error{q.scanDelayed, q.scanReady, q.scanInFlight, q.scanDead} {
		run := &scanRun{place: counts[i].Place, records: o.Records, bytes: o.Bytes, visit: visit}
		err := scan(ctx, run)
		counts[i].Scanned = run.scanned
		if err != nil {
			return counts, err
		}
		if counts[i].Place == PlaceReady {
			now, err := q.Stats(ctx)
			if err != nil {
				return counts, err
			}
			counts[i].Moved = now.Taken != s.Taken
		}
	}
	return counts, nil
}

// scanRun is the scan of one place.
type scanRun struct {
	place          Place
	records, bytes int // what may still be read
	scanned        int64
	read           int // bytes
	visit          func([]ScannedRecord) error
}

// Of a list, Scan reads scanFirst records, and then as many as probably have scanChunk bytes.
const scanFirst, scanChunk = 16, 256 << 10

// next is how many records the next command reads.
func (r *scanRun) next() int {
	if r.bytes <= 0 {
		return 0
	}
	n := scanFirst
	if r.scanned > 0 {
		n = max(1, min(page, scanChunk*int(r.scanned)/(r.read+1)))
	}
	return min(n, r.records)
}

// pass passes a part on.
func (r *scanRun) pass(part []ScannedRecord) error {
	for i := range part {
		part[i].Place = r.place
		r.read += len(part[i].Payload)
		r.bytes -= len(part[i].Payload)
	}
	r.records -= len(part)
	r.scanned += int64(len(part))
	if len(part) == 0 {
		return nil
	}
	return r.visit(part)
}

// scanList passes on the records of a list, oldest first: the one at its right end.
func (q *Queue) scanList(ctx context.Context, r *scanRun, key string, describe func(*ScannedRecord)) error {
	for at := 0; ; {
		n := r.next()
		if n == 0 {
			return nil
		}
		replies, n, err := q.readSome(ctx, n, func(n int) []rueidis.Completed {
			return []rueidis.Completed{q.server.Command("LRANGE", key, itoa(-at-n), itoa(-at-1))}
		})
		if err != nil {
			return wrap("scan", fmt.Errorf("%s, position %d: %w", key, at, err))
		}
		list, err := replies[0].AsStrSlice()
		if err != nil {
			return wrapKeys(ctx, q.server, "scan", err, redisx.KeyType{Key: key, Type: "list"})
		}
		part := make([]ScannedRecord, len(list))
		for i, payload := range list {
			x := &part[len(list)-1-i]
			x.Payload, x.Position = []byte(payload), at+len(list)-1-i
			describe(x)
		}
		if err := r.pass(part); err != nil || len(list) < n {
			return err
		}
		at += n
	}
}

func (q *Queue) scanReady(ctx context.Context, r *scanRun) error {
	return q.scanList(ctx, r, q.keys[keyReady], func(*ScannedRecord) {})
}

func (q *Queue) scanInFlight(ctx context.Context, r *scanRun) error {
	_, batches, err := q.locate(ctx, "oldest", itoa(min(r.records, maxInFlight)))
	if err != nil {
		return err
	}
	for i := range batches {
		if err := q.scanList(ctx, r, q.listKey(batches[i].ID), func(x *ScannedRecord) { x.Batch = &batches[i] }); err != nil {
			return err
		}
	}
	return nil
}

func (q *Queue) scanDelayed(ctx context.Context, r *scanRun) error {
	pushes, err := q.server.Read(ctx, "ZRANGE", q.keys[keyDelayed], "0", itoa(min(r.records, maxInFlight)-1), "WITHSCORES").AsZScores()
	if err != nil {
		return wrapKeys(ctx, q.server, "scan", err, q.typeOf(keyDelayed))
	}
	for _, p := range pushes {
		due := time.UnixMilli(int64(p.Score))
		if err := q.scanList(ctx, r, q.prefix+"l:"+p.Member, func(x *ScannedRecord) { x.Due = due }); err != nil {
			return err
		}
	}
	return nil
}

func (q *Queue) scanDead(ctx context.Context, r *scanRun) error {
	for cursor, at := "", 0; ; {
		n := r.next()
		if n == 0 {
			return nil
		}
		letters, next, err := q.DeadLetters(ctx, cursor, n)
		if errors.Is(err, ErrReplyLimit) {
			if next == "" {
				return nil
			}
			cursor, at = next, at+1
			continue
		}
		if err != nil {
			return err
		}
		part := make([]ScannedRecord, len(letters))
		for i := range letters {
			part[i] = ScannedRecord{Payload: letters[i].Payload, Position: at + i, Dead: &letters[i]}
		}
		if err := r.pass(part); err != nil || next == "" {
			return err
		}
		cursor, at = next, at+len(letters)
	}
}

// DeadLetter returns the dead letter with an id, which is that of the batch that held the record
// alone. It returns ErrGone if there is none.
func (q *Queue) DeadLetter(ctx context.Context, id string) (DeadLetter, error) {
	letters, _, err := q.deadLetters(ctx, []string{id})
	if err != nil {
		return DeadLetter{}, err
	}
	if len(letters) == 0 {
		return DeadLetter{}, fmt.Errorf("%w: %s", ErrGone, shown(id))
	}
	return letters[0], nil
}
