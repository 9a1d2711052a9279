package dedup_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
)

const (
	fresh = dedup.VerdictFresh
	dup   = dedup.VerdictDuplicate
)

func open(t testing.TB, c rueidis.Client, name string, cfg dedup.Config) *dedup.Deduplicator {
	t.Helper()
	d, err := dedup.New(t.Context(), c, name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func claim(t testing.TB, d *dedup.Deduplicator, b dedup.Batch, pos []int32, ids ...string) []dedup.Verdict {
	t.Helper()
	v, err := d.Claim(t.Context(), b, pos, ids)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func stats(t testing.TB, d *dedup.Deduplicator) dedup.Stats {
	t.Helper()
	s, err := d.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func want(t testing.TB, got []dedup.Verdict, want ...dedup.Verdict) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("verdicts (-want +got):\n%s", d)
	}
}

// guard makes the meta hash of a batch, as a queue keeps one.
func guard(t testing.TB, c rueidis.Client, name, id string) string {
	t.Helper()
	key := "{" + name + "}:m:" + id
	do(t, c, c.B().Hset().Key(key).FieldValue().FieldValue("n", "1").Build())
	return key
}

func do(t testing.TB, c rueidis.Client, cmd rueidis.Completed) rueidis.RedisResult {
	t.Helper()
	r := c.Do(t.Context(), cmd)
	if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
		t.Fatal(err)
	}
	return r
}

// undo does what the queue's script does with the Undo of an acknowledgement.
func undo(t testing.TB, c rueidis.Client, d *dedup.Deduplicator, claims ...dedup.Claim) {
	t.Helper()
	all, err := d.Undo(t.Context(), claims)
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range all {
		for _, u := range of {
			v, _ := do(t, c, c.B().Getrange().Key(u.Key).Start(u.Offset).End(u.Offset+int64(len(u.Old))-1).Build()).ToString()
			if v == u.Old {
				do(t, c, c.B().Setrange().Key(u.Key).Offset(u.Offset).Value(u.New).Build())
			}
		}
	}
}

// names returns n ids of 16 characters.
func names(prefix string, from, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s%0*x", prefix, 16-len(prefix), (from+i)*2654435761)
	}
	return ids
}

func TestClaimByPlace(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		d := open(t, c, servertest.Prefix(t), dedup.Config{})
		a := dedup.Batch{Root: "a", Records: 3}
		want(t, claim(t, d, a, nil, "x", "y", "x"), fresh, fresh, dup) // two copies in one batch: the first one wins
		want(t, claim(t, d, a, nil, "x", "y", "x"), fresh, fresh, dup) // redelivery meets its own claims
		b := dedup.Batch{Root: "b", Records: 2}
		want(t, claim(t, d, b, nil, "y", "z"), dup, fresh)
		// A child of a: the place is root and offset + position.
		child := dedup.Batch{Root: "a", Offset: 1, Records: 2}
		want(t, claim(t, d, child, nil, "y", "x"), fresh, dup)
		// Positions need not be all, nor in order.
		want(t, claim(t, d, dedup.Batch{Root: "c", Records: 10}, []int32{9, 2}, "q", "q"), dup, fresh)
	})
}

func TestVerdictIsKept(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{})
		a := dedup.Batch{Root: "a", Records: 1}
		want(t, claim(t, d, a, nil, "x"), fresh)
		b := dedup.Batch{Guard: guard(t, c, name, "b"), Root: "b", Records: 4}
		want(t, claim(t, d, b, []int32{1, 2}, "x", "y"), dup, fresh)
		if v, _ := do(t, c, c.B().Hget().Key(b.Guard).Field("r:dedup").Build()).ToString(); v != "-df-" {
			t.Fatalf("verdicts kept as %q, want %q", v, "-df-")
		}
		// a's record is rejected and its claim given back, yet b's was dropped as its duplicate once, and
		// stays dropped.
		undo(t, c, d, dedup.Claim{Root: "a", Place: 0, ID: "x"})
		want(t, claim(t, d, b, []int32{1, 2}, "x", "y"), dup, fresh)
		want(t, claim(t, d, b, nil, "v", "x", "y", "x"), fresh, dup, fresh, fresh)
	})
}

