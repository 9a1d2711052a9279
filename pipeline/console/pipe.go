package console

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

const (
	readTimeout    = 10 * time.Second // of one reading
	booksTimeout   = 2 * time.Minute  // of the books, and of the sum of the whole ledger
	slowInterval   = 10 * time.Second // age of what changes slowly
	unackedBatches = 500              // with more batches handed off, the two stores are not compared
)

// pipe is a pipeline with its readings.
type pipe struct {
	Pipeline
	h      *Handler
	ledger *ledger
	flow   pipeline.Flow[struct{}] // for the books
	last   lastBooks
	ring   ring

	redis, postgres, both *readers

	stats   *reading[queue.Stats]
	old     *reading[oldSum]
	books   *reading[bookSet]
	head    *reading[[]record]
	flight  *reading[QueueBatches]
	minutes *reading[[]Minute]
	codes   *reading[[]CodeCount]
	staged  *reading[Staged]
	gate    *reading[backpressure.Stats] // nil: there is no gate
	lookups []*reading[lookup.Stats]
	windows []*reading[windowCounts]
	views   *reading[[]matview.Freshness] // nil: there are no views
	checks  [2]*reading[[]Check]

	waitsForSum atomic.Bool // the ledger is small

	mu    sync.Mutex
	asked map[string]asked // readings with parameters, by their kind and parameters
}

// asked is a reading with parameters and when a page has last asked for it.
type asked struct {
	reading refresher
	at      time.Time
}

func (h *Handler) readers(store string, timeout time.Duration) *readers {
	return &readers{ctx: h.ctx, store: store, timeout: timeout, slots: make(chan struct{}, maxReadings), wg: &h.wg}
}

func (h *Handler) newPipe(p Pipeline) (*pipe, error) {
	x := &pipe{Pipeline: p, h: h, asked: map[string]asked{}, ring: ring{started: h.started}}
	x.redis, x.postgres = h.readers("Redis", readTimeout), h.readers("Postgres", readTimeout)
	x.both = h.readers("One of the stores", booksTimeout)
	var err error
	if x.ledger, err = newLedger(p.Postgres, p.Table); err != nil {
		return nil, err
	}
	signals, err := pipeline.NewSignals(p.Redis, p.Queue.Name())
	if err != nil {
		return nil, err
	}
	unused := pipeline.Decode(func([]byte) (struct{}, error) { return struct{}{}, nil })
	if x.Find == nil {
		x.Find = (&finder{p: x}).find
	}
	x.flow = pipeline.Flow[struct{}]{Queue: p.Queue, Chain: unused, Table: x.ledger, Signals: signals}

	fast := h.cfg.Interval
	slow := max(slowInterval, fast)
	x.stats = &reading[queue.Stats]{in: x.redis, what: "the queue", maxAge: fast, read: p.Queue.Stats, use: x.ring.add}
	x.old = &reading[oldSum]{in: x.both, what: "the sum of the ledger", maxAge: sumAge, retry: fast, read: x.readOldSum}
	x.books = &reading[bookSet]{in: x.both, what: "the books", maxAge: fast, read: x.readBooks}
	x.head = &reading[[]record]{in: x.redis, what: "the ready list", maxAge: fast, read: x.readHead}
	x.flight = &reading[QueueBatches]{in: x.redis, what: "the batches in flight", maxAge: fast, read: x.readFlight}
	x.minutes = &reading[[]Minute]{in: x.postgres, what: "the throughput", maxAge: slow, read: x.ledger.readMinutes}
	x.codes = &reading[[]CodeCount]{in: x.postgres, what: "the rejects by code", maxAge: slow, read: x.ledger.readCodes}
	x.staged = &reading[Staged]{in: x.postgres, what: "the staged batches", maxAge: fast, read: x.ledger.readStaged}
	if p.Gate != nil {
		x.gate = &reading[backpressure.Stats]{in: x.redis, what: "the gate", maxAge: fast, read: p.Gate.Stats}
	}
	for _, l := range p.Lookups {
		x.lookups = append(x.lookups, &reading[lookup.Stats]{in: x.redis, what: "the lookup table " + l.Name(), maxAge: fast, read: l.Stats})
	}
	for _, w := range p.Windows {
		x.windows = append(x.windows, &reading[windowCounts]{in: x.redis, what: "the windows " + w.Name(), maxAge: fast, read: countWindows(w)})
	}
	if p.Views != nil {
		x.views = &reading[[]matview.Freshness]{in: x.postgres, what: "the views", maxAge: fast, read: p.Views.Freshness}
	}
	x.checks[0] = &reading[[]Check]{in: x.redis, what: "the checks of Redis", maxAge: slow, read: func(ctx context.Context) ([]Check, error) { return CheckRedis(ctx, x.Redis) }}
	x.checks[1] = &reading[[]Check]{in: x.postgres, what: "the checks of Postgres", maxAge: slow, read: func(ctx context.Context) ([]Check, error) { return CheckPostgres(ctx, x.Postgres) }}
	return x, nil
}

