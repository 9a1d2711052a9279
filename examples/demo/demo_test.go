package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
)

func TestMain(m *testing.M) { servertest.Main(m) }

// The whole job, with everything that can happen to an order.
func TestDemo(t *testing.T) {
	t.Setenv(program.EnvRedis, servertest.RedisURL(t))
	t.Setenv(program.EnvPostgres, servertest.PostgresURL(t))
	var out bytes.Buffer
	job := orders.Job{
		Orders: orders.Config{Orders: 5000, Duplicates: 0.1, Bad: 0.02, Seed: 42},
		Worker: pipeline.WorkerConfig{Concurrency: 3, Records: 300},
	}
	if err := run(t.Context(), &program.Program{Name: "demo", Out: &out, Err: io.Discard}, job); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		"taken 5000 = acked 5000 + in flight 0", "✓ duplicates 500", "✓ rejected 100",
		orders.CodeUnknownProduct, orders.CodeUnknownCurrency, orders.CodeZeroQuantity, orders.CodeMalformedJSON, orders.CodeTooLarge,
		"sales_hourly", "product_performance_daily", "shipping_zone_stats", "sustained", "Every record is accounted for.",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "✗") {
		t.Errorf("the output marks a difference:\n%s", out.String())
	}
}

// The progress line fits every terminal, also with the largest numbers.
func TestProgressLineFits(t *testing.T) {
	t.Parallel()
	for _, total := range []int{1, 9_999, 10_000, 1_000_000, 100_000_000} {
		m := newMeter(total)
		m.began = time.Now().Add(-time.Hour)
		for _, done := range []int64{0, int64(total) / 2, int64(total)} {
			m.steps["push"], m.steps["stage"], m.promoted = &step{records: int64(total)}, &step{records: int64(total)}, done
			for _, width := range []int{10, 40, 79, 80, 199, 200} {
				for _, bar := range []bool{false, true} {
					line := m.line(width, bar)
					if n := utf8.RuneCountInString(line); n > width {
						t.Errorf("%d of %d orders in %d columns: the line has %d: %s", done, total, width, n, line)
					}
					if full := strings.Count(line, "█"); bar && width >= 79 && (full == 0) != (done*5 < int64(total)) && total > 1 {
						t.Errorf("%d of %d orders in %d columns: the bar has %d full columns: %s", done, total, width, full, line)
					}
				}
			}
		}
	}
}