// A worker that sleeps through the end of its batch must not claim anything: no other program would
// give it back. See X_CLAIMEXIST in docs/model.
func TestClaimIsRefusedWhenTheBatchIsGone(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{})
		b := dedup.Batch{Guard: guard(t, c, name, "b"), Root: "b", Records: 1}
		do(t, c, c.B().Del().Key(b.Guard).Build())
		if _, err := d.Claim(t.Context(), b, nil, []string{"x"}); !errors.Is(err, dedup.ErrGone) {
			t.Fatalf("claim for a batch that is gone: %v, want ErrGone", err)
		}
		if n := do(t, c, c.B().Exists().Key(b.Guard).Build()); func() bool { v, _ := n.AsInt64(); return v != 0 }() {
			t.Fatal("the refused claim made the guard again")
		}
		want(t, claim(t, d, dedup.Batch{Root: "c", Records: 1}, nil, "x"), fresh)
	})
}

// Only the place that holds a claim gives it back. See B_RELMEM and B_RELAFTERACK in docs/model.
func TestUndoTouchesOnlyTheHolder(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		d := open(t, c, servertest.Prefix(t), dedup.Config{})
		want(t, claim(t, d, dedup.Batch{Root: "a", Records: 2}, nil, "x", "y"), fresh, fresh)
		want(t, claim(t, d, dedup.Batch{Root: "b", Records: 1}, nil, "x"), dup)
		undo(t, c, d, dedup.Claim{Root: "b", Place: 0, ID: "x"}, dedup.Claim{Root: "a", Place: 0, ID: "y"})
		want(t, claim(t, d, dedup.Batch{Root: "c", Records: 2}, nil, "x", "y"), dup, dup)
		undo(t, c, d, dedup.Claim{Root: "a", Place: 0, ID: "x"})
		want(t, claim(t, d, dedup.Batch{Root: "d", Records: 2}, nil, "x", "y"), fresh, dup)

		if n, err := d.Release(t.Context(), dedup.Claim{Root: "a", Place: 0, ID: "x"}, dedup.Claim{Root: "a", Place: 1, ID: "y"}); n != 1 || err != nil {
			t.Fatalf("Release: %d, %v, want 1: x belongs to another place by now", n, err)
		}
		want(t, claim(t, d, dedup.Batch{Root: "e", Records: 2}, nil, "x", "y"), dup, fresh)
	})
}

func TestMarkSeenForgetStatsClear(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx, name := t.Context(), servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{Window: time.Hour})
		marked, err := d.Mark(ctx, "a", "b", "a")
		if d := cmp.Diff([]bool{true, true, false}, marked); err != nil || d != "" {
			t.Fatal(err, d)
		}
		if marked, err = d.Mark(ctx, "b", "c"); err != nil || marked[0] || !marked[1] {
			t.Fatal(marked, err)
		}
		seen, err := d.Seen(ctx, "a", "b", "c", "d")
		if d := cmp.Diff([]bool{true, true, true, false}, seen); err != nil || d != "" {
			t.Fatal(err, d)
		}
		if s := stats(t, d); s.IDs != 3 || s.Tables != 1 || s.Bytes < 3*16 {
			t.Fatalf("Stats: got %+v, want 3 ids in 1 table", s)
		}
		if n, err := d.Forget(ctx, "a", "d"); n != 1 || err != nil {
			t.Fatalf("Forget: %d, %v", n, err)
		}
		if seen, _ := d.Seen(ctx, "a", "b"); seen[0] || !seen[1] {
			t.Fatal(seen)
		}
		if err := d.Clear(ctx); err != nil {
			t.Fatal(err)
		}
		if got, want := stats(t, d), (dedup.Stats{Tables: 1}); got != want {
			t.Fatalf("Stats after Clear: got %+v, want %+v", got, want)
		}
		keys, _ := do(t, c, c.B().Keys().Pattern("{"+name+"}*").Build()).AsStrSlice()
		if d := cmp.Diff([]string{"{" + name + "}:dedup:state"}, keys); d != "" {
			t.Fatalf("keys after Clear: %s", d)
		}
		if marked, _ := d.Mark(ctx, "b"); !marked[0] {
			t.Fatal("b is still known after Clear")
		}
	})
}

