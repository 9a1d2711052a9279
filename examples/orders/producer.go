package orders

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/queue"
)

// Depth is how many records may wait or be under way before the gate holds producers back: one and
// a half seconds of work. A load that has no readers yet takes five seconds of its rate: promotions
// then find more rows on each page of the index.
const Depth = 100_000

// PushSize is the number of records that PushAll pushes at once, if Producer.Chunk is 0.
const PushSize = 500

// A Producer is what a program that only pushes needs: the queue and the gate before it. It needs
// no Postgres.
type Producer struct {
	Queue *queue.Queue
	Gate  *backpressure.Gate

	// Chunk is the number of records that PushAll pushes at once. 0: PushSize. A slow source takes a
	// smaller one: its records wait until a chunk is full.
	Chunk int
}

// OpenProducer opens the queue of that name and its gate. depth is the limit of the gate, 0: Depth.
// It creates nothing and does not close redis.
func OpenProducer(ctx context.Context, redis rueidis.Client, name string, depth int) (*Producer, error) {
	q, err := queue.New(ctx, redis, name, queue.Config{})
	if err != nil {
		return nil, err
	}
	gate, err := backpressure.New(ctx, redis, name, backpressure.Config{
		Records: backpressure.SourcesOf(q),
		High:    int64(cmp.Or(depth, Depth)),
	})
	if err != nil {
		return nil, err
	}
	return &Producer{Queue: q, Gate: gate}, nil
}

// Push pushes payloads as soon as the gate has room for them.
func (p *Producer) Push(ctx context.Context, payloads ...[]byte) error {
	room, err := p.Gate.Acquire(ctx, len(payloads))
	if err != nil {
		return err
	}
	return p.push(ctx, room, payloads)
}

func (p *Producer) push(ctx context.Context, room *backpressure.Reservation, payloads [][]byte) error {
	if err := p.Queue.Push(ctx, payloads...); err != nil {
		return err // the reservation expires: whether the records are in the queue may be unknown
	}
	return room.Release(ctx)
}

// PushObserver follows PushAll. Each function may be nil.
type PushObserver struct {
	// Pushed reports a chunk of records with the time that the push took and the time that the gate
	// held it back.
	Pushed func(records int, took, waited time.Duration)
	// Full reports that the gate has closed and PushAll waits, Room that it goes on.
	Full func(why *backpressure.FullError)
	Room func()
	// Away reports that Redis does not accept a push and PushAll retries, Back that it accepts pushes
	// again.
	Away func(err error)
	Back func()
}

// PushResult is what PushAll did.
type PushResult struct {
	// Records is the number of records that are in the queue.
	Records int
	// Repeated is the number of records that were pushed again because the reply to their first push
	// was lost. The dedup stage drops those that arrived twice.
	Repeated int
}

// PushAll pushes payloads in chunks until there are none left or ctx is done. While the gate is
// closed and while Redis is unavailable it waits. A record whose reply is lost is pushed again, so
// a record may arrive twice and never zero times.
func (p *Producer) PushAll(ctx context.Context, payloads iter.Seq[[]byte], o PushObserver) (PushResult, error) {
	var done PushResult
	var err error
	chunk := make([][]byte, 0, cmp.Or(p.Chunk, PushSize))
	for payload := range payloads {
		if chunk = append(chunk, payload); len(chunk) == cap(chunk) {
			if err = p.pushChunk(ctx, chunk, o, &done); err != nil {
				return done, err
			}
			chunk = chunk[:0]
		}
	}
	if len(chunk) > 0 {
		err = p.pushChunk(ctx, chunk, o, &done)
	}
	return done, err
}

// The pauses between two attempts while Redis is unavailable.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

func (p *Producer) pushChunk(ctx context.Context, chunk [][]byte, o PushObserver, done *PushResult) error {
	away := false
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		pushed, err := p.tryChunk(ctx, chunk, o)
		done.Records += pushed
		chunk = chunk[pushed:]
		if err == nil {
			if away && o.Back != nil {
				o.Back()
			}
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !temporary(err) {
			return err
		}
		if failed := new(queue.PushError); errors.As(err, &failed) {
			done.Repeated += failed.Unknown
		}
		if !away && o.Away != nil {
			o.Away(err)
		}
		away = true
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// tryChunk waits for the gate and pushes once. It returns the number of records that are in the
// queue.
func (p *Producer) tryChunk(ctx context.Context, chunk [][]byte, o PushObserver) (pushed int, err error) {
	start := time.Now()
	room, err := p.Gate.TryAcquire(ctx, len(chunk))
	if full := new(backpressure.FullError); errors.As(err, &full) {
		if o.Full != nil {
			o.Full(full)
		}
		if room, err = p.Gate.Acquire(ctx, len(chunk)); err == nil && o.Room != nil {
			o.Room()
		}
	}
	if err != nil {
		return 0, err
	}
	waited := time.Since(start)
	start = time.Now()
	err = p.push(ctx, room, chunk)
	failed := new(queue.PushError)
	switch {
	case errors.As(err, &failed):
		pushed = failed.Pushed
	case err == nil, errors.Is(err, backpressure.ErrExpired):
		pushed, err = len(chunk), nil // an expired reservation was pushed all the same
	default:
		return 0, err
	}
	if pushed > 0 && o.Pushed != nil {
		o.Pushed(pushed, time.Since(start), waited)
	}
	return pushed, err
}

// temporary reports whether a push may succeed later: Redis is unavailable, loads its data, is at
// its maxmemory or changes roles. Any other error is final.
func temporary(err error) bool {
	if errors.Is(err, queue.ErrMemory) || errors.Is(err, backpressure.ErrFull) {
		return true
	}
	answer := new(rueidis.RedisError)
	if !errors.As(err, &answer) {
		return errors.As(err, new(net.Error)) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
			errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rueidis.ErrNoSlot)
	}
	for _, prefix := range []string{"LOADING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "BUSY", "UNBLOCKED", "NOREPLICAS"} {
		if strings.HasPrefix(answer.Error(), prefix) {
			return true
		}
	}
	return false
}
