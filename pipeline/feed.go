package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/headrace/headrace/queue"
)

// sourceGrace is how long Feed waits at its end for a source that is reading.
const sourceGrace = 100 * time.Millisecond

// FeedConfig configures [Feed]. The zero value takes the defaults.
type FeedConfig struct {
	// Records is how many records are pushed at once. Default [queue.DefaultChunk]. A record of a slow
	// source does not wait for others: it is pushed after [DefaultLinger].
	Records int
	// OnError decides about a [LineError]: nil skips the record, an error ends the feed with it.
	// Nil: the first one ends the feed.
	OnError func(err *LineError) error
}

// FeedResult counts what [Feed] did.
type FeedResult struct {
	Pushed  int64 // records that are in the queue
	Unknown int64 // records whose push failed with an unknown outcome
	Skipped int64 // records that OnError skipped
}

// Feed pushes the records of a source. push is the Push of a queue, or a function that first
// acquires room at a gate. When a push fails, Feed returns its error, and the result states how far
// it got: to continue, skip Pushed+Skipped records. The outcome of the next Unknown records is
// unknown; pushing them again may duplicate them, and a [Dedup] stage drops the duplicates. Where
// the source cannot be read again, such as standard input, let push itself retry.
//
// When ctx ends, Feed returns its error, even while the source waits for its next record. Feed then
// abandons the source, which runs in a goroutine of its own and ends at that record. So does a push
// that fails while the source waits.
func Feed(ctx context.Context, source Source, push func(ctx context.Context, payloads ...[]byte) error, cfg FeedConfig) (r FeedResult, err error) {
	if source == nil || push == nil {
		return r, fmt.Errorf("%w: the source or the push of Feed is nil, must be functions", ErrConfig)
	}
	cfg.Records = cmp.Or(cfg.Records, queue.DefaultChunk)
	if err := (intField{"FeedConfig.Records", cfg.Records, 1, queue.MaxRecords}).validate(); err != nil {
		return r, err
	}
	f := feed{push: push, cfg: cfg, in: newIntake(cfg.Records)}
	go f.in.run(source)
	defer f.in.end()
	err = f.run(ctx)
	return f.result, err
}

// feed is a [Feed] in progress.
type feed struct {
	push   func(ctx context.Context, payloads ...[]byte) error
	cfg    FeedConfig
	in     *intake
	chunk  [][]byte // read and not yet pushed
	result FeedResult
}

func (f *feed) run(ctx context.Context) error {
	linger := time.NewTimer(DefaultLinger)
	defer linger.Stop()
	linger.Stop()
	for ctx.Err() == nil {
		late := false
		select {
		case <-ctx.Done():
			continue
		case <-f.in.some:
			if len(f.chunk) == 0 {
				linger.Reset(DefaultLinger)
			}
			continue
		case <-linger.C:
			late = true
		case <-f.in.full:
		}
		read := f.in.take()
		f.chunk = append(f.chunk, read.payloads...)
		err := f.judge(read)
		if err != nil || late || read.last || len(f.chunk) == f.cfg.Records {
			linger.Stop()
			err = errors.Join(err, f.flush(ctx))
		}
		if err != nil || read.last {
			return err
		}
		if read.waits {
			f.in.resume(f.cfg.Records - len(f.chunk))
		}
	}
	return ctx.Err()
}

// judge returns the error that ends the feed.
func (f *feed) judge(read intakeChunk) error {
	if read.panicked != nil {
		panic(read.panicked)
	}
	var bad *LineError
	if f.cfg.OnError == nil || !errors.As(read.err, &bad) {
		return read.err
	}
	err := f.cfg.OnError(bad)
	if err == nil {
		f.result.Skipped++
	}
	return err
}

// flush pushes the chunk and counts what became of it.
func (f *feed) flush(ctx context.Context) error {
	if len(f.chunk) == 0 {
		return nil
	}
	err := f.push(ctx, f.chunk...)
	var partly *queue.PushError
	var parted *queue.ShardsPushError
	switch {
	case err == nil:
		f.result.Pushed += int64(len(f.chunk))
	case errors.As(err, &partly):
		f.result.Pushed += int64(partly.Pushed)
		f.result.Unknown = int64(partly.Unknown)
	case errors.As(err, &parted): // what follows the first missing one may be in another shard
		first := slices.Min(slices.Concat(parted.Rest, parted.Unknown, []int{len(f.chunk)}))
		f.result.Pushed += int64(first)
		f.result.Unknown = int64(len(f.chunk) - first)
	}
	f.chunk = nil
	return err
}

// intake reads a source in a goroutine of its own, because a source that waits for its next record
// cannot be interrupted. The source waits whenever Feed has to act: after room records, and after
// an error. So it runs while Feed pushes only if it is slow.
type intake struct {
	mu   sync.Mutex
	read intakeChunk
	room int // records until the source waits

	some chan struct{} // there is a record in read
	full chan struct{} // the source waits, or has ended
	more chan struct{} // the source may go on
	stop chan struct{} // Feed has ended
	done chan struct{} // the source has ended
}

// intakeChunk is what a source has yielded: payloads, and after them perhaps an error.
type intakeChunk struct {
	payloads [][]byte
	err      error
	waits    bool // the source waits
	last     bool // the source has ended
	panicked *panicError
}

func newIntake(room int) *intake {
	return &intake{
		room: room, some: make(chan struct{}, 1), full: make(chan struct{}, 1), more: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
}

// run reads the source until it ends, or until its next record after the end of Feed.
func (in *intake) run(source Source) {
	defer close(in.done)
	returned := false
	defer func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		if p := recover(); p != nil {
			in.read.panicked = newPanicError("the source", p)
		} else if !returned && in.read.err == nil {
			in.read.err = errors.New("pipeline: the goroutine of the source has ended")
		}
		in.read.last = true
		signal(in.full)
	}()
	for payload, err := range source {
		if !in.add(payload, err) {
			break
		}
	}
	returned = true
}

// add adds a record, and waits if Feed has to act. It returns false when Feed has ended.
func (in *intake) add(payload []byte, err error) bool {
	select {
	case <-in.stop:
		return false
	default:
	}
	in.mu.Lock()
	if err != nil {
		in.read.err = err
	} else if in.read.payloads = append(in.read.payloads, payload); len(in.read.payloads) == 1 {
		signal(in.some)
	}
	in.read.waits = err != nil || len(in.read.payloads) >= in.room
	waits := in.read.waits
	if waits {
		signal(in.full)
	}
	in.mu.Unlock()
	if !waits {
		return true
	}
	select {
	case <-in.more:
		return true
	case <-in.stop:
		return false
	}
}

// signal fills a channel of one place.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take returns what was read. A source that does not wait may read another chunk meanwhile.
func (in *intake) take() intakeChunk {
	in.mu.Lock()
	defer in.mu.Unlock()
	read := in.read
	in.read = intakeChunk{}
	for _, c := range []chan struct{}{in.some, in.full} { // they were about what is taken now
		select {
		case <-c:
		default:
		}
	}
	return read
}

// resume lets a source that waits go on.
func (in *intake) resume(room int) {
	in.mu.Lock()
	in.room = room
	in.mu.Unlock()
	in.more <- struct{}{}
}

// end stops the source. It does not wait for long: the source may wait for a record that never
// comes.
func (in *intake) end() {
	close(in.stop)
	select {
	case <-in.done:
	case <-time.After(sourceGrace):
	}
}
