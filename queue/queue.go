package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/internal/uid"
)

// Queue is one queue on one Redis. This type is concurrency safe.
type Queue struct {
	client rueidis.Client
	server *redisx.Server
	name   string
	tag    string // "{name}:"
	prefix string // "{name}:queue:"
	cfg    Config
	keys   []string // KEYS of every script; see common.lua

	fast    bool          // the server can move records without showing them to Lua
	turn    chan struct{} // held by the one consumer of this process that waits at the server
	sealing chan struct{} // held by each lease of a large batch, as long as the server takes
	met     atomic.Int64  // when this Queue has last seen records to lease, in Unix nanoseconds

	pace redisx.Pace // of the pushes

	unanswered unanswered
	replyLimit atomic.Int64 // the server's bound of a reply, once one was lost; 0: none
	narrowed   atomic.Int64 // the bound after replies were lost though the server has none; 0: none
	whole      atomic.Int64 // leases that were answered since
}

// A Queue asks for at most maxSealing batches of largeBatch records or more at a time. With dozens
// under way, Redis first builds all replies and then sends them all, and neither side works while
// the other does. Small batches are not bounded: a slow network needs many of them under way.
const maxSealing, largeBatch = 8, 500

// Indexes of Queue.keys, in the order of common.lua.
const (
	keyReady = iota
	keyStat
	keyLeases
	keyRedo
	keyHanded
	keyOpen
	keyDelayed
	keyDead
	keyBroken
	keyPushing
	keyNever
)

// keyTypes are the type of each of Queue.keys.
var keyTypes = []string{"list", "hash", "zset", "zset", "zset", "zset", "zset", "zset", "zset", "zset", "none"}

// typeOf returns one of Queue.keys with its type.
func (q *Queue) typeOf(key int) redisx.KeyType {
	return redisx.KeyType{Key: q.keys[key], Type: keyTypes[key]}
}