// maxAsked bounds the readings with parameters that are kept.
const maxAsked = 200

// ask returns the reading of a kind with parameters, which all pages with the same parameters
// share.
func ask[V any](p *pipe, in *readers, what, key string, read func(ctx context.Context) (V, error)) *reading[V] {
	key = what + "\x00" + key
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.asked[key]; ok {
		if r, ok := a.reading.(*reading[V]); ok {
			p.asked[key] = asked{r, time.Now()}
			return r
		}
	}
	if len(p.asked) >= maxAsked {
		oldest := key
		for k, a := range p.asked {
			if oldest == key || a.at.Before(p.asked[oldest].at) {
				oldest = k
			}
		}
		delete(p.asked, oldest)
	}
	r := &reading[V]{in: in, what: what, maxAge: p.h.cfg.Interval, read: read}
	p.asked[key] = asked{r, time.Now()}
	return r
}

// forget drops the answers that an action has made old.
func (p *pipe) forget() {
	p.mu.Lock()
	clear(p.asked)
	p.mu.Unlock()
	for _, r := range []interface{ expire() }{p.stats, p.books, p.head, p.flight, p.codes, p.staged} {
		r.expire()
	}
	if p.views != nil {
		p.views.expire()
	}
	for _, l := range p.lookups {
		l.expire()
	}
}

// bookSet is the books, and what is known of them.
type bookSet struct {
	books pipeline.Books
	// note is why the two stores are not compared.
	note string
	// table reports that the database has the table.
	table bool
	// summing reports that the old part of the ledger is still being summed: the books lack it.
	summing bool
	// since is the time of commit from which the stages of the books are counted.
	since time.Time
}

// oldSum is the sum of the part of the ledger that does not change any more.
type oldSum struct {
	sum   staging.Books
	until time.Time // the time of commit at which it ends
}

// lastBooks are the books of the reading before, to see that nothing moved.
type lastBooks struct {
	mu    sync.Mutex
	books pipeline.Books
}

const (
	// settled is the age beyond which no transaction commits into the ledger any more: its rows have
	// the time of their insertion.
	settled = 10 * time.Minute
	// sumAge is how long a sum of that part is used.
	sumAge = 15 * time.Minute
	// smallLedger is the size in bytes up to which the books wait for the sum: some 50,000 batches,
	// which take about 50 ms. With a larger one the pages are shown without it first.
	smallLedger = 8 << 20
)

