package dedup

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

// Deduplicator drops duplicates within a sliding window of ids on Redis. It holds no state of its
// own: all Deduplicators with one name, in any number of processes, share one window. This type is
// concurrency safe.
type Deduplicator struct {
	server *redisx.Server
	name   string
	cfg    Config
	keys   []string                // KEYS of every script, see tables.lua
	head   []string                // the arguments that every script begins with
	asText bool                    // whether to pass numbers to scripts as strings
	tables atomic.Pointer[[]table] // as this process knows them, newest first
}

// New returns a Deduplicator on the caller's client, which it never closes. It checks whether the
// server evicts keys and, with Config.Durable, whether it has an append-only file.
func New(ctx context.Context, client rueidis.Client, name string, cfg Config) (*Deduplicator, error) {
	cfg, err := cfg.withDefaults(name)
	if err != nil {
		return nil, err
	}
	if err := redisx.CheckClient(client); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	prefix := "{" + name + "}:dedup:"
	d := &Deduplicator{name: name, cfg: cfg, keys: []string{prefix + "state", prefix + "never"}}
	d.head = []string{strconv.FormatInt(cfg.Window.Milliseconds(), 10), prefix + "t:", strconv.FormatInt(cfg.ExpectedIDs, 10), strconv.FormatBool(cfg.Digest)}
	d.tables.Store(&[]table{})
	if d.server, err = redisx.Open(ctx, client, prefix+"never"); err != nil {
		return nil, fmt.Errorf("dedup: %w", err)
	}
	if err := d.checkEviction(ctx); err != nil {
		return nil, err
	}
	if cfg.Durable {
		if err := d.server.ProbeAOF(ctx); errors.Is(err, redisx.ErrNoAOF) {
			return nil, fmt.Errorf("%w: %w", ErrNoAOF, err)
		} else if err != nil {
			return nil, fmt.Errorf("dedup: %w", err)
		}
	}
	s, err := d.state(ctx, "read") // it also checks the layout and the digest of a window that is there already
	if err != nil {
		return nil, err
	}
	d.asText = s.version > 0 && s.version < fastFormat
	return d, nil
}

// checkEviction checks the server's maxmemory-policy.
func (d *Deduplicator) checkEviction(ctx context.Context) error {
	if d.cfg.Eviction == EvictionIgnore {
		return nil
	}
	policy, err := d.server.EvictionPolicy(ctx)
	if err != nil {
		return fmt.Errorf("dedup: %w", err)
	}
	if policy == "" {
		return nil
	}
	if d.cfg.Eviction == EvictionRefuse {
		return fmt.Errorf("%w: maxmemory-policy is %s, must be noeviction", ErrEviction, policy)
	}
	d.cfg.Logger.Warn("dedup: Redis may evict claims when its memory is full, and then duplicates pass: set maxmemory-policy to noeviction",
		"name", d.name, "maxmemory-policy", policy)
	return nil
}

// Name returns the name given to New.
func (d *Deduplicator) Name() string { return d.name }

// Verdict is the outcome of one claim.
type Verdict uint8

const (
	// VerdictFresh means that this place holds the id. Process the record.
	VerdictFresh Verdict = 1 + iota
	// VerdictDuplicate means that another place holds the id within the window. Drop the record,
	// and count it.
	VerdictDuplicate
)

// String returns "fresh", "duplicate", or "none" for the zero Verdict.
func (v Verdict) String() string {
	switch v {
	case VerdictFresh:
		return "fresh"
	case VerdictDuplicate:
		return "duplicate"
	}
	return "none"
}

// Batch is the batch whose records claim ids.
type Batch struct {
	// Guard is the key of a hash that lives exactly as long as the batch. The verdicts are stored in
	// its field "r:dedup", one byte per record. Empty: no verdict is stored, and no batch can be gone.
	Guard string
	// Root identifies the batch in which the records were sealed. It stays the same when the batch is
	// split. Required.
	Root string
	// Offset is the position of this batch's first record in its root.
	Offset int
	// Records is the number of records in the batch.
	Records int
}
