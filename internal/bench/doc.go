// Package bench measures headrace against the bare tool and prints one line a figure:
//
//	queue/push 512000/s bare 540000/s ratio 0.95 (0.91–0.98)
//
// On a shared machine an absolute number means little: the next minute it is another one. A ratio
// of two things measured in the same seconds on the same data means something. So both sides run
// interleaved, round after round; in every other round ours goes first, so that neither side always
// finds the warmer cache; the garbage of one is collected before the other is timed. The rates are
// medians over the rounds, the ratio is the median of the rounds' own ratios (never the ratio of
// the medians), and its smallest and largest value stand beside it: a wide range means "do not
// trust this".
//
// A figure lives in the benchmark named BenchmarkFigures of its package:
//
//	func BenchmarkFigures(b *testing.B) {
//		bench.Run(b, bench.Figure{Name: "queue/push", Bare: bare, Ours: ours})
//	}
//
// The program in cmd/bench runs these benchmarks of all packages and forwards the figures; `make
// bench` calls it. A figure keeps its name for good.
package bench
