package orders_test

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/headrace/headrace/examples/orders"
)

func payloads(b *testing.B) (all [][]byte, bytes int64) {
	b.Helper()
	g, err := orders.NewGenerator(orders.Config{Orders: 1024})
	if err != nil {
		b.Fatal(err)
	}
	for p := range g.All() {
		all, bytes = append(all, p), bytes+int64(len(p))
	}
	return all, bytes / int64(len(all))
}

func BenchmarkDecode(b *testing.B) {
	all, size := payloads(b)
	b.SetBytes(size)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := orders.Decode(all[i%len(all)]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecodeStd is what encoding/json takes for the same records, without the checks of
// Decode.
func BenchmarkDecodeStd(b *testing.B) {
	all, size := payloads(b)
	b.SetBytes(size)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		var o orders.Order
		if err := json.Unmarshal(all[i%len(all)], &o); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEnrich(b *testing.B) {
	all, _ := payloads(b)
	list := make([]orders.Order, len(all))
	for i, p := range all {
		var err error
		if list[i], err = orders.Decode(p); err != nil {
			b.Fatal(err)
		}
	}
	catalog := orders.SampleCatalog()
	catalog.At = list[0].At
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := orders.Enrich(list[i%len(list)], catalog); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTransform decodes and enriches each order of a file of NDJSON, HEADRACE_ORDERS_FILE.
// docs/measure/transform.py compares it with Polars. Without the file there is nothing to measure.
func BenchmarkTransform(b *testing.B) {
	path := os.Getenv("HEADRACE_ORDERS_FILE")
	if path == "" {
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	catalog := orders.SampleCatalog()
	for b.Loop() {
		for _, line := range lines {
			o, err := orders.Decode(line)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := orders.Enrich(o, catalog); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(lines)), "ns/order")
}

func BenchmarkGenerator(b *testing.B) {
	g, err := orders.NewGenerator(orders.Config{Orders: orders.MaxOrders, Duplicates: 0.05})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		g.Next()
	}
}

// BenchmarkNumeric is one Numeric on its way into a COPY: by pgx, and as text.
func BenchmarkNumeric(b *testing.B) {
	row, err := orders.Enrich(order("129.99", 3, "EUR"), orders.SampleCatalog())
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 64)
	b.Run("pgx", func(b *testing.B) {
		b.ReportAllocs()
		plan := pgtype.NewMap().PlanEncode(pgtype.NumericOID, pgtype.BinaryFormatCode, row.TotalUSD)
		for b.Loop() {
			if _, err := plan.Encode(row.TotalUSD, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("text", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := row.TotalUSD.AppendText(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
