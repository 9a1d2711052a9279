package dedup_test

import (
	"encoding/binary"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// Any number of the state may have been overwritten with something else. No call fails in its
// middle: each returns ErrDamaged, Audit names the state, and after Repair every claim is right.
func TestStateOverwrittenByHand(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	huge := strings.Repeat("9", 400)
	edits := []struct{ pattern, with string }{ // applied to the state
		{`^1 \d+`, "1 " + huge}, {`^1 \d+`, "1 9007199254740991"}, {`^1 \d+`, "1 9223372036854775807"}, {`^1 \d+`, "1 many"},
		{`^1 (\d+) \d+`, "1 $1 9007199254740992"}, {`^1 (\d+) (\d+) \d+`, "1 $1 $2 " + huge}, {`^1 (\d+) (\d+) \d+`, "1 $1 $2 -1"},
		{` \d+\n`, " 101\n"}, {` \d+ (\d+)\n`, " 9999999999999999999 $1\n"}, {` \d+ (\d+ \d+)\n`, " 4294967296 $1\n"},
		{` \d+ (\d+ \d+ \d+)\n`, " 9007199254740991 $1\n"},
		{`"slots":\d+`, `"slots":0`}, {`"slots":\d+`, `"slots":"many"`}, {`"slots":\d+`, `"slots":1e300`}, {`"slots":\d+`, `"slots":null`},
		{`"segments":\d+`, `"segments":0`}, {`"segments":\d+`, `"segments":1000000000`}, {`"segments":\d+`, `"segments":1.5`},
		{`"built":\d+`, `"built":-1`}, {`"built":\d+`, `"built":7`}, {`"chunk":\d+`, `"chunk":0`}, {`"chunk":\d+`, `"chunk":1e15`},
		{`"start":\d+`, `"start":"now"`}, {`"window":\d+`, `"window":-1`}, {`"window":\d+`, `"window":0.5`},
		{`"seed":"[^"]*"`, `"seed":"x"`}, {`"seed":"[^"]*"`, `"seed":17`}, {`"id":"[^"]*"`, `"id":"t"`}, {`"id":"[^"]*"`, `"id":["1"]`},
		{`"marks":\[[^]]*\]`, `"marks":[]`}, {`"marks":\[[^]]*\]`, `"marks":[1,2]`}, {`"marks":\[[^]]*\]`, `"marks":"none"`},
		{`"marks":\[[^]]*\]`, `"marks":[1,2,"x"]`}, {`"marks":\[[^]]*\]`, `"marks":[1e300,0,0]`}, {`"tables":\[.*\]`, `"tables":[7]`},
		{`"tables":\[.*\]`, `"tables":5`}, {`"tables":\[.*\]`, `"tables":"x"`}, {`"tables":\[.*\]`, `"tables":true`},
		{`"slots":\d+`, `"slots":100000000`},
		{`"digest":"[^"]*"`, `"digest":7`}, {`"digest":"[^"]*"`, `"digest":"x"`}, {`"digest":"[^"]*"`, `"other":"false"`},
	}
	for _, edit := range edits {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{ExpectedIDs: 100})
		claim(t, d, dedup.Batch{Root: "a", Records: 300}, nil, names("old", 0, 300)...)
		key := "{" + name + "}:dedup:state"
		before, err := do(t, c, c.B().Get().Key(key).Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		after := regexp.MustCompile(edit.pattern).ReplaceAllString(before, edit.with)
		if after == before {
			t.Fatalf("%q is not in the state %q", edit.pattern, before)
		}
		do(t, c, c.B().Set().Key(key).Value(after).Build())
		what := edit.pattern + " = " + edit.with[:min(len(edit.with), 40)]
		_, claimed := d.Claim(t.Context(), dedup.Batch{Root: "b", Records: 1}, nil, []string{"x"})
		_, seen := d.Seen(t.Context(), "x")
		_, counted := d.Stats(t.Context())
		for _, err := range []error{claimed, seen, counted} {
			if !errors.Is(err, dedup.ErrDamaged) {
				t.Errorf("%s: got %v, want %v", what, err, dedup.ErrDamaged)
			}
		}
		a, err := d.Audit(t.Context())
		if err != nil || !strings.Contains(strings.Join(a.Differences, "\n"), "is not the state of a window") {
			t.Errorf("%s: audit: got %q, %v", what, a.Differences, err)
		}
		if r, err := d.Repair(t.Context()); err != nil || r.After.Balanced() != nil {
			t.Errorf("%s: repair: got %+v, %v", what, r, err)
		}
		claimsAreRight(t, what, d)
	}
}

// A verdict that was overwritten is an error and no verdict: taken for a fresh one, it would double
// a record.
func TestVerdictsOverwrittenByHand(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	for _, text := range []string{"fx", "  ", "f", "fff", "", "\x00\x00", "FD"} {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{ExpectedIDs: 100})
		b := dedup.Batch{Root: "a", Records: 2, Guard: guard(t, c, name, "a")}
		want(t, claim(t, d, b, nil, "1", "2"), fresh, fresh)
		do(t, c, c.B().Hset().Key(b.Guard).FieldValue().FieldValue("r:dedup", text).Build())
		if v, err := d.Claim(t.Context(), b, nil, []string{"1", "2"}); !errors.Is(err, dedup.ErrDamaged) || !strings.Contains(err.Error(), "verdicts") {
			t.Errorf("%q: got %v, %v, want %v", text, v, err, dedup.ErrDamaged)
		}
		do(t, c, c.B().Hdel().Key(b.Guard).Field("r:dedup").Build())
		want(t, claim(t, d, b, nil, "1", "2"), fresh, fresh)
	}
}

// An entry of the log that points at itself ends a search, which would never end otherwise.
func TestEntryThatPointsAtItself(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	d := open(t, c, name, dedup.Config{ExpectedIDs: 1})
	claim(t, d, dedup.Batch{Root: "a", Records: 300}, nil, names("old", 0, 300)...)
	log := keyOfKind(t, c, name, "log")
	text, err := do(t, c, c.B().Get().Key(log).Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	const head, entry = 18, 10
	edited := []byte(text)
	for at := head; at+entry <= len(edited) && edited[at+9] != 0; at += entry + int(edited[at+8])<<8 + int(edited[at+9]) {
		binary.BigEndian.PutUint32(edited[at:], uint32(at)) // it points at itself
		copy(edited[at+entry:], "z")                        // and has another id
	}
	do(t, c, c.B().Setrange().Key(log).Offset(0).Value(string(edited)).Build())
	ids := append(names("old", 0, 300), names("new", 0, 300)...)
	for _, root := range []string{"b", "c"} {
		v := claim(t, d, dedup.Batch{Root: root, Records: len(ids)}, nil, ids...)
		for i := range v {
			if want := (root == "c"); (v[i] == dup) != want {
				t.Fatalf("root %s: id %s: got %v", root, ids[i], v[i])
			}
		}
	}
}
