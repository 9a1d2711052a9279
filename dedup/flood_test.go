package dedup_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
)

// publicHash is the hash that Shard uses, and an earlier index used: anyone can compute it.
func publicHash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// chosen returns n ids whose hash leaves the same rest of division by slots.
func chosen(n int, slots uint64, hash func(string) uint64) []string {
	var ids []string
	for i := 0; len(ids) < n; i++ {
		if id := "o" + strconv.Itoa(i); hash(id)>>32%slots == 7 {
			ids = append(ids, id)
		}
	}
	return ids
}

// What one server does for a call, counted by the server: it belongs to these tests, which run one
// after the other.
func TestCountedCommands(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t).Client(t)
	for _, test := range []struct {
		name string
		f    func(*testing.T, rueidis.Client)
	}{
		{"chosen ids cost no more", chosenIDsCostNoMore},
		{"large calls are split", largeCallsAreSplit},
		{"a large index", largeIndex},
		{"given back again and again", givenBackAgainAndAgain},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(t, c) })
	}
}

// A sender who chooses ids cannot make them share a slot: the hash has a secret seed, another in
// each table.
func chosenIDsCostNoMore(t *testing.T, c rueidis.Client) {
	name := servertest.Prefix(t)
	d := open(t, c, name, dedup.Config{ExpectedIDs: 1})
	claim(t, d, dedup.Batch{Root: "first", Records: 1}, nil, "x")
	for _, slots := range []uint64{1008, 1264, 4080} {
		ids := chosen(800, slots, publicHash)
		reads := commandCalls(t, c, "getrange", func() {
			for i, v := range claim(t, d, dedup.Batch{Root: fmt.Sprint(slots), Records: len(ids)}, nil, ids...) {
				if v != fresh {
					t.Fatalf("id %d: got %v, want %v", i, v, fresh)
				}
			}
		})
		if reads > 4*len(ids) {
			t.Errorf("%d ids of one slot of a public hash took %d reads, want at most %d", len(ids), reads, 4*len(ids))
		}
		if err := d.Clear(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	seeds := make(map[string]bool)
	for range 5 {
		if err := d.Clear(t.Context()); err != nil {
			t.Fatal(err)
		}
		claim(t, d, dedup.Batch{Root: "a", Records: 1}, nil, "x")
		seeds[seedOf(t, c, name)] = true
	}
	if len(seeds) != 5 {
		t.Errorf("5 tables have %d different seeds", len(seeds))
	}
}

// seedOf returns the seed of the newest table.
func seedOf(t *testing.T, c rueidis.Client, name string) string {
	t.Helper()
	state, _ := do(t, c, c.B().Get().Key("{"+name+"}:dedup:state").Build()).ToString()
	_, rest, _ := strings.Cut(state, `"seed":"`)
	seed, _, found := strings.Cut(rest, `"`)
	if !found || len(seed) != 32 {
		t.Fatalf("no seed in %q", state)
	}
	return seed
}

// Even a slot that gets crowded, as by a sender who knows the seed, is left for a table with
// another seed. The test crowds it with entries that point to each other.
func TestCrowdedSlot(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{ExpectedIDs: 1})
		claim(t, d, dedup.Batch{Root: "a", Records: 1}, nil, "x")
		// 1,000 ids in a table for 400: some slot would be crowded only if it had more than 32 of them,
		// so all slots are made to lead to the last entry of a long chain.
		before := seedOf(t, c, name)
		crowd(t, c, name, 40)
		ids := names("c", 0, 20)
		for i, v := range claim(t, d, dedup.Batch{Root: "b", Records: len(ids)}, nil, ids...) {
			if v != fresh {
				t.Fatalf("id %d: got %v, want %v", i, v, fresh)
			}
		}
		if after := seedOf(t, c, name); after == before {
			t.Error("a crowded table still takes the claims")
		}
		for i, v := range claim(t, d, dedup.Batch{Root: "c", Records: len(ids)}, nil, ids...) {
			if v != dup {
				t.Fatalf("id %d: got %v, want %v", i, v, dup)
			}
		}
		want(t, claim(t, d, dedup.Batch{Root: "d", Records: 1}, nil, "x"), dup)
	})
}

// crowd links n entries of other ids into one chain, and makes every slot lead to it. x keeps its
// place at the end of the chain.
func crowd(t *testing.T, c rueidis.Client, name string, n int) {
	t.Helper()
	state, _ := do(t, c, c.B().Get().Key("{"+name+"}:dedup:state").Build()).ToString()
	_, rest, _ := strings.Cut(state, `"id":"`)
	id, _, _ := strings.Cut(rest, `"`)
	log, index := "{"+name+"}:dedup:t:"+id+":0", "{"+name+"}:dedup:t:"+id+":i0"
	f := strings.SplitN(state, " ", 7)
	tail, err := strconv.Atoi(f[5])
	if err != nil {
		t.Fatal(err)
	}
	const head, entry = 18, 12 // an id of two bytes
	last := head               // the entry of x
	for i := range n {
		at := tail + head + i*entry
		text := be(last, 4) + be(i, 2) + be(head+i*entry, 2) + be(2, 2) + fmt.Sprintf("%02d", i)
		do(t, c, c.B().Setrange().Key(log).Offset(int64(at)).Value(text).Build())
		last = at
	}
	run, _ := do(t, c, c.B().Getrange().Key(log).Start(0).End(head-1).Build()).ToString()
	do(t, c, c.B().Setrange().Key(log).Offset(int64(tail)).Value(run).Build())
	size, _ := do(t, c, c.B().Strlen().Key(index).Build()).AsInt64()
	do(t, c, c.B().Setrange().Key(index).Offset(0).Value(strings.Repeat(be(last, 4), int(size)/4)).Build())
	f[5] = strconv.Itoa(tail + head + n*entry)
	do(t, c, c.B().Set().Key("{"+name+"}:dedup:state").Value(strings.Join(f, " ")).PxMilliseconds(3_600_000).Build())
}

