package lookup

import (
	"context"
	_ "embed"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

//go:embed ask.lua
var askLua string

//go:embed write.lua
var writeLua string

//go:embed swap.lua
var swapLua string

//go:embed lock.lua
var lockLua string

// Every script names a key that never exists. While a slot of a cluster moves, the server then
// refuses the whole script instead of running it until the first key that has moved.
var (
	askScript   = redisx.NewScript(askLua)
	writeScript = redisx.NewScript(redisx.RightsLua, writeLua)
	swapScript  = redisx.NewScript(redisx.RightsLua, swapLua)
	lockScript  = redisx.NewScript(lockLua)
)

// layout is the layout of the keys in Redis, which {name}:lookup:current begins with.
const layout = 1

// version is the description of a version: {name}:lookup:current has "layout id entries parts
// milliseconds".
type version struct {
	id      string
	entries int
	parts   int    // the hashes that hold the entries
	text    string // as Redis has it; "" for no version
	damaged bool   // text describes no version
	made    int64  // server time in ms
}

// partErr returns the error of reading a part, with the reason if the server cannot send it.
func (t *Table[K, V]) partErr(ctx context.Context, err error, key string) error {
	if _, isReply := rueidis.IsRedisErr(err); isReply {
		return t.wrongType(ctx, err, redisx.KeyType{Key: key, Type: "hash"})
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if limit, _ := t.server.ReplyLimit(ctx); limit > 0 {
		return fmt.Errorf("%w: a part may be over the server's client-output-buffer-limit of %d bytes: raise it, or lower Config.Chunk", err, limit)
	}
	return err
}

// key returns the key of a part of a version.
func (t *Table[K, V]) key(id string, part int) string {
	return t.versions + id + ":" + strconv.Itoa(part)
}

// wrongType returns err, with the first of keys that has another type if err is about one.
func (t *Table[K, V]) wrongType(ctx context.Context, err error, keys ...redisx.KeyType) error {
	if wrong := t.server.WrongType(ctx, err, keys...); wrong != nil {
		return fmt.Errorf("%w: %w", wrong, err)
	}
	return err
}

// keys returns the keys of all parts of a version.
func (t *Table[K, V]) keys(id string, parts int) []string {
	keys := make([]string, parts)
	for i := range keys {
		keys[i] = t.key(id, i)
	}
	return keys
}

// describe returns the text of a version without its time, which the server adds.
func (v version) describe() string {
	return fmt.Sprintf("%d %s %d %d", layout, v.id, v.entries, v.parts)
}

// parseVersion parses the text of {name}:lookup:current.
func parseVersion(text string) (version, error) {
	f := strings.Fields(text)
	if len(f) > 0 {
		if n, err := strconv.Atoi(f[0]); err == nil && n != layout {
			return version{}, fmt.Errorf("%w: the table has layout %d, this program needs layout %d", ErrLayout, n, layout)
		}
	}
	if len(f) == 5 {
		const latest = 1 << 53 // a later time was read from no clock
		entries, err1 := strconv.Atoi(f[2])
		parts, err2 := strconv.Atoi(f[3])
		made, err3 := strconv.ParseInt(f[4], 10, 64)
		if err1 == nil && err2 == nil && err3 == nil && entries >= 0 && parts >= 0 && parts <= min(entries, maxParts) && made >= 0 && made <= latest {
			return version{id: f[1], entries: entries, parts: parts, made: made, text: text}, nil
		}
	}
	return version{text: text, damaged: true}, fmt.Errorf("%w: the current version is %s, want layout, id, entries, parts and time", ErrIncomplete, keyText(text))
}

// ask asks Redis which version is current, and how old it is by the server's clock. A script also
// goes to the primary where the client reads from replicas.
func (t *Table[K, V]) ask(ctx context.Context) (v version, age time.Duration, err error) {
	// Without a deadline a frozen server would keep Run from noticing anything.
	ctx, cancel := context.WithTimeout(ctx, max(t.cfg.MaxAge, time.Second))
	defer cancel()
	reply, err := t.server.Run(ctx, redisx.Call{Script: askScript, Keys: []string{t.current, t.never}}).ToArray()
	if err != nil {
		err = t.wrongType(ctx, err, redisx.KeyType{Key: t.current, Type: "string"})
		return version{}, 0, fmt.Errorf("read the current version: %w", err)
	}
	if len(reply) != 2 {
		return version{}, 0, fmt.Errorf("read the current version: unexpected reply: got %d elements, want 2", len(reply))
	}
	text, err := reply[0].ToString()
	if rueidis.IsRedisNil(err) {
		return version{}, 0, ErrNotLoaded
	} else if err != nil {
		return version{}, 0, fmt.Errorf("read the current version: %w", err)
	}
	now, err := reply[1].AsInt64()
	if err != nil {
		return version{}, 0, fmt.Errorf("read the current version: %w", err)
	}
	if v, err = parseVersion(text); err != nil {
		return v, 0, err
	}
	return v, ageOf(now, v.made), nil
}

// ageOf returns the age of a version that was made at a time, both in ms. A time that was read from
// no clock gives the largest or the smallest duration.
func ageOf(now, made int64) time.Duration {
	const limit = math.MaxInt64 / int64(time.Millisecond)
	return time.Duration(min(max(now-made, -limit), limit)) * time.Millisecond
}

// partsPerTrip is the number of parts that one round trip reads.
const partsPerTrip = 8

// read reads a whole version, or fails.
func (t *Table[K, V]) read(ctx context.Context, v version) (*Snapshot[K, V], error) {
	entries := make(map[K]V, min(v.entries, 1<<20)) // the number may have been overwritten
	perTrip := partsPerTrip
	for from := 0; from < v.parts; {
		tries := 0
		results := t.server.ReadAll(ctx, func() (cmds []rueidis.Completed) {
			// A server closes a connection for which it has more than client-output-buffer-limit to send.
			if tries++; tries > 1 {
				perTrip = 1
			}
			for i := from; i < min(from+perTrip, v.parts); i++ {
				cmds = append(cmds, t.server.Command("HGETALL", t.key(v.id, i)))
			}
			return cmds
		})
		for i, r := range results {
			part, err := r.AsStrMap()
			if err != nil {
				return nil, fmt.Errorf("read version %s: %w", v.id, t.partErr(ctx, err, t.key(v.id, from+i)))
			}
			for key, value := range part {
				k, err := t.cfg.Keys.Decode([]byte(key))
				if err == nil {
					entries[k], err = t.cfg.Values.Decode([]byte(value))
				}
				if err != nil {
					return nil, &EntryError{Key: key, Err: err, kind: ErrDecode}
				}
			}
		}
		from += len(results)
	}
	if len(entries) != v.entries {
		return nil, fmt.Errorf("%w: version %s has %d of %d entries", ErrIncomplete, v.id, len(entries), v.entries)
	}
	return &Snapshot[K, V]{version: v.id, entries: entries}, nil
}
