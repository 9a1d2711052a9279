package queue

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/headrace/headrace/internal/redisx"
)

// auditKeys are the ids of all keys and members of a queue, and the keys under its prefix that
// belong to nothing.
type auditKeys struct {
	batches, dead, deadHashes, delayed, delayedLists, stray map[string]bool
}

func (q *Queue) auditKeys(ctx context.Context) (k auditKeys, err error) {
	k = auditKeys{map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
	for key, ids := range map[int]map[string]bool{
		keyOpen: k.batches, keyLeases: k.batches, keyRedo: k.batches, keyHanded: k.batches, keyBroken: k.batches,
		keyDead: k.dead, keyDelayed: k.delayed,
	} {
		if err := q.members(ctx, q.keys[key], ids); err != nil {
			return k, err
		}
	}
	return k, q.scan(ctx, map[string]map[string]bool{"b": k.batches, "m": k.batches, "d": k.deadHashes, "l": k.delayedLists}, k.stray)
}

// members adds the members of a sorted set to ids.
func (q *Queue) members(ctx context.Context, key string, ids map[string]bool) error {
	for cursor := uint64(0); ; {
		e, err := q.server.Read(ctx, "ZSCAN", key, strconv.FormatUint(cursor, 10), "COUNT", "1000").AsScanEntry()
		if err != nil {
			return wrapKeys(ctx, q.server, "audit", err, redisx.KeyType{Key: key, Type: "zset"})
		}
		for i := 0; i < len(e.Elements); i += 2 {
			ids[e.Elements[i]] = true
		}
		if cursor = e.Cursor; cursor == 0 {
			return nil
		}
	}
}

// asidePrefix begins the names of the keys that Repair has set aside, after that of the queue.
const asidePrefix = "aside:"

// scan adds the ids of the keys {name}:queue:kind:id to the set of their kind, and all others that
// the queue does not have to stray.
func (q *Queue) scan(ctx context.Context, kinds map[string]map[string]bool, stray map[string]bool) error {
	glob := redisx.EscapeGlob(q.prefix) + "*"
	known := append(q.sharedKeys(), shardsKey(q.name))
	known = slices.DeleteFunc(known, func(key string) bool { return key == q.keys[keyNever] })
	for _, node := range q.server.Nodes() {
		for cursor := uint64(0); ; {
			scan := node.B().Arbitrary("SCAN").Args(strconv.FormatUint(cursor, 10), "MATCH", glob, "COUNT", "1000").Build()
			e, err := node.Do(ctx, scan).AsScanEntry()
			if err != nil {
				return wrap("audit", err)
			}
			for _, key := range e.Elements {
				rest := strings.TrimPrefix(key, q.prefix)
				kind, id, ok := strings.Cut(rest, ":")
				switch {
				case ok && kinds[kind] != nil:
					kinds[kind][id] = true
				case !slices.Contains(known, key) && !strings.HasPrefix(rest, asidePrefix):
					stray[rest] = true
				}
			}
			if cursor = e.Cursor; cursor == 0 {
				break
			}
		}
	}
	return nil
}

func sorted(ids map[string]bool) []string {
	out := make([]string, 0, len(ids))
	for id := range ids {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func union(a, b map[string]bool) map[string]bool {
	out := map[string]bool{}
	for id := range a {
		out[id] = true
	}
	for id := range b {
		out[id] = true
	}
	return out
}