func be(v, bytes int) string {
	b := make([]byte, bytes)
	for i := range b {
		b[bytes-1-i] = byte(v >> (8 * i))
	}
	return string(b)
}

// No command has more than a thousand ids, however many the call has.
func largeCallsAreSplit(t *testing.T, c rueidis.Client) {
	d := open(t, c, servertest.Prefix(t), dedup.Config{})
	ids := names("", 0, 5500)
	const commands = 6
	claims := make([]dedup.Claim, len(ids))
	for i, id := range ids {
		claims[i] = dedup.Claim{Root: "a", Place: i, ID: id}
	}
	claim(t, d, dedup.Batch{Root: "first", Records: 1}, nil, "x") // the table, and the scripts
	if _, err := d.Seen(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	for what, call := range map[string]func() error{
		"Claim": func() error {
			_, err := d.Claim(t.Context(), dedup.Batch{Root: "a", Records: len(ids)}, nil, ids)
			return err
		},
		"Seen":   func() error { _, err := d.Seen(t.Context(), ids...); return err },
		"Undo":   func() error { _, err := d.Undo(t.Context(), claims); return err },
		"Forget": func() error { _, err := d.Forget(t.Context(), ids...); return err },
	} {
		n := commandCalls(t, c, "evalsha", func() {
			if err := call(); err != nil {
				t.Error(err)
			}
		})
		if n < commands {
			t.Errorf("%s of %d ids: got %d commands, want at least %d", what, len(ids), n, commands)
		}
	}
}

// Parts of a batch whose verdicts are stored: gaps, a later call with other positions, and a child.
func TestStoredVerdictsOfALargeBatch(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{ExpectedIDs: 10_000})
		const records = 1200
		b := dedup.Batch{Guard: guard(t, c, name, "b"), Root: "b", Records: records}
		ids := names("", 0, records)
		var pos []int32
		var some []string
		for i := range ids {
			if i%3 != 0 {
				pos, some = append(pos, int32(i)), append(some, ids[i])
			}
		}
		claim(t, d, b, pos, some...)
		stored, _ := do(t, c, c.B().Hget().Key(b.Guard).Field("r:dedup").Build()).ToString()
		for i := range ids {
			if got, want := stored[i], "-ff"[i%3]; got != want {
				t.Fatalf("record %d: stored %c, want %c", i, got, want)
			}
		}
		// Claimed by another batch now: the stored verdicts stay, the others are duplicates.
		if _, err := d.Forget(t.Context(), ids...); err != nil {
			t.Fatal(err)
		}
		claim(t, d, dedup.Batch{Root: "c", Records: records}, nil, ids...)
		for i, v := range claim(t, d, b, nil, ids...) {
			if (v == dup) != (i%3 == 0) {
				t.Fatalf("record %d: got %v", i, v)
			}
		}
	})
}

// An index of several segments: made one at a time, and as exact as a small one.
func largeIndex(t *testing.T, c rueidis.Client) {
	name := servertest.Prefix(t)
	d := open(t, c, name, dedup.Config{ExpectedIDs: 3_000_000})
	made := commandCalls(t, c, "evalsha", func() { claim(t, d, dedup.Batch{Root: "a", Records: 1}, nil, "x") })
	keys, err := do(t, c, c.B().Keys().Pattern("{"+name+"}:dedup:t:*:i*").Build()).AsStrSlice()
	if err != nil || len(keys) < 3 {
		t.Fatalf("got %d segments, %v, want at least 3", len(keys), err)
	}
	if made < len(keys) {
		t.Errorf("%d segments were made by %d commands, want one each", len(keys), made)
	}
	for _, key := range keys {
		size, _ := do(t, c, c.B().Strlen().Key(key).Build()).AsInt64()
		ttl, _ := do(t, c, c.B().Pttl().Key(key).Build()).AsInt64()
		if size > 12<<20 || ttl <= 0 {
			t.Errorf("%s has %d bytes and a time to live of %d", key, size, ttl)
		}
	}
	ids := names("", 0, 5000)
	for _, root := range []string{"b", "c"} {
		for i, v := range claim(t, d, dedup.Batch{Root: root, Records: len(ids)}, nil, ids...) {
			if (v == fresh) != (root == "b") {
				t.Fatalf("%s: id %d: got %v", root, i, v)
			}
		}
	}
	twice := append(append([]string{}, ids[:1000]...), names("n", 0, 1000)...)
	twice = append(twice, twice[1000:]...)
	for i, v := range claim(t, d, dedup.Batch{Root: "d", Records: len(twice)}, nil, twice...) {
		if (v == fresh) != (i >= 1000 && i < 2000) {
			t.Fatalf("id %d: got %v", i, v)
		}
	}
	undo(t, c, d, dedup.Claim{Root: "b", Place: 7, ID: ids[7]})
	if seen, err := d.Seen(t.Context(), ids[7], ids[8]); err != nil || seen[0] || !seen[1] {
		t.Errorf("Seen: got %v, %v, want [false true]", seen, err)
	}
	if err := d.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys, _ := do(t, c, c.B().Keys().Pattern("{"+name+"}:dedup:t:*").Build()).AsStrSlice(); len(keys) > 0 {
		t.Errorf("%d keys after Clear, want none", len(keys))
	}
}
