package dedup_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
)

// stream is a window that holds as many ids as it was made for, less those that are going to be
// measured: the fullest that it gets, at 36 to 40 bytes an id. The hash bare holds the same ids.
type stream struct {
	c       rueidis.Client
	d       *dedup.Deduplicator
	bare    string
	next    int
	batches int
}

func newStream(b *testing.B, c rueidis.Client, ids, measured int) *stream {
	window := servertest.Prefix(b)
	s := &stream{c: c, bare: "{" + window + "}:bare", d: open(b, c, window, dedup.Config{ExpectedIDs: int64(ids)})}
	for s.next < ids-measured {
		batch := s.take(min(5000, ids-measured-s.next))
		claim(b, s.d, dedup.Batch{Root: fmt.Sprint("fill", s.next), Records: len(batch)}, nil, batch...)
		hset := c.B().Hset().Key(s.bare).FieldValue()
		for _, id := range batch {
			hset = hset.FieldValue(id, "12345678")
		}
		do(b, c, hset.Build())
	}
	return s
}

// take makes n new ids.
func (s *stream) take(n int) []string { s.next += n; return names("", s.next-n, n) }

// round makes new ids for one round.
func (s *stream) round(size int) [][]string {
	var ids [][]string
	for range perRound / size {
		ids = append(ids, s.take(size))
	}
	return ids
}

func (s *stream) claim(b *testing.B, batches [][]string) int {
	for _, ids := range batches {
		s.batches++
		v, err := s.d.Claim(context.Background(), dedup.Batch{Root: strconv.Itoa(s.batches), Records: len(ids)}, nil, ids)
		if err != nil || v[0] != fresh {
			b.Fatal(v, err)
		}
	}
	return len(batches) * len(batches[0])
}

func (s *stream) hsetnx(b *testing.B, batches [][]string) int {
	for _, ids := range batches {
		cmds := make(rueidis.Commands, len(ids))
		for i, id := range ids {
			cmds[i] = s.c.B().Hsetnx().Key(s.bare).Field(id).Value("12345678").Build()
		}
		for _, r := range s.c.DoMulti(context.Background(), cmds...) {
			if set, err := r.AsBool(); err != nil || !set {
				b.Fatal(set, err)
			}
		}
	}
	return len(batches) * len(batches[0])
}

func (s *stream) clear(b *testing.B) {
	if err := s.d.Clear(context.Background()); err != nil {
		b.Fatal(err)
	}
	do(b, s.c, s.c.B().Unlink().Key(s.bare).Build())
}

const (
	perRound = 20_000
	measured = perRound * (bench.DefaultRounds + 1) // each side's ids, and those of the warm-up
)

// BenchmarkFigures compares Claim with the same ids sent as pipelined HSETNX to one hash, which
// knows no window, no place and no verdict. Both sides hold the same number of ids before they
// begin.
func BenchmarkFigures(b *testing.B) {
	c := servertest.Redis(b)
	for _, size := range []int{1000, 100, 5000} {
		s := newStream(b, c, 1_000_000, measured)
		name := "dedup/claim"
		if size != 1000 {
			name += "/" + strconv.Itoa(size)
		}
		servertest.Rest(b, c)
		var batches [][]string
		bench.Run(b, bench.Figure{
			Name:  name,
			Setup: func(int) { batches = s.round(size) },
			Bare:  func(int) int { return s.hsetnx(b, batches) },
			Ours:  func(int) int { return s.claim(b, batches) },
		})
		s.clear(b)
	}
}

// BenchmarkFlat: what the size of the window costs. Ours is a large one, the bare side one of
// 10,000 ids.
func BenchmarkFlat(b *testing.B) {
	c := servertest.Redis(b)
	ids := 1_000_000
	if large() {
		ids = 10_000_000
	}
	const few = 10_000
	bench.Note(b, "dedup/flat: %d ids in the window, and %d on the bare side", ids, few)
	deep := newStream(b, c, ids, 3*measured)
	var shallow *stream
	var little, much [][]string
	// The small window is made anew for each side of each round, or it would grow.
	setup := func(int) {
		if shallow != nil {
			shallow.clear(b)
		}
		shallow = newStream(b, c, few, 4000)
		little, much = shallow.round(1000)[:4], deep.round(1000)[:4]
		servertest.Rest(b, c)
	}
	bench.Run(b, bench.Figure{
		Name: "dedup/flat", Setup: setup,
		Bare: func(int) int { return shallow.claim(b, little) },
		Ours: func(int) int { return deep.claim(b, much) },
	})
	bench.Run(b, bench.Figure{ // what of it is the memory's: the same in the two bare hashes
		Name: "dedup/flat/hsetnx", Setup: setup,
		Bare: func(int) int { return shallow.hsetnx(b, little) },
		Ours: func(int) int { return deep.hsetnx(b, much) },
	})
	shallow.clear(b)
	bench.Run(b, bench.Figure{
		Name:  "dedup/claim/deep",
		Setup: func(int) { much = deep.round(1000) },
		Bare:  func(int) int { return deep.hsetnx(b, much) },
		Ours:  func(int) int { return deep.claim(b, much) },
	})
	deep.clear(b)
}

// large reports whether to measure figures that take gigabytes or minutes.
func large() bool { return os.Getenv("HEADRACE_LARGE") != "" }

// At most 40 bytes an id of 16 characters, everything included, on every server that can tell. The
// ids fill the last chunk of the log. In a larger window, what is free in it is a smaller share.
func TestMemory(t *testing.T) {
	t.Parallel()
	sizes := []int{100_000, 160_000}
	if large() {
		sizes = append(sizes, 700_000, 1_000_000, 10_000_000)
	}
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		if strings.HasSuffix(t.Name(), "/miniredis") {
			return // it does not tell
		}
		for _, n := range sizes {
			each := bytesPerID(t, c, n)
			t.Logf("%d ids: %.1f bytes each", n, each)
			if each > 40 {
				t.Errorf("%d ids take %.1f bytes each, more than 40", n, each)
			}
		}
	})
}

func bytesPerID(t *testing.T, c rueidis.Client, n int) float64 {
	t.Helper()
	name := servertest.Prefix(t)
	d := open(t, c, name, dedup.Config{ExpectedIDs: int64(n)})
	for at := 0; at < n; at += 5000 {
		claim(t, d, dedup.Batch{Root: strconv.Itoa(at), Records: 5000}, nil, names("", at, 5000)...)
	}
	used := usedMemory(t, c, "{"+name+"}:")
	if err := d.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	return float64(used) / float64(n)
}

// usedMemory is what the server uses for the keys with a prefix, as it counts for each. What other
// tests and clients use does not count.
func usedMemory(t *testing.T, c rueidis.Client, prefix string) (sum int64) {
	t.Helper()
	keys, err := do(t, c, c.B().Keys().Pattern(prefix+"*").Build()).AsStrSlice()
	if err != nil || len(keys) < 3 {
		t.Fatalf("got %q, %v, want the keys of a window", keys, err)
	}
	const tables = 100 // bytes a key in the tables of the server, which it does not count
	for _, key := range keys {
		n, err := do(t, c, c.B().MemoryUsage().Key(key).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		sum += n + tables
	}
	return sum
}