// Thousands of ids in one call, and the second call meets each of them.
func TestLargeBatches(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{ExpectedIDs: 10})
		sizes, sum := []int{1, 999, 1000, 1001}, 0
		if strings.HasSuffix(t.Name(), "/shared") {
			sizes = append(sizes, 5000, 12345)
		}
		for _, n := range sizes {
			sum += n
			ids := names(fmt.Sprint(n, "-"), 0, n)
			b := dedup.Batch{Guard: guard(t, c, name, fmt.Sprint(n)), Root: fmt.Sprint("r", n), Records: n}
			for range 2 {
				for i, v := range claim(t, d, b, nil, ids...) {
					if v != fresh {
						t.Fatalf("%d ids: id %d is a %v", n, i, v)
					}
				}
			}
			b.Root, b.Guard = b.Root+"x", ""
			for i, v := range claim(t, d, b, nil, ids...) {
				if v != dup {
					t.Fatalf("%d ids: id %d is %v for another batch", n, i, v)
				}
			}
		}
		if n := stats(t, d).IDs; n != int64(sum) {
			t.Fatalf("Stats: got %d ids, want %d", n, sum)
		}
		if err := d.Clear(t.Context()); err != nil {
			t.Fatal(err)
		}
		if keys, _ := do(t, c, c.B().Keys().Pattern("{"+name+"}:dedup:t:*").Build()).AsStrSlice(); len(keys) > 0 {
			t.Fatalf("%d keys after Clear", len(keys))
		}
	})
}

