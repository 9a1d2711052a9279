package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

func batchOf(payloads ...string) *Batch {
	qb := &queue.Batch{ID: "b", Root: "b"}
	for _, p := range payloads {
		qb.Payloads = append(qb.Payloads, []byte(p))
	}
	return newBatch(qb)
}

func runStage[T any](s Stage[[]byte, T], b *Batch) (Records[T], error) {
	return Flow[T]{Chain: s}.runChain(context.Background(), b)
}

func atoi(p []byte) (int, error) { return strconv.Atoi(string(p)) }

func TestChainAccountsForEachRecord(t *testing.T) {
	chain := Then5(
		Decode(atoi),
		Filter("small", func(n int) bool { return n < 100 }),
		Map("odd", func(n int) (int, error) {
			if n%2 == 0 {
				return 0, Reject("even", "%d is even", n)
			}
			return n, nil
		}),
		MapBatch("double", func(_ context.Context, in []int) ([]int, []error, error) {
			out, errs := make([]int, len(in)), make([]error, len(in))
			for i, n := range in {
				out[i] = 2 * n
				if n == 13 {
					errs[i] = errors.New("unlucky")
				}
			}
			return out, errs, nil
		}),
		FlatMap("spread", func(n int) ([]string, error) {
			if n == 2 {
				return nil, nil
			}
			return []string{strconv.Itoa(n), "again"}, nil
		}),
	)
	b := batchOf("1", "x", "3", "4", "200", "13", "5")
	out, err := runStage(chain, b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Records[string]{Values: []string{"6", "again", "10", "again"}, Pos: []int32{2, 2, 6, 6}}, out); diff != "" {
		t.Error(diff)
	}
	want := []staging.Reject{
		{Pos: 1, Code: "malformed", Reason: `strconv.Atoi: parsing "x": invalid syntax`, Payload: []byte("x")},
		{Pos: 3, Code: "even", Reason: "4 is even", Payload: []byte("4")},
		{Pos: 5, Code: "rejected", Reason: "unlucky", Payload: []byte("13")},
	}
	if diff := cmp.Diff(want, b.rejects); diff != "" {
		t.Error(diff)
	}
	if b.filtered != 2 || b.dups != 0 {
		t.Errorf("filtered %d, duplicates %d: want 2, 0", b.filtered, b.dups)
	}
}

// A record of several rows is one record to later stages. It is filtered when none of its rows is
// kept, and rejected with all of them when one is rejected.
func TestRowsOfOneRecord(t *testing.T) {
	chain := Then4(
		FlatMap("chars", func(p []byte) ([]byte, error) { return p, nil }),
		Filter("no x", func(c byte) bool { return c != 'x' }),
		Map("no bang", func(c byte) (byte, error) {
			if c == '!' {
				return 0, errors.New("bang")
			}
			return c, nil
		}),
		MapBatch("no q", func(_ context.Context, in []byte) ([]byte, []error, error) {
			errs := make([]error, len(in))
			for i, c := range in {
				if c == 'q' {
					errs[i] = errors.New("q")
				}
			}
			return in, errs, nil
		}),
	)
	b := batchOf("axb", "xx", "c!!d", "qrq", "e")
	out, err := runStage(chain, b)
	if err != nil {
		t.Fatal(err)
	}
	if string(out.Values) != "abe" || !cmp.Equal(out.Pos, []int32{0, 0, 4}) {
		t.Errorf("rows %q at %v, want \"abe\" at [0 0 4]", out.Values, out.Pos)
	}
	if b.filtered != 1 || len(b.rejects) != 2 || b.rejects[0].Pos != 2 || b.rejects[1].Pos != 3 {
		t.Errorf("filtered %d, rejects %+v: want 1, and records 2 and 3", b.filtered, b.rejects)
	}
}

func TestDedupBehindFlatMapPanics(t *testing.T) {
	defer func() {
		if p := recover(); p == nil || !strings.Contains(p.(string), "Dedup after FlatMap") {
			t.Errorf("panic %v: want one that names the fault", p)
		}
	}()
	var w *dedup.Deduplicator
	Then(FlatMap("spread", func(p []byte) ([]byte, error) { return p, nil }), Dedup(w, func(byte) string { return "" }))
}

// A window that cannot be reached and a wrong configuration never count against the batch. An id
// that the window refuses does.
func TestErrorsOfTheWindow(t *testing.T) {
	id := func(p []byte) string { return string(p) }
	for _, c := range []struct {
		err                        error
		unavailable, misconfigured bool
	}{
		{fmt.Errorf("%w: no hash tag", dedup.ErrBatch), false, true},
		{fmt.Errorf("%w: odd", dedup.ErrID), false, false},
		{errors.New("connection refused"), true, false},
	} {
		_, err := runStage(Dedup(brokenWindow{c.err}, id), batchOf("a"))
		if !errors.Is(err, c.err) || isUnavailable(err) != c.unavailable || isMisconfigured(err) != c.misconfigured {
			t.Errorf("%v: unavailable %v, misconfigured %v, want %v, %v", err, isUnavailable(err), isMisconfigured(err), c.unavailable, c.misconfigured)
		}
	}
}

type brokenWindow struct{ err error }

func (w brokenWindow) Name() string { return "" }

func (w brokenWindow) Claim(context.Context, dedup.Batch, []int32, []string) ([]dedup.Verdict, error) {
	return nil, w.err
}

func (w brokenWindow) Undo(context.Context, []dedup.Claim) ([][]dedup.Undo, error) {
	return nil, w.err
}

