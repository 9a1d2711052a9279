package dedup

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

//go:embed tables.lua
var tablesLua string

//go:embed claim.lua
var claimLua string

//go:embed find.lua
var findLua string

//go:embed state.lua
var stateLua string

//go:embed mend.lua
var mendLua string

var (
	claimScript = redisx.NewScript(redisx.NumberLua, redisx.RightsLua, tablesLua, claimLua)
	findScript  = redisx.NewScript(redisx.NumberLua, redisx.RightsLua, tablesLua, findLua)
	stateScript = redisx.NewScript(redisx.NumberLua, redisx.RightsLua, tablesLua, stateLua)
	mendScript  = redisx.NewScript(redisx.RightsLua, mendLua)
)

// layout is the layout of the keys in Redis, LAYOUT in tables.lua.
const layout = 1

// maxTries bounds how often a call is sent again because the tables have changed: a new one of the
// largest size is made in 43 steps, and other processes may change it meanwhile.
const maxTries = 200

// args returns the arguments that every script begins with, and more. Each call offers a new seed:
// the script uses it if it opens a table.
func (d *Deduplicator) args(more ...string) []string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return append(append(d.head[:len(d.head):len(d.head)], hex.EncodeToString(b[:])), more...)
}

// reply is the parsed reply of claim.lua or find.lua.
type reply struct {
	gone  bool
	value rueidis.RedisMessage
}

// place runs a script that needs the slots of ids. The script replies with the tables when this
// process does not know them, or when one is still being made; then it is run again. It has changed
// nothing, or only what it does not undo: claims by place. guard is the guard of the claim, or "".
func (d *Deduplicator) place(ctx context.Context, guard string, run func(tables []table) ([]rueidis.RedisResult, error)) ([]reply, error) {
	for range maxTries {
		results, err := run(*d.tables.Load())
		if err != nil {
			return nil, err
		}
		replies, again := make([]reply, len(results)), false
		for i, r := range results {
			var tables []table
			if replies[i], tables, err = parseReply(r); err != nil {
				return nil, d.scriptErr(ctx, err, guard)
			}
			if tables != nil {
				d.tables.Store(&tables)
				again = true
			}
		}
		if !again {
			return replies, nil
		}
	}
	return nil, fmt.Errorf("the tables changed during %d tries", maxTries)
}

// parseReply parses a reply. It returns tables when the script must be run again.
func parseReply(r rueidis.RedisResult) (p reply, again []table, err error) {
	f, err := r.ToArray()
	if err != nil {
		return p, nil, err
	}
	if len(f) == 0 {
		return p, nil, fmt.Errorf("unexpected reply: got no element")
	}
	status, err := f[0].ToString()
	switch {
	case err != nil:
		return p, nil, err
	case status == "gone":
		p.gone = true
	case status == "again":
		if again, err = parseTables(f[1:], tableFields); again == nil {
			again = []table{}
		}
		return p, again, err
	case status != "ok" || len(f) != 2:
		return p, nil, fmt.Errorf("unexpected reply: got %q and %d elements, want \"ok\" and 2", status, len(f))
	default:
		p.value = f[1]
	}
	return p, nil, nil
}

// maxKey is the size of the largest key of a window in bytes: MAX_SEGMENT of tables.lua.
const maxKey = 12 << 20

// scriptErr turns the errors of the scripts into those of this package. One about a key of another
// type names the key: the state, the guard, or a key of a table.
func (d *Deduplicator) scriptErr(ctx context.Context, err error, guard string) error {
	e, ok := rueidis.IsRedisErr(err)
	if !ok {
		return err
	}
	if redisx.IsWrongType(err) {
		if wrong := d.wrongType(ctx, err, guard); wrong != nil {
			return fmt.Errorf("%w: %w: %w", ErrDamaged, wrong, err)
		}
		return fmt.Errorf("%w: a key under %s has the wrong type: %w", ErrDamaged, strings.TrimSuffix(d.keys[0], "state"), err)
	}
	if strings.Contains(e.Error(), "proto-max-bulk-len") {
		return fmt.Errorf("%w: a key of the window has up to %d bytes: raise the server's proto-max-bulk-len to that", err, maxKey)
	}
	text, ok := strings.CutPrefix(e.Error(), "HEADRACE ")
	if !ok {
		return err
	}
	kind, detail, _ := strings.Cut(text, " ")
	switch kind {
	case "LAYOUT":
		return fmt.Errorf("%w: the window %q has layout %s, this program needs layout %d", ErrLayout, d.name, detail[:min(len(detail), 64)], layout)
	case "DIGEST":
		return fmt.Errorf("%w: the ids in it were stored with Config.Digest = %v; use that, Clear the window, or wait until it has expired",
			configErr("Digest", d.cfg.Digest, "%v in window %q", !d.cfg.Digest, d.name), !d.cfg.Digest)
	case "VERDICTS":
		return fmt.Errorf("%w: %s: remove the field, and the batch claims its ids again", ErrDamaged, detail)
	case "DAMAGED":
		return fmt.Errorf("%w: %s", ErrDamaged, detail)
	}
	return err
}

// wrongType finds the key of another type that err is about, or returns nil.
func (d *Deduplicator) wrongType(ctx context.Context, err error, guard string) *redisx.TypeError {
	keys := []redisx.KeyType{{Key: d.keys[0], Type: "string"}}
	if guard != "" {
		keys = append(keys, redisx.KeyType{Key: guard, Type: "hash"})
	}
	if wrong := d.server.WrongType(ctx, err, keys...); wrong != nil {
		return wrong
	}
	brief, cancel := redisx.Briefly(ctx)
	defer cancel()
	s, stateErr := d.readState(brief, "read")
	if stateErr != nil {
		return nil
	}
	for _, t := range s.stored {
		keys = keys[:0]
		for _, key := range t.keys() {
			keys = append(keys, redisx.KeyType{Key: key, Type: "string"})
		}
		if wrong := d.server.WrongType(ctx, err, keys...); wrong != nil {
			return wrong
		}
	}
	return nil
}

// run runs a script. A call that the server refused is retried; one whose reply was lost is not,
// because its outcome is unknown, and only the caller knows what that means.
func (d *Deduplicator) run(ctx context.Context, s *redisx.Script, keys, args []string) rueidis.RedisResult {
	return d.server.Run(ctx, d.call(s, keys, args))
}

// call lets every script write while Redis is at maxmemory, except a claim without a guard: it
// takes memory and frees none. Without the claims with a guard a full queue would never drain: one
// takes some 40 bytes, and the record that it lets through frees its payload.
func (d *Deduplicator) call(s *redisx.Script, keys, args []string) redisx.Call {
	hasGuard := len(keys) > len(d.keys)
	return redisx.Call{Script: s, Keys: keys, Args: args, AllowOOM: s != claimScript || hasGuard}
}
