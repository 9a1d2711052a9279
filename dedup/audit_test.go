package dedup_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// damages is what people do to the keys of a window. Each gets the keys of one kind, and names what
// Audit must report.
var damages = map[string]struct {
	kind string // state, index or log
	args func(key string) []string
	want string
}{
	"index deleted":     {"index", func(k string) []string { return []string{"DEL", k} }, "is gone, a part of the index"},
	"log deleted":       {"log", func(k string) []string { return []string{"DEL", k} }, "is gone, a part of the log"},
	"index overwritten": {"index", func(k string) []string { return []string{"SET", k, "short"} }, "has 5 bytes"},
	"log overwritten":   {"log", func(k string) []string { return []string{"SET", k, "short"} }, "has 5 bytes"},
	"index persisted":   {"index", func(k string) []string { return []string{"PERSIST", k} }, "has no time to live"},
	"log persisted":     {"log", func(k string) []string { return []string{"PERSIST", k} }, "has no time to live"},
	"state overwritten": {"state", func(k string) []string { return []string{"SET", k, "1 2 3\n{}"} }, "is not the state of a window"},
	"state deleted":     {"state", func(k string) []string { return []string{"DEL", k} }, "belongs to a window whose state is gone"},
	"state persisted":   {"state", func(k string) []string { return []string{"PERSIST", k} }, "has no time to live"},
	"a stray list":      {"stray", func(k string) []string { return []string{"RPUSH", k, "x"} }, "belongs to no table"},
	"index of a list":   {"index", func(k string) []string { return []string{"RPUSH", k, "x"} }, "is a list, want a string"},
	"log of a hash":     {"log", func(k string) []string { return []string{"HSET", k, "a", "b"} }, "is a hash, want a string"},
	"state of a set":    {"state", func(k string) []string { return []string{"SADD", k, "x"} }, "is of another type than string"},
	"a stray key":       {"stray", func(k string) []string { return []string{"SET", k, "x"} }, "belongs to no table"},
}

// damaged is how many ids are in the window before.
const damaged = 100

// Whatever was done to the keys, Audit names it, Repair mends it or gives it up, and from then on
// every claim is right: an id is fresh once and a duplicate after that.
func TestAuditAndRepair(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, what := range slices.Sorted(maps.Keys(damages)) {
			damage := damages[what]
			name := servertest.Prefix(t)
			d := open(t, c, name, dedup.Config{ExpectedIDs: 100})
			claim(t, d, dedup.Batch{Root: "a", Records: damaged}, nil, names("old", 0, damaged)...)
			if a, err := d.Audit(t.Context()); err != nil || a.Balanced() != nil || a.Keys < 2 {
				t.Fatalf("%s: before: got %+v, %v, want two keys and no difference", what, a, err)
			}
			key := keyOfKind(t, c, name, damage.kind)
			if args := damage.args(key); args[0] != "SET" && args[0] != "DEL" && args[0] != "PERSIST" {
				do(t, c, c.B().Del().Key(key).Build())
			}
			args := damage.args(key)
			do(t, c, c.B().Arbitrary(args[0]).Keys(key).Args(args[2:]...).Build())
			a, err := d.Audit(t.Context())
			if err != nil {
				t.Fatalf("%s: audit: %v", what, err)
			}
			named := func(text string) bool { return strings.Contains(text, damage.want) && strings.Contains(text, key) }
			if what == "state deleted" { // then those that belonged to it are named
				named = func(text string) bool { return strings.Contains(text, damage.want) }
			} else if len(a.Differences) != 1 {
				t.Errorf("%s: got %q, want one difference", what, a.Differences)
			}
			if !slices.ContainsFunc(a.Differences, named) || !errors.Is(a.Balanced(), dedup.ErrDamaged) {
				t.Errorf("%s: got %q, want a difference that names %s and %q", what, a.Differences, key, damage.want)
			}
			r, err := d.Repair(t.Context())
			if err != nil || r.After.Balanced() != nil {
				t.Errorf("%s: repair: got %+v, %v, want no difference left", what, r, err)
			}
			for _, key := range r.Aside {
				if n, err := do(t, c, c.B().Exists().Key(key).Build()).AsInt64(); n != 1 || err != nil {
					t.Errorf("%s: %s, where the key was moved: got %d, %v, want 1", what, key, n, err)
				}
			}
			claimsAreRight(t, what, d)
		}
	})
}

// A state whose log is longer than its claims can make it is damaged: Repair makes no log of a
// gigabyte.
func TestRepairMakesNoLongLog(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{ExpectedIDs: 100})
		claim(t, d, dedup.Batch{Root: "a", Records: damaged}, nil, names("old", 0, damaged)...)
		key := "{" + name + "}:dedup:state"
		state, err := do(t, c, c.B().Get().Key(key).Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		f := strings.SplitN(state, " ", 7)
		f[5] = "1000000000" // the tail
		do(t, c, c.B().Set().Key(key).Value(strings.Join(f, " ")).Build())
		r, err := d.Repair(t.Context())
		if err != nil || r.After.Balanced() != nil || r.After.Keys > 0 || len(r.Aside) != 1 {
			t.Errorf("got %+v, %v, want the state aside and no key left", r, err)
		}
		claimsAreRight(t, "a long log", d)
	})
}

// claimsAreRight claims the ids of before and new ones, in batches that overlap.
func claimsAreRight(t *testing.T, what string, d *dedup.Deduplicator) {
	t.Helper()
	ids := append(names("old", 0, damaged), names("new", 0, damaged)...)
	known, err := d.Seen(t.Context(), ids...)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for round := range 3 {
		v, err := d.Claim(t.Context(), dedup.Batch{Root: fmt.Sprint(what, round), Records: len(ids)}, nil, ids)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for i, got := range v {
			want := fresh
			if round > 0 || known[i] {
				want = dup
			}
			if got != want {
				t.Fatalf("%s: round %d: %s: got %v, want %v", what, round, ids[i], got, want)
			}
		}
	}
	for i, id := range ids[damaged:] {
		if known[damaged+i] {
			t.Fatalf("%s: %s was known before it was ever claimed", what, id)
		}
	}
}

func keyOfKind(t *testing.T, c rueidis.Client, name, kind string) string {
	t.Helper()
	prefix := "{" + name + "}:dedup:"
	switch kind {
	case "state":
		return prefix + "state"
	case "stray":
		return prefix + "t:77:5"
	}
	keys, err := do(t, c, c.B().Keys().Pattern(prefix+"t:*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if strings.Contains(k, ":i") == (kind == "index") {
			return k
		}
	}
	t.Fatalf("no key of the kind %s in %q", kind, keys)
	return ""
}