// A stage of slow calls ends soon after its context, not after the batch.
func TestStageChecksItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	calls := 0
	s := Map("slow", func(p []byte) (int, error) { calls++; cancel(); return 0, nil })
	_, err := Flow[int]{Chain: s}.runChain(ctx, batchOf(make([]string, 1000)...))
	if !errors.Is(err, context.Canceled) || calls > 100 {
		t.Errorf("%d calls, %v: want an end within 100", calls, err)
	}
}

// A stage that loses, duplicates or invents a record is caught before anything is staged.
func TestUnaccountedRecordIsAnError(t *testing.T) {
	type rs = Records[[]byte]
	for name, c := range map[string]struct {
		run  func(b *Batch, in rs) rs
		want string
	}{
		"lost":           {func(_ *Batch, in rs) rs { return rs{in.Values[1:], in.Pos[1:]} }, "it lost the record at position 0"},
		"both":           {func(b *Batch, in rs) rs { b.Filter(1); return in }, "both passed on and dropped the record at position 1"},
		"dropped twice":  {func(b *Batch, in rs) rs { b.Filter(1); b.Duplicate(1); return rs{} }, "dropped the record at position 1 twice"},
		"invented":       {func(_ *Batch, in rs) rs { return rs{in.Values, []int32{0, 1, 7}} }, "position 7, which it did not receive"},
		"dropped beyond": {func(b *Batch, in rs) rs { b.Reject(9, "x", "y"); return in }, "position 9 of a batch of 3 records"},
		"ragged":         {func(_ *Batch, in rs) rs { return rs{in.Values, in.Pos[:2]} }, "3 values and 2 positions"},
		"out of order":   {func(_ *Batch, in rs) rs { return rs{in.Values, []int32{1, 0, 2}} }, "positions must rise"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Func("bad", func(_ context.Context, b *Batch, in rs) (rs, error) { return c.run(b, in), nil })
			_, err := runStage(s, batchOf("a", "b", "c"))
			if !errors.Is(err, ErrUnaccounted) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `stage "bad"`) {
				t.Errorf("error %v: want ErrUnaccounted, naming the stage and %q", err, c.want)
			}
		})
	}
	s := MapBatch("short", func(context.Context, [][]byte) ([]int, []error, error) { return []int{1}, nil, nil })
	if _, err := runStage(s, batchOf("a", "b")); !errors.Is(err, ErrUnaccounted) {
		t.Errorf("MapBatch that returns too few: %v", err)
	}
}

// A record that an earlier stage dropped cannot come back.
func TestDroppedRecordStaysDropped(t *testing.T) {
	s := Then(
		Filter("none", func([]byte) bool { return false }),
		Func("revive", func(_ context.Context, _ *Batch, _ Records[[]byte]) (Records[[]byte], error) {
			return Records[[]byte]{Values: [][]byte{nil}, Pos: []int32{0}}, nil
		}))
	if _, err := runStage(s, batchOf("a")); !errors.Is(err, ErrUnaccounted) {
		t.Errorf("error %v: want ErrUnaccounted", err)
	}
}

// The error of a panic is one line that names the place. The stack is kept apart.
func TestPanicIsAnErrorOfTheBatch(t *testing.T) {
	for name, boom := range map[string]func([]byte) (int, error){
		"value":   func([]byte) (int, error) { panic("out of cheese") },
		"error":   func([]byte) (int, error) { panic(errors.New("out of cheese")) },
		"runtime": func(p []byte) (int, error) { return int(p[7]), nil },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := runStage(Map("boom", boom), batchOf("a"))
			var p *panicError
			if !errors.As(err, &p) || !strings.Contains(err.Error(), "chain_test.go:") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("error %v, want one line that names this file", err)
			}
			if !strings.Contains(string(p.stack), "TestPanicIsAnErrorOfTheBatch") {
				t.Errorf("stack %s, want the function that panicked in it", p.stack)
			}
		})
	}
}

func TestUnavailableConcernsTheBatch(t *testing.T) {
	away := errors.New("rates are away")
	s := Lookup("rates", func(context.Context) (int, error) { return 0, away }, func([]byte, int) (int, error) { return 1, nil })
	b := batchOf("a")
	if _, err := runStage(s, b); !isUnavailable(err) || !errors.Is(err, away) || len(b.rejects) != 0 {
		t.Errorf("error %v, %d rejects: want an unavailable one and none", err, len(b.rejects))
	}
	s = Map("remote", func([]byte) (int, error) { return 0, Unavailable(away) })
	if _, err := runStage(s, b); !isUnavailable(err) || len(b.rejects) != 0 {
		t.Errorf("error %v, %d rejects: want an unavailable one and none", err, len(b.rejects))
	}
}

func FuzzAccount(f *testing.F) {
	f.Add([]byte{0, 1, 2}, []byte{0})
	f.Fuzz(func(t *testing.T, out, drop []byte) {
		const n = 8
		b := batchOf(make([]string, n)...)
		in := make([]int32, n)
		for i := range in {
			in[i] = int32(i)
		}
		seen, ok, last := [n]int{}, true, -1
		pos := make([]int32, len(out))
		for i, p := range out {
			pos[i] = int32(p)
			if p >= n || int(p) < last {
				ok = false
				continue
			}
			last = int(p)
			seen[p] |= 1
		}
		for _, p := range drop {
			if p >= n || seen[p]&2 != 0 {
				ok = false
			} else {
				seen[p] |= 2
			}
			b.Filter(int32(p))
		}
		for _, s := range seen {
			ok = ok && (s == 1 || s == 2)
		}
		if err := b.account(in, pos); (err == nil) != ok {
			t.Errorf("account(%v) after dropping %v: %v, want ok %v", out, drop, err, ok)
		}
	})
}
