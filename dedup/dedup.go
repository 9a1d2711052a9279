package dedup

import (
	"context"
	"strconv"

	"github.com/redis/rueidis"
)

// Window is a sliding window of ids on Redis. It holds no state of its own: any number of Windows of one name, in any
// number of processes, are one window. This type is concurrency safe.
type Deduplicator struct {
	client rueidis.Client
	name   string
	cfg    Config
	keys   []string // of every script, see tables.lua
	prefix string   // of the keys of all tables
	head   []string // the arguments that every script begins with
}

// New makes a window on the caller's client, which it never closes. It asks the server whether it evicts keys and,
// in strict mode, whether it has an append-only file.
func New(ctx context.Context, client rueidis.Client, name string, cfg Config) (*Deduplicator, error) {
	cfg, err := cfg.withDefaults(name)
	if err != nil {
		return nil, err
	}
	w := &Deduplicator{client: client, name: name, cfg: cfg, keys: []string{"{" + name + "}:dedup", "{" + name + "}:dedup:never"}, prefix: "{" + name + "}:d:"}
	w.head = []string{strconv.FormatInt(cfg.Window.Milliseconds(), 10), w.prefix, strconv.FormatInt(cfg.ExpectedIDs, 10)}
	if err := w.check(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

// Verdict is what a claim says about one id.
type Verdict uint8

const (
	// Fresh says that this place holds the id. Go on with the record.
	VerdictFresh Verdict = 1 + iota
	// Duplicate says that another place holds the id within the window. Drop the record, and count it.
	VerdictDuplicate
)

// String names the verdict.
func (v Verdict) String() string {
	switch v {
	case VerdictFresh:
		return "fresh"
	case VerdictDuplicate:
		return "duplicate"
	}
	return "none"
}

// Batch says which batch the ids belong to.
type Batch struct {
	// Guard is the key of a hash that lives exactly as long as the batch. The verdicts are kept in its field
	// "r:dedup", one byte a record. Empty: no batch that could vanish, and no verdict kept.
	Guard string
	// Root names the batch that the records were sealed in; it stays the same when the batch is split. Required.
	Root string
	// Offset is where this batch begins in its root.
	Offset int
	// Records is how many records the batch has.
	Records int
}

// Name returns the window's name.
func (w *Deduplicator) Name() string { return w.name }
