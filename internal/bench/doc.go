// Package bench measures headrace against the bare tool and prints one line for each figure:
//
//	queue/push 512000/s bare 540000/s ratio 0.95 (0.91–0.98)
//
// On a shared machine an absolute rate changes from minute to minute. The ratio of two rates that
// are measured in the same seconds on the same data does not. So both sides run interleaved, round
// after round. They take turns at going first, so that neither always finds the warmer cache. The
// garbage of one side is collected before the other is timed. The rates are medians over the
// rounds. The ratio is the median of the rounds' own ratios, not the ratio of the medians. Its
// smallest and its largest value are printed next to it: a wide range means that the figure cannot
// be trusted.
//
// A figure belongs to the benchmark named BenchmarkFigures of its package:
//
//	func BenchmarkFigures(b *testing.B) {
//		bench.Run(b, bench.Figure{Name: "queue/push", Bare: bare, Ours: ours})
//	}
//
// The program in cmd/bench runs these benchmarks in all packages and forwards the figures. `make
// bench` calls it. A figure keeps its name for good.
package bench
