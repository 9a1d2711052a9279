package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Queue is one queue on one Redis. This type is concurrency safe.
type Queue struct {
	c      rueidis.Client
	name   string
	prefix string // "{name}:"
	cfg    Config
	keys   []string // KEYS of every script

	oomFlag bool          // the server takes scripts that may write at maxmemory
	fast    bool          // the server can move records without showing them to Lua
	turn    chan struct{} // held by the one consumer of this process that waits at the server
	sealing chan struct{} // held by each that leases a large batch, as long as the server takes
}

// maxSealing bounds the leases of large batches that one Queue asks for at a time. With dozens under way Redis first makes all of them and then sends all of them,
// megabytes on each connection, and neither side has anything to do while the other has: 64 consumers took 0.72 of what 16 did, and take as much now.
// Small batches are not bounded: where the network is slow they need many on their way.
const maxSealing, largeBatch = 8, 500

// Indexes of Queue.keys.
const (
	kReady = iota
	kStat
	kLeases
	kRedo
	kHanded
	kOpen
	kDelayed
	kNever
)

// New opens the queue called name. It creates nothing in Redis: it looks what the server can do, and whether the keys
// under the name are a queue's. It never closes client.
func New(ctx context.Context, client rueidis.Client, name string, cfg Config) (*Queue, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := cfg.withDefaults(); err != nil {
		return nil, err
	}
	q := &Queue{c: client, name: name, prefix: "{" + name + "}:", cfg: cfg, turn: make(chan struct{}, 1), sealing: make(chan struct{}, maxSealing)}
	for _, k := range []string{"ready", "stat", "leases", "redo", "handed", "open", "delayed", "never"} {
		q.keys = append(q.keys, q.prefix+k)
	}
	if err := q.checkTypes(ctx); err != nil {
		return nil, err
	}
	if err := q.probe(ctx); err != nil {
		return nil, err
	}
	if err := q.checkEviction(ctx); err != nil {
		return nil, err
	}
	if cfg.Push.Durable {
		if err := q.checkDurable(ctx); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// Name is the name given to New.
func (q *Queue) Name() string { return q.name }

func (q *Queue) checkTypes(ctx context.Context) error {
	want := map[string]string{
		q.keys[kReady]: "list", q.keys[kStat]: "hash", q.keys[kLeases]: "zset", q.keys[kRedo]: "zset",
		q.keys[kHanded]: "zset", q.keys[kOpen]: "zset", q.keys[kDelayed]: "zset", q.prefix + "dead": "zset", q.keys[kNever]: "none",
	}
	var cmds []rueidis.Completed
	var keys []string
	for k := range want {
		keys = append(keys, k)
		cmds = append(cmds, q.c.B().Type().Key(k).Build())
	}
	for i, r := range q.c.DoMulti(ctx, cmds...) {
		t, err := r.ToString()
		if err != nil {
			return wrap("open "+q.name, err)
		}
		if t != "none" && t != want[keys[i]] {
			return &WrongTypeError{Key: keys[i], Type: t, Want: want[keys[i]]}
		}
	}
	return nil
}

// probe asks for features, not versions: miniredis says that it is Redis 8.
func (q *Queue) probe(ctx context.Context) error {
	never := q.keys[kNever]
	do := func(script string) (bool, error) {
		s, err := q.c.Do(ctx, q.c.B().Eval().Script(script).Numkeys(1).Key(never).Build()).ToInt64()
		if _, ok := rueidis.IsRedisErr(err); ok || rueidis.IsRedisNil(err) {
			return false, nil
		}
		return s == 1, err
	}
	var err error
	if q.oomFlag, err = do(oomHeader + "return 1"); err != nil {
		return wrap("open "+q.name, err)
	}
	// Sorting nothing into nothing: it deletes the key that never exists.
	q.fast, err = do(`local a = redis.pcall('SORT', KEYS[1], 'BY', 'nosort', 'LIMIT', 0, 1, 'STORE', KEYS[1])
local b = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 0)
return (a == 0 and b == false) and 1 or 0`)
	if err != nil {
		return wrap("open "+q.name, err)
	}
	if q.fast {
		// A list that Redis compresses takes less memory than its records have bytes.
		if v, ok := q.config(ctx, "list-compress-depth"); ok && v != "0" {
			q.fast = false
		}
	}
	return nil
}

// config reads one setting of the server. false: it does not say.
func (q *Queue) config(ctx context.Context, name string) (string, bool) {
	// In a cluster the setting of whatever node answers is taken for that of all.
	m, err := q.c.Do(ctx, q.c.B().ConfigGet().Parameter(name).Build()).AsStrMap()
	if err != nil {
		return "", false
	}
	v, ok := m[name]
	return v, ok
}

func (q *Queue) checkEviction(ctx context.Context) error {
	if q.cfg.Eviction == EvictionIgnore {
		return nil
	}
	policy, ok := q.config(ctx, "maxmemory-policy")
	if !ok || policy == "noeviction" {
		return nil
	}
	if q.cfg.Eviction == EvictionRefuse {
		return fmt.Errorf("%w: maxmemory-policy is %s: set it to noeviction", ErrEviction, policy)
	}
	q.cfg.Logger.WarnContext(ctx, "queue: Redis may evict the queue when its memory is full: set maxmemory-policy to noeviction",
		"queue", q.name, "maxmemory-policy", policy)
	return nil
}

// checkDurable tries WAITAOF on a connection that has written nothing, which has nothing to wait for: an error says that the server has
// no AOF, or no such command.
func (q *Queue) checkDurable(ctx context.Context) error {
	// The first command takes it to the node that has the queue.
	err := q.together(ctx, []rueidis.Completed{q.c.B().Exists().Key(q.keys[kNever]).Build(), q.waitAOF(time.Millisecond)})[1].Error()
	if _, ok := rueidis.IsRedisErr(err); ok {
		why := "it needs Redis 7.2 or Valkey"
		if strings.Contains(err.Error(), "appendonly") {
			why = "set appendonly yes"
		}
		return fmt.Errorf("%w: %s: %w", ErrNoAOF, why, err)
	}
	return wrap("open "+q.name, err)
}

func (q *Queue) waitAOF(timeout time.Duration) rueidis.Completed {
	return q.c.B().Waitaof().Numlocal(1).Numreplicas(0).Timeout(timeout.Milliseconds()).Build()
}

// Pause keeps every consumer from leasing, here and elsewhere; what is leased goes on. Waiting consumers stay in Lease.
func (q *Queue) Pause(ctx context.Context) error {
	return wrap("pause", q.c.Do(ctx, q.c.B().Hset().Key(q.keys[kStat]).FieldValue().FieldValue("paused", "1").Build()).Error())
}

// Resume ends a Pause. A waiting consumer notices within Config.Lease.PollInterval.
func (q *Queue) Resume(ctx context.Context) error {
	return wrap("resume", q.c.Do(ctx, q.c.B().Hdel().Key(q.keys[kStat]).Field("paused").Build()).Error())
}

// Stats reads the books in one step. Its cost does not depend on what the queue holds.
func (q *Queue) Stats(ctx context.Context) (Stats, error) {
	v, err := q.run(ctx, statsScript, true, q.prefix).AsIntSlice()
	if err != nil {
		return Stats{}, wrap("stats", err)
	}
	if len(v) != 16 {
		return Stats{}, errors.New("queue: stats: strange reply")
	}
	s := Stats{
		Ready: v[0], LeasedBatches: v[1], WaitingBatches: v[2], HandedOffBatches: v[3],
		Delayed: v[5], InFlight: v[6], HandedOff: v[7], Dead: v[8], Taken: v[9], Acked: v[10], Discarded: v[11],
		Redelivered: v[12], Requeued: v[13], Splits: v[14], Paused: v[15] != 0,
	}
	if v[4] > 0 {
		s.OldestAge = time.Duration(v[4]) * time.Millisecond
	}
	return s, nil
}
