package bench

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func never() bool { return false }

func TestRoundsAreInterleavedAndAlternateWhoGoesFirst(t *testing.T) {
	t.Parallel()
	var order []string
	f := Figure{
		Name: "a/b", Rounds: 5,
		Setup: func(int) { order = append(order, "setup") },
		Bare:  func(int) int { order = append(order, "bare"); return 1 },
		Ours:  func(int) int { order = append(order, "ours"); return 1 },
	}
	if err := f.check(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.measure(never); err != nil {
		t.Fatal(err)
	}
	want := []string{"setup", "ours", "setup", "bare"} // the warm-up
	for i := range 5 {
		if i%2 == 0 {
			want = append(want, "setup", "bare", "setup", "ours")
		} else {
			want = append(want, "setup", "ours", "setup", "bare")
		}
	}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Error(diff)
	}
}

func TestCheckRunsOneRoundWithoutWarmUp(t *testing.T) {
	t.Setenv(EnvCheck, "1")
	var rounds []int
	side := func(r int) int { rounds = append(rounds, r); return 1 }
	f := Figure{Name: "a/b", Bare: side, Ours: side}
	if err := f.check(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.measure(never); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{0, 0}, rounds); diff != "" {
		t.Error(diff)
	}
}

func TestRatioIsTheMedianOfTheRoundsRatios(t *testing.T) {
	t.Parallel()
	// The machine slows down in the middle of the run, and both sides with it: the ratio must not
	// change. Each side takes two seconds of a virtual clock.
	speed := []int{1000, 1000, 10, 10, 10}
	var now time.Time
	wait := func() { now = now.Add(2 * time.Second) }
	f := Figure{
		Name: "a/b", Rounds: 5, now: func() time.Time { return now },
		Bare: func(r int) int { wait(); return 1000 * speed[max(r, 0)] },
		Ours: func(r int) int { wait(); return 500 * speed[max(r, 0)] },
	}
	if err := f.check(); err != nil {
		t.Fatal(err)
	}
	r, err := f.measure(never)
	if err != nil {
		t.Fatal(err)
	}
	want := Result{Name: "a/b", Unit: "/s", Ours: 2500, Bare: 5000, Ratio: 0.5, Low: 0.5, High: 0.5, Rounds: 5}
	if r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	x := []float64{9, 1, 5}
	if got := median(x); got != 5 {
		t.Errorf("median of three is %v", got)
	}
	if got := median([]float64{4, 1, 2, 3}); got != 2.5 {
		t.Errorf("median of four is %v", got)
	}
	if !slices.Equal(x, []float64{9, 1, 5}) {
		t.Errorf("median changed its argument: %v", x)
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	r := Result{Name: "queue/push", Unit: "/s", Ours: 512000, Bare: 540000, Ratio: 0.948, Low: 0.912, High: 0.98, Rounds: 7}
	if got, want := r.String(), "queue/push 512000/s bare 540000/s ratio 0.95 (0.91–0.98)"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestJSONRoundTrip(t *testing.T) {
	t.Setenv(EnvJSON, "1")
	r := Result{Name: "queue/push", Unit: "/s", Ours: 5, Bare: 10, Ratio: 0.5, Low: 0.4, High: 0.6, Rounds: 7}
	var out bytes.Buffer
	print(&out, r)
	figure, _, ok := ParseLine("BenchmarkFigures-2 \t" + strings.TrimSpace(out.String()))
	if !ok || figure == nil {
		t.Fatalf("no figure found in %q", out.String())
	}
	if diff := cmp.Diff(r, *figure); diff != "" {
		t.Error(diff)
	}

	out.Reset()
	print(&out, note{"10,000 orders"})
	figure, text, ok := ParseLine(out.String())
	if !ok || figure != nil || text != "10,000 orders" {
		t.Errorf("got %v %q %v", figure, text, ok)
	}

	for _, line := range []string{"", "PASS", "ok  \tpkg\t1s", `{"figure":`, `{"other":1}`} {
		if _, _, ok := ParseLine(line); ok {
			t.Errorf("%q was taken for a figure or note", line)
		}
	}
}

func TestBadFigures(t *testing.T) {
	t.Parallel()
	one := func(int) int { return 1 }
	for want, f := range map[string]Figure{
		"Figure.Name is \"Push\"": {Name: "Push", Bare: one, Ours: one},
		"Figure.Rounds is 3":      {Name: "a/b", Rounds: 3, Bare: one, Ours: one},
		"must both be set":        {Name: "a/b", Ours: one},
	} {
		if err := f.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f := Figure{Name: "a/b", Rounds: 5, Bare: one, Ours: func(int) int { return 0 }, now: time.Now}
	if _, err := f.measure(never); err == nil {
		t.Error("a side that handled no record was measured")
	}
	f.Ours = one
	if _, err := f.measure(func() bool { return true }); err == nil {
		t.Error("a side that failed was measured")
	}
}

// Not named BenchmarkFigures: what it prints is no figure of headrace's.
func BenchmarkItself(b *testing.B) {
	n := 0
	work := func(int) int {
		for i := range 1_000_000 {
			n += i
		}
		return 1_000_000
	}
	for range 2 { // the second call must print nothing
		Run(b, Figure{Name: "bench/itself", Bare: work, Ours: work})
	}
	Note(b, "both sides of bench/itself are the same loop (%d)", n)
}
