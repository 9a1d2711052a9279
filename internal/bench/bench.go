package bench

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	// DefaultRounds is how often each side is measured, after one warm-up round.
	DefaultRounds = 7
	// MinRounds is the fewest rounds from which a median is taken.
	MinRounds = 5
	// DefaultUnit is records per second.
	DefaultUnit = "/s"
	// EnvCheck names an environment variable. Set to 1, it makes Run measure one round instead of
	// Figure.Rounds: enough to see that a benchmark works, too little for a figure.
	EnvCheck = "HEADRACE_BENCH_CHECK"
)

// Figure is one comparison.
type Figure struct {
	// Name is "package/what". It never changes, so that figures of two versions can be compared.
	Name string
	// Unit is printed right after each rate. The default is "/s": records per second.
	Unit string
	// Rounds is how often each side is measured; 0 means DefaultRounds, and fewer than MinRounds is an
	// error.
	Rounds int
	// Setup, if not nil, runs untimed before each side of each round, also before the warm-up (round
	// -1). It must leave both sides the same start: the same data, empty tables.
	Setup func(round int)
	// Bare does the work with the bare tool, and Ours with headrace. Each returns how many records it
	// handled. The harness times the call; b.Fatal works in it.
	Bare, Ours func(round int) int

	now   func() time.Time // nil: time.Now
	first int              // round
}

// Result is what a figure came to.
type Result struct {
	Name string `json:"figure"`
	Unit string `json:"unit"`
	// Ours and Bare are the medians of the rounds' rates.
	Ours float64 `json:"ours"`
	Bare float64 `json:"bare"`
	// Ratio is the median of the rounds' ratios ours / bare, Low and High their extremes.
	Ratio  float64 `json:"ratio"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Rounds int     `json:"rounds"`
}

// String is the line that people read.
func (r Result) String() string {
	return fmt.Sprintf("%s %.0f%s bare %.0f%s ratio %.2f (%.2f–%.2f)", r.Name, r.Ours, r.Unit, r.Bare, r.Unit, r.Ratio, r.Low, r.High)
}

// nameForm keeps names free of spaces, at which tools split a line.
var nameForm = regexp.MustCompile(`^[a-z0-9-]+(/[a-z0-9-]+)+$`)

// ran remembers the figures of this process. The testing package calls a benchmark again with a
// larger N when -benchtime is not 1x; a figure has its own rounds and is measured once.
var ran sync.Map

// Run measures the figure and prints it. The benchmark's own ns/op is meaningless here and not
// reported.
func Run(b *testing.B, f Figure) {
	b.Helper()
	if err := f.check(); err != nil {
		b.Fatal(err)
	}
	if _, again := ran.LoadOrStore(f.Name, true); again {
		return
	}
	b.StopTimer()
	b.ReportMetric(0, "ns/op") // hides the line's only number
	r, err := f.measure(b.Failed)
	if err != nil {
		b.Fatal(err)
	}
	print(os.Stdout, r)
}

// Note prints one line next to the figures, marked with "#": what was measured on what, or a number
// that is no comparison.
func Note(b *testing.B, format string, args ...any) {
	b.Helper()
	if b.N > 1 {
		return // see ran
	}
	print(os.Stdout, note{fmt.Sprintf(format, args...)})
}

func (f *Figure) check() error {
	if !nameForm.MatchString(f.Name) {
		return fmt.Errorf("bench: Figure.Name is %q, must be lower-case words joined by '/'", f.Name)
	}
	f.first, f.Rounds = -1, cmp.Or(f.Rounds, DefaultRounds)
	f.Unit = cmp.Or(f.Unit, DefaultUnit)
	if f.now == nil {
		f.now = time.Now
	}
	if f.Rounds < MinRounds {
		return fmt.Errorf("bench: %s: Figure.Rounds is %d, must be %d or more", f.Name, f.Rounds, MinRounds)
	}
	if f.Bare == nil || f.Ours == nil {
		return fmt.Errorf("bench: %s: Figure.Bare and Figure.Ours must both be set", f.Name)
	}
	if os.Getenv(EnvCheck) == "1" {
		f.first, f.Rounds = 0, 1 // no warm-up
	}
	return nil
}

// measure runs the rounds. failed reports whether a side has reported an error (b.Error does not
// stop it).
func (f *Figure) measure(failed func() bool) (Result, error) {
	var bare, ours, ratios []float64
	for round := f.first; round < f.Rounds; round++ { // -1 warms up
		var rb, ro float64
		var err error
		bareFirst := round%2 == 0
		for _, isBare := range []bool{bareFirst, !bareFirst} {
			if isBare {
				rb, err = f.rate(f.Bare, round)
			} else {
				ro, err = f.rate(f.Ours, round)
			}
			if err == nil && failed() {
				err = fmt.Errorf("bench: %s: round %d failed", f.Name, round)
			}
			if err != nil {
				return Result{}, err
			}
		}
		if round < 0 {
			continue
		}
		bare, ours, ratios = append(bare, rb), append(ours, ro), append(ratios, ro/rb)
	}
	return Result{
		Name: f.Name, Unit: f.Unit, Rounds: f.Rounds,
		Bare: median(bare), Ours: median(ours),
		Ratio: median(ratios), Low: slices.Min(ratios), High: slices.Max(ratios),
	}, nil
}

func (f *Figure) rate(side func(int) int, round int) (float64, error) {
	if f.Setup != nil {
		f.Setup(round)
	}
	runtime.GC()
	start := f.now()
	n := side(round)
	took := f.now().Sub(start)
	if n <= 0 {
		return 0, fmt.Errorf("bench: %s: a side handled %d records in round %d", f.Name, n, round)
	}
	return float64(n) / max(took, time.Nanosecond).Seconds(), nil
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	m := len(x) / 2
	if len(x)%2 == 1 {
		return x[m]
	}
	return (x[m-1] + x[m]) / 2
}