// New opens the queue with the given name. It probes the features of the server and checks that the
// keys under the name belong to a queue of this version. The name of a queue with shards is
// ErrConfig: see [NewShards]. New writes nothing. It never closes client.
func New(ctx context.Context, client rueidis.Client, name string, cfg Config) (*Queue, error) {
	if err := redisx.CheckName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := cfg.withDefaults(); err != nil {
		return nil, err
	}
	if err := redisx.CheckClient(client); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	q := &Queue{
		client: client, name: name, tag: "{" + name + "}:", prefix: "{" + name + "}:queue:", cfg: cfg,
		turn: make(chan struct{}, 1), sealing: make(chan struct{}, maxSealing),
	}
	q.keys = append(q.keys, q.tag+"ready")
	for _, k := range []string{"stat", "leases", "redo", "handed", "open", "delayed", "dead", "broken", "pushing", "never"} {
		q.keys = append(q.keys, q.prefix+k)
	}
	var err error
	if q.server, err = redisx.Open(ctx, client, q.keys[keyNever]); err != nil {
		return nil, wrap("open "+name, err)
	}
	for _, check := range []func(context.Context) error{q.checkTypes, q.checkLayout, q.probe, q.checkEviction, q.checkDurable} {
		if err := check(ctx); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// newID returns the id of a new batch. Its last 14 bits are the cluster slot of the queue, so a
// program that has only the id of a batch finds its shard.
func (q *Queue) newID() string { return uid.NewTagged(uint16(slot(q.name))) }

// Name returns the name given to New.
func (q *Queue) Name() string { return q.name }

// DepthKeys returns the keys that hold the depth of the queue: lists, whose lengths count, and the
// fields of a hash to add and to subtract. Every script that moves records changes these in the
// same step. A gate of package backpressure takes them as its sources.
func (q *Queue) DepthKeys() (lists []string, hash string, plus, minus []string) {
	return []string{q.keys[keyReady]}, q.keys[keyStat], []string{"inflight", "delayed"}, nil
}

// LagKey returns the key of the sorted set of batches in flight, scored by the Unix time in
// milliseconds at which their records were sealed or requeued. Its first element is the oldest.
func (q *Queue) LagKey() string { return q.keys[keyOpen] }

// sharedKeys returns Queue.keys and the key of the positions, which only one script uses.
func (q *Queue) sharedKeys() []string { return append(slices.Clone(q.keys), q.positionsType().Key) }

func (q *Queue) checkTypes(ctx context.Context) error {
	keys := append(q.sharedKeys(), shardsKey(q.name))
	types := q.server.ReadAll(ctx, func() []rueidis.Completed {
		var cmds []rueidis.Completed
		for _, k := range keys {
			cmds = append(cmds, q.server.Command("TYPE", k))
		}
		return cmds
	})
	for i, want := range slices.Concat(keyTypes, []string{"hash", "none"}) {
		t, err := types[i].ToString()
		switch {
		case err != nil:
			return wrap("open "+q.name, err)
		case t == "none" || t == want:
		case i == len(keys)-1:
			return fmt.Errorf("%w: New: name is %q, which is a queue with shards: open it with NewShards, or one of its shards", ErrConfig, q.name)
		default:
			return &WrongTypeError{Key: keys[i], Type: t, Want: want}
		}
	}
	return nil
}

// checkLayout compares the layout of the data with that of this program. Every script that writes
// compares it again.
func (q *Queue) checkLayout(ctx context.Context) error {
	have, err := q.server.Read(ctx, "HGET", q.keys[keyStat], "layout").ToString()
	switch {
	case rueidis.IsRedisNil(err), err == nil && have == layout:
		return nil
	case err != nil:
		return wrapKeys(ctx, q.server, "open "+q.name, err, q.typeOf(keyStat))
	}
	return q.layoutError(have)
}

func (q *Queue) layoutError(have string) error {
	return &LayoutError{Queue: q.name, Have: cut(have, maxText), Want: layout}
}

// probe looks for features, not versions: miniredis reports the version of a Redis 8. It sorts
// nothing into nothing, which deletes the key that never exists. It returns an error that it does
// not know, because that may be a temporary refusal.
func (q *Queue) probe(ctx context.Context) (err error) {
	q.fast, err = q.server.Probe(ctx, `local sorted = redis.pcall('SORT', KEYS[1], 'BY', 'nosort', 'LIMIT', 0, 1, 'STORE', KEYS[1])
local memory = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 0)
for _, reply in ipairs({sorted, memory}) do
  if type(reply) == 'table' and reply.err then return reply end
end
return 1`)
	if err != nil || !q.fast {
		return wrap("open "+q.name, err)
	}
	// A list that Redis compresses takes less memory than its records have bytes.
	depth, err := q.server.Setting(ctx, "list-compress-depth")
	if err != nil {
		return wrap("open "+q.name, err)
	}
	q.fast = depth == "" || depth == "0"
	return nil
}

func (q *Queue) checkEviction(ctx context.Context) error {
	if q.cfg.Eviction == EvictionIgnore {
		return nil
	}
	policy, err := q.server.EvictionPolicy(ctx)
	if err != nil || policy == "" {
		return wrap("open "+q.name, err)
	}
	if q.cfg.Eviction == EvictionRefuse {
		return fmt.Errorf("%w: maxmemory-policy is %s, must be noeviction", ErrEviction, policy)
	}
	q.cfg.Logger.WarnContext(ctx, "queue: Redis may evict the queue when its memory is full; set maxmemory-policy to noeviction",
		"queue", q.name, "maxmemory-policy", policy)
	return nil
}

func (q *Queue) checkDurable(ctx context.Context) error {
	if !q.cfg.Push.Durable {
		return nil
	}
	err := q.server.ProbeAOF(ctx)
	if errors.Is(err, redisx.ErrNoAOF) {
		return fmt.Errorf("%w: %w", ErrNoAOF, err)
	}
	return wrap("open "+q.name, err)
}

// Pause stops every consumer of the queue, in all processes, from leasing. Leased batches are not
// affected. Waiting consumers stay in Lease. Pause and Resume also work at maxmemory.
func (q *Queue) Pause(ctx context.Context) error {
	err := q.run(ctx, pauseScript, drains).Error()
	return q.wrapScript(ctx, "pause", err)
}

// Resume ends a Pause. A waiting consumer notices within Config.Lease.PollInterval.
func (q *Queue) Resume(ctx context.Context) error {
	if err := q.checkLayout(ctx); err != nil {
		return err
	}
	err := q.server.Retry(ctx, func() error {
		return q.client.Do(ctx, q.client.B().Hdel().Key(q.keys[keyStat]).Field("paused").Build()).Error()
	})
	return wrapKeys(ctx, q.server, "resume", err, q.typeOf(keyStat))
}