func TestDigestOfLongIDs(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	d := open(t, c, servertest.Prefix(t), dedup.Config{Digest: true})
	long := strings.Repeat("customer/order/", 20)
	b := dedup.Batch{Root: "a", Records: 4}
	want(t, claim(t, d, b, nil, long+"1", long+"2", "short", long+"1"), fresh, fresh, fresh, dup)
	want(t, claim(t, d, dedup.Batch{Root: "b", Records: 2}, nil, long+"2", "short"), dup, dup)
	undo(t, c, d, dedup.Claim{Root: "a", Place: 1, ID: long + "2"})
	want(t, claim(t, d, dedup.Batch{Root: "c", Records: 2}, nil, long+"1", long+"2"), dup, fresh)
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	d := open(t, c, name, dedup.Config{})
	long := strings.Repeat("x", dedup.MaxID+1)
	for _, tc := range []struct {
		b    dedup.Batch
		pos  []int32
		ids  []string
		want string
	}{
		{dedup.Batch{Root: "a", Records: 3}, nil, []string{"x", "", "y"}, "dedup: id 1 (position 1 of the batch) is empty"},
		{dedup.Batch{Root: "a", Records: 9}, []int32{4, 8}, []string{"x", long}, "dedup: id 1 (position 8 of the batch) has 1025 bytes, must have at most 1024"},
		{dedup.Batch{Records: 1}, nil, []string{"x"}, "dedup: invalid batch: Batch.Root is empty"},
		{dedup.Batch{Root: "a", Offset: -1, Records: 1}, nil, []string{"x"}, "dedup: invalid batch: Batch.Offset is -1, must not be negative"},
		{dedup.Batch{Root: "a", Offset: 1<<32 - 1, Records: 1}, nil, []string{"x"}, "dedup: invalid batch: Batch.Offset is 4294967295: a root has at most 4294967295 records"},
		{dedup.Batch{Root: "a", Records: 1}, []int32{1}, []string{"x"}, "dedup: invalid batch: position 1 is not in a batch of 1 records"},
		{dedup.Batch{Root: "a", Records: 2}, []int32{1, 1}, []string{"x", "y"}, "dedup: invalid batch: position 1 occurs twice"},
		{dedup.Batch{Root: "a", Records: 2}, nil, []string{"x"}, "dedup: invalid batch: pos is nil, so ids must have Batch.Records elements: it has 1, Batch.Records is 2"},
		{dedup.Batch{Root: "a", Records: 2}, []int32{0}, []string{"x", "y"}, "dedup: invalid batch: pos has 1 elements, must have 2, one for each id"},
		{dedup.Batch{Guard: "m:1", Root: "a", Records: 1}, nil, []string{"x"}, fmt.Sprintf("dedup: invalid batch: Batch.Guard \"m:1\" lacks the hash tag {%s}: the batch and the window must share a slot", name)},
	} {
		_, err := d.Claim(t.Context(), tc.b, tc.pos, tc.ids)
		if err == nil || err.Error() != tc.want {
			t.Errorf("got  %v\nwant %s", err, tc.want)
		}
	}
	var e *dedup.IDError
	_, err := d.Mark(t.Context(), "a", long)
	if !errors.Is(err, dedup.ErrID) || !errors.As(err, &e) || e.Index != 1 {
		t.Errorf("Mark of a long id: %v", err)
	}
	if seen, _ := d.Seen(t.Context(), "a", "x", "y"); seen[0] || seen[1] || seen[2] {
		t.Error("a refused call has claimed something")
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	for _, tc := range []struct {
		name string
		cfg  dedup.Config
		want string
	}{
		{"w", dedup.Config{Window: -time.Second}, "Config.Window is -1s, must be 10ms to 9600h0m0s"},
		{"w", dedup.Config{Window: 1500 * time.Hour * 24}, "Config.Window is 36000h0m0s, must be 10ms to 9600h0m0s"},
		{"w", dedup.Config{Window: time.Second + 1}, "Config.Window is 1.000000001s, must be whole milliseconds"},
		{"w", dedup.Config{ExpectedIDs: -1}, "Config.ExpectedIDs is -1, must be 1 to 1000000000"},
		{"w", dedup.Config{DurableTimeout: -1}, "Config.DurableTimeout is -1ns, must be 1ms to 1h0m0s"},
		{"w", dedup.Config{DurableTimeout: 2 * time.Hour}, "Config.DurableTimeout is 2h0m0s, must be 1ms to 1h0m0s"},
		{"w", dedup.Config{Eviction: 3}, "Config.Eviction is 3, must be 0 to 2"},
		{"", dedup.Config{}, "name is empty, must have 1 to 200 bytes"},
		{"a{b", dedup.Config{}, `name is "a{b", must have no brace: it would break the hash tag of the keys`},
		{strings.Repeat("x", 201), dedup.Config{}, "name has 201 bytes, must have 1 to 200"},
	} {
		_, err := dedup.New(t.Context(), c, tc.name, tc.cfg)
		if want := "dedup: invalid configuration: " + tc.want; !errors.Is(err, dedup.ErrConfig) || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// Durations, numbers and places that are far out of range are errors. None wraps around to another
// value.
func TestExtremes(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	for _, v := range []time.Duration{math.MinInt64, -1, 1, time.Microsecond, math.MaxInt64} {
		for field, cfg := range map[string]dedup.Config{"Window": {Window: v}, "DurableTimeout": {DurableTimeout: v}} {
			_, err := dedup.New(ctx, c, "w", cfg)
			if text := fmt.Sprintf("Config.%s is %v, must be ", field, v); !errors.Is(err, dedup.ErrConfig) || !strings.Contains(err.Error(), text) {
				t.Errorf("got %v, want ErrConfig with %q", err, text)
			}
		}
	}
	for _, n := range []int64{math.MinInt64, -1, dedup.MaxExpectedIDs + 1, math.MaxInt64} {
		if _, err := dedup.New(ctx, c, "w", dedup.Config{ExpectedIDs: n}); !errors.Is(err, dedup.ErrConfig) {
			t.Errorf("ExpectedIDs of %d: got %v, want ErrConfig", n, err)
		}
	}
	d := open(t, c, servertest.Prefix(t), dedup.Config{ExpectedIDs: 1})
	want(t, claim(t, d, dedup.Batch{Root: "a", Offset: 1<<32 - 2, Records: 1}, nil, "last"), fresh)
	want(t, claim(t, d, dedup.Batch{Root: "a", Records: 2}, nil, "zero", "one"), fresh, fresh)
	for _, n := range []int{math.MinInt, -1, dedup.MaxIDs + 1, math.MaxInt} {
		if _, err := d.Claim(ctx, dedup.Batch{Root: "a", Records: n}, []int32{0}, []string{"x"}); !errors.Is(err, dedup.ErrBatch) {
			t.Errorf("Records of %d: got %v, want ErrBatch", n, err)
		}
		if _, err := d.Claim(ctx, dedup.Batch{Root: "a", Offset: -max(n, -n), Records: 1}, nil, []string{"x"}); !errors.Is(err, dedup.ErrBatch) {
			t.Errorf("Offset of %d: got %v, want ErrBatch", -max(n, -n), err)
		}
	}
	for _, p := range []int32{math.MinInt32, -1, 2, math.MaxInt32} {
		if _, err := d.Claim(ctx, dedup.Batch{Root: "a", Records: 2}, []int32{p}, []string{"x"}); !errors.Is(err, dedup.ErrBatch) {
			t.Errorf("position %d: got %v, want ErrBatch", p, err)
		}
	}
	for _, place := range []int{math.MinInt, math.MinInt + 1, -1 << 32, -1, 1 << 32, 1<<32 + 1, math.MaxInt} {
		for _, id := range []string{"zero", "one", "last"} {
			c := dedup.Claim{Root: "a", Place: place, ID: id}
			if n, err := d.Release(ctx, c); !errors.Is(err, dedup.ErrBatch) {
				t.Errorf("Release of place %d: got %d, %v, want ErrBatch", place, n, err)
			}
			if u, err := d.Undo(ctx, []dedup.Claim{c}); !errors.Is(err, dedup.ErrBatch) {
				t.Errorf("Undo of place %d: got %v, %v, want ErrBatch", place, u, err)
			}
		}
	}
	if seen, err := d.Seen(ctx, "zero", "one", "last", "x"); err != nil || !slices.Equal(seen, []bool{true, true, true, false}) {
		t.Errorf("got %v, %v, want the three claims", seen, err)
	}
	if n, err := d.Release(ctx, dedup.Claim{Root: "a", Place: 1<<32 - 2, ID: "last"}); n != 1 || err != nil {
		t.Errorf("got %d, %v, want the claim of the last place to be released", n, err)
	}
}

// When Redis is away every call fails: no record passes and none is dropped.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	c := s.Client(t)
	d := open(t, c, "away", dedup.Config{})
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if v, err := d.Claim(ctx, dedup.Batch{Root: "a", Records: 1}, nil, []string{"x"}); err == nil || v != nil {
		t.Fatalf("claim without a server: %v, %v", v, err)
	}
	if _, err := d.Seen(ctx, "x"); err == nil {
		t.Fatal("Seen without a server: no error")
	}
}

func TestServerThatEvicts(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t, "--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru").Client(t)
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	if _, err := dedup.New(t.Context(), c, "w", dedup.Config{Eviction: dedup.EvictionRefuse, Logger: logger}); !errors.Is(err, dedup.ErrEviction) {
		t.Fatalf("New with EvictionRefuse: got %v, want ErrEviction", err)
	}
	open(t, c, "w", dedup.Config{Eviction: dedup.EvictionIgnore, Logger: logger})
	if log.Len() > 0 {
		t.Fatalf("the log has %q, want nothing yet", log.String())
	}
	open(t, c, "w", dedup.Config{Logger: logger})
	if got := log.String(); strings.Count(got, "volatile-lru") != 1 || strings.Count(got, "level=WARN") != 1 {
		t.Fatalf("EvictionWarn logged %q, want one warning with the policy", got)
	}
}

func TestShard(t *testing.T) {
	t.Parallel()
	counts := make([]int, 7)
	for _, id := range names("s", 0, 7000) {
		counts[dedup.Shard(id, 7)]++
	}
	for i, n := range counts {
		if n < 800 || n > 1200 {
			t.Errorf("shard %d of 7 has %d of 7000 ids", i, n)
		}
	}
	if got := dedup.Shard("order-1", 16); got != 5 {
		t.Errorf("Shard(order-1, 16) is %d: it must never change", got)
	}
}
