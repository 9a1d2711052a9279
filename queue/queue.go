package queue

import (
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"
)

var errStub = errors.New("queue: not written yet")

// Queue is one queue on one Redis. This type is concurrency safe.
type Queue struct {
	c    rueidis.Client
	name string
	cfg  Config
}

// New opens the queue called name. It does not create anything in Redis, checks that the keys of the queue hold what
// they should, and never closes client.
func New(ctx context.Context, client rueidis.Client, name string, cfg Config) (*Queue, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := cfg.withDefaults(); err != nil {
		return nil, err
	}
	return &Queue{c: client, name: name, cfg: cfg}, nil
}

// Name is the name given to New.
func (q *Queue) Name() string { return q.name }

func (q *Queue) Push(ctx context.Context, payloads ...[]byte) error { return errStub }
func (q *Queue) PushAt(ctx context.Context, at time.Time, payloads ...[]byte) error {
	return errStub
}
func (q *Queue) Pause(ctx context.Context) error  { return errStub }
func (q *Queue) Resume(ctx context.Context) error { return errStub }

func (q *Queue) Lease(ctx context.Context, o LeaseOptions) (*Batch, error)    { return nil, errStub }
func (q *Queue) TryLease(ctx context.Context, o LeaseOptions) (*Batch, error) { return nil, errStub }
func (q *Queue) Extend(ctx context.Context, b *Batch, d time.Duration) error  { return errStub }
func (q *Queue) Handoff(ctx context.Context, b *Batch) error                  { return errStub }
func (q *Queue) Release(ctx context.Context, b *Batch, o ReleaseOptions) error {
	return errStub
}
func (q *Queue) Ack(ctx context.Context, ids ...string) (int, error)   { return 0, errStub }
func (q *Queue) AckWith(ctx context.Context, acks ...Ack) (int, error) { return 0, errStub }

// Get reads a batch without leasing it. ErrGone: there is none.
func (q *Queue) Get(ctx context.Context, id string) (*Batch, error) { return nil, errStub }

// Settle finishes what the ledger says of b, whoever holds it: promoted → acknowledged; void → split or buried.
func (q *Queue) Settle(ctx context.Context, b *Batch, s Settlement) error { return errStub }

func (q *Queue) Reconcile(ctx context.Context, known Known, settle Settle) (Reconciled, error) {
	return Reconciled{}, errStub
}
func (q *Queue) Handed(ctx context.Context) ([]Handed, error) { return nil, errStub }
func (q *Queue) Stats(ctx context.Context) (Stats, error)     { return Stats{}, errStub }

// Dead lists n dead records from cursor ("" to begin), oldest first; next is "" at the end.
func (q *Queue) Dead(ctx context.Context, cursor string, n int) (dead []Dead, next string, err error) {
	return nil, "", errStub
}
func (q *Queue) Requeue(ctx context.Context, ids ...string) (int, error) { return 0, errStub }
func (q *Queue) RequeueAll(ctx context.Context) (int, error)             { return 0, errStub }
func (q *Queue) Drop(ctx context.Context, ids ...string) (int, error)    { return 0, errStub }
