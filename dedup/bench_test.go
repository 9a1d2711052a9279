package dedup_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
)

// BenchmarkFigures compares Claim with the same ids sent as pipelined HSETNX to one hash, which knows no window, no
// place and no verdict. Both sides hold the same number of ids before they begin. On ours those are in the generation
// before the current one, which is half as full: so each id is looked for twice, as in a stream that has run for
// more than a window.
func BenchmarkFigures(b *testing.B) {
	c := servertest.Redis(b)
	const perRound = 20_000
	figure := func(name string, size, bits int, layout dedup.Layout) {
		window := servertest.Prefix(b)
		w := newWindow(b, c, window, dedup.Config{Expect: 96 << bits, Layout: layout})
		next := 0
		take := func(n int) []string { next += n; return names("", next-n, n) }
		hash := "{" + window + "}:bare"
		prefill := func(ids int) {
			for from := 0; from < ids; from += 5000 {
				n := min(5000, ids-from)
				batch := take(n)
				claim(b, w, dedup.Batch{Root: fmt.Sprint("prefill", next), Records: n}, nil, batch...)
				hset := c.B().Hset().Key(hash).FieldValue()
				for _, id := range batch {
					hset = hset.FieldValue(id, "12345678")
				}
				do(b, c, hset.Build())
			}
		}
		prefill(64 << bits)
		// What takes a window in a real stream, the end of a generation, is written by hand here.
		state, err := do(b, c, c.B().Get().Key("{"+window+"}:dedup").Build()).ToString()
		if err != nil {
			b.Fatal(err)
		}
		kept := bits
		if layout == dedup.Fast {
			kept = 0
		}
		do(b, c, c.B().Set().Key("{"+window+"}:dedup").Value(fmt.Sprintf("%d,%d,0,%d;%s", time.Now().UnixMilli()+1, kept, time.Hour.Milliseconds(), state)).Build())
		prefill(32 << bits)
		batches := 0
		var batch [][]string
		bench.Run(b, bench.Figure{
			Name: name,
			Setup: func(int) {
				batch = batch[:0]
				for range perRound / size {
					batch = append(batch, take(size))
				}
			},
			Bare: func(int) int {
				for _, ids := range batch {
					cmds := make(rueidis.Commands, len(ids))
					for i, id := range ids {
						cmds[i] = c.B().Hsetnx().Key(hash).Field(id).Value("12345678").Build()
					}
					for _, r := range c.DoMulti(context.Background(), cmds...) {
						if set, err := r.AsBool(); err != nil || !set {
							b.Fatal(set, err)
						}
					}
				}
				return perRound
			},
			Ours: func(int) int {
				for _, ids := range batch {
					batches++
					v, err := w.Claim(context.Background(), dedup.Batch{Root: strconv.Itoa(batches), Records: len(ids)}, nil, ids)
					if err != nil || v[0] != fresh {
						b.Fatal(v, err)
					}
				}
				return perRound
			},
		})
		if err := w.Clear(context.Background()); err != nil {
			b.Fatal(err)
		}
		do(b, c, c.B().Unlink().Key(hash).Build())
	}
	figure("dedup/claim", 1000, 11, dedup.Compact) // 131,072 ids a window
	figure("dedup/claim/100", 100, 11, dedup.Compact)
	figure("dedup/claim/5000", 5000, 11, dedup.Compact)
	figure("dedup/claim/window-8k", 1000, 7, dedup.Compact)
	figure("dedup/claim/fast", 1000, 11, dedup.Fast)
	figure("dedup/claim/fast/100", 100, 11, dedup.Fast)
	figure("dedup/claim/fast/5000", 5000, 11, dedup.Fast)
	if large() {
		figure("dedup/claim/window-1m", 1000, 14, dedup.Compact)
		figure("dedup/claim/window-8m", 1000, 17, dedup.Compact)
	}
}

// large says whether figures that take gigabytes or minutes are wanted too.
func large() bool { return os.Getenv("HEADRACE_LARGE") != "" }

// At most 40 bytes an id of 16 characters in the compact layout, everything included, on every server that can tell.
func TestMemory(t *testing.T) {
	sizes := []int{1_000_000}
	if large() {
		sizes = append(sizes, 10_000_000)
	}
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		info, _ := c.Do(t.Context(), c.B().Info().Section("memory").Build()).ToString()
		if !strings.Contains(info, "used_memory:") {
			return // miniredis does not tell
		}
		for _, n := range sizes {
			compact := bytesPerID(t, c, n, dedup.Compact)
			fast := bytesPerID(t, c, n/10, dedup.Fast)
			t.Logf("%d ids: %.1f bytes each; layout Fast %.1f", n, compact, fast)
			if compact > 40 {
				t.Errorf("%d ids take %.1f bytes each, more than 40", n, compact)
			}
		}
	})
}

func bytesPerID(t *testing.T, c rueidis.Client, n int, layout dedup.Layout) float64 {
	t.Helper()
	w := newWindow(t, c, servertest.Prefix(t), dedup.Config{Expect: int64(n), Layout: layout})
	before := usedMemory(t, c)
	for at := 0; at < n; at += 5000 {
		claim(t, w, dedup.Batch{Root: strconv.Itoa(at), Records: 5000}, nil, names("", at, 5000)...)
	}
	used := usedMemory(t, c) - before
	if err := w.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	return float64(used) / float64(n)
}

// usedMemory is what the server uses for data: its buffers for clients, replicas and the append-only file come and go.
func usedMemory(t testing.TB, c rueidis.Client) int64 {
	t.Helper()
	n, err := do(t, c, c.B().Arbitrary("MEMORY", "STATS").Build()).AsMap()
	if err != nil {
		t.Fatal(err)
	}
	field := func(name string) int64 {
		m := n[name]
		v, _ := m.AsInt64()
		return v
	}
	return field("total.allocated") - field("clients.normal") - field("clients.slaves") - field("aof.buffer") - field("lua.caches") - field("functions.caches")
}