// readBooks reads the books: the last minutes of the ledger each time, and the sum of the old part,
// which is read now and then. The first books of a large ledger do not wait for that.
func (p *pipe) readBooks(ctx context.Context) (b bookSet, err error) {
	old, err := p.oldPart(ctx)
	if isNoTable(err) {
		b.books.At = time.Now()
		b.books.Redis, err = p.Queue.Stats(ctx)
		return b, err
	}
	if err != nil {
		return b, err
	}
	b.summing = old.until.IsZero()
	if b.summing {
		if old.until, err = p.settledUntil(ctx); err != nil {
			return b, err
		}
	}
	b.table, b.since = true, old.until
	now, err := p.Queue.Stats(ctx)
	if err != nil {
		return b, fmt.Errorf("console: books: %w", err)
	}
	if now.HandedOffBatches > unackedBatches {
		b.note = fmt.Sprintf("The two stores are compared when at most %d batches are handed off.", unackedBatches)
		b.books.At, b.books.Redis = time.Now(), now
		if b.books.Postgres, err = p.ledger.BooksSince(ctx, old.until); err != nil {
			return b, err
		}
		if b.books.Stages, err = p.ledger.StageCounts(ctx, old.until); err != nil {
			return b, err
		}
	} else if b.books, err = p.flow.BooksSince(ctx, old.until); err != nil {
		return b, err
	}
	b.books.Postgres = add(old.sum, b.books.Postgres)
	if b.summing {
		b.books.Quiet, b.note = false, "The ledger is being summed; its lines follow."
		return b, nil
	}
	r := b.books.Redis
	p.last.mu.Lock()
	defer p.last.mu.Unlock()
	before := p.last.books
	still := r.Taken == before.Redis.Taken && r.Acked == before.Redis.Acked && r.HandedOff == before.Redis.HandedOff &&
		b.books.Postgres == before.Postgres && !before.At.IsZero()
	b.books.Quiet = still && b.note == "" && r.LeasedBatches == 0 && r.WaitingBatches == 0 && !b.books.Postgres.Pruned
	switch {
	case b.books.Quiet || b.note != "":
	case b.books.Postgres.Pruned:
		b.note = "The two stores are not compared: the ledger was pruned."
	default:
		b.note = "The two stores are compared when nothing moves."
	}
	p.last.books = b.books
	return b, nil
}

// oldPart returns the sum of the old part of the ledger. It waits for the first sum of a small
// ledger, and returns none while a large one is summed.
func (p *pipe) oldPart(ctx context.Context) (oldSum, error) {
	if a := p.old.get(); !a.ok && a.err == nil && a.waiting == 0 { // the first call
		bytes, err := p.ledger.size(ctx)
		if err != nil {
			return oldSum{}, err
		}
		p.waitsForSum.Store(bytes <= p.h.smallLedger)
	}
	done := p.old.refresh()
	if p.waitsForSum.Load() {
		select {
		case <-done:
		case <-ctx.Done():
			return oldSum{}, ctx.Err()
		}
	}
	a := p.old.get()
	if !a.ok && a.err != nil {
		return oldSum{}, a.err
	}
	return a.value, nil
}

// readOldSum sums the old part of the ledger.
func (p *pipe) readOldSum(ctx context.Context) (s oldSum, err error) {
	if s.until, err = p.settledUntil(ctx); err != nil {
		return s, err
	}
	s.sum, err = p.ledger.before(ctx, s.until)
	return s, err
}

// settledUntil is the time of commit before which the ledger does not change any more.
func (p *pipe) settledUntil(ctx context.Context) (time.Time, error) {
	now, err := p.ledger.Clock(ctx)
	return now.Add(-settled), err
}

// add adds the sums of two parts of the ledger.
func add(a, b staging.Books) staging.Books {
	return staging.Books{
		Batches: a.Batches + b.Batches, Void: a.Void + b.Void, Records: a.Records + b.Records, Kept: a.Kept + b.Kept,
		Duplicates: a.Duplicates + b.Duplicates, Filtered: a.Filtered + b.Filtered, Rejected: a.Rejected + b.Rejected,
		Staged: a.Staged + b.Staged, Rows: a.Rows + b.Rows, Conflicts: a.Conflicts + b.Conflicts,
		RejectedByRule: a.RejectedByRule + b.RejectedByRule, Pruned: a.Pruned || b.Pruned,
	}
}
