package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
)

// report prints what became of the orders and compares it with what was generated. Its error names
// the line that is off.
func report(ctx context.Context, out io.Writer, app *orders.App, flow pipeline.Flow[orders.Row], m *meter, want orders.Expected) error {
	books, err := flow.Books(ctx)
	if err != nil {
		return err
	}
	var off []error
	fmt.Fprintln(out, "\nThe books")
	for _, l := range books.Lines() {
		fmt.Fprintln(out, program.Wrap(fmt.Sprintf("  %s %-9s ", mark(l.Imbalance() == 0), l.Name), l.Sum, program.DefaultWidth))
	}
	off = append(off, books.Balanced())

	rejects, err := counts(ctx, app, "SELECT code, count(*) FROM orders_rejects GROUP BY code ORDER BY code")
	if err != nil {
		return err
	}
	rollupsOff := 0
	for _, r := range app.Rollups {
		differences, err := r.Check(ctx, app.Postgres, 1)
		if err != nil {
			return err
		}
		rollupsOff += len(differences)
	}
	wantRejected := 0
	for _, n := range want.Rejected {
		wantRejected += n
	}
	fmt.Fprintln(out, "\nAgainst what was generated")
	for _, c := range []struct {
		name      string
		got, want int64
	}{
		{"records", books.Redis.Taken, int64(want.Orders)},
		{"promoted", books.Postgres.Rows, int64(want.Unique)},
		{"duplicates", books.Postgres.Duplicates, int64(want.Duplicates)},
		{"rejected", books.Postgres.Rejected + books.Postgres.RejectedByRule, int64(wantRejected)},
		{"dead", books.Redis.Dead, 0},
		{"groups of the roll-ups that differ from the table", int64(rollupsOff), 0},
	} {
		fmt.Fprintf(out, "  %s %s %d\n", mark(c.got == c.want), c.name, c.got)
		if c.got != c.want {
			off = append(off, fmt.Errorf("%s: %d, but %d were expected", c.name, c.got, c.want))
		}
	}

	fmt.Fprintln(out, "\nRejects by reason")
	for _, code := range slices.Sorted(maps.Keys(rejects)) {
		ok := rejects[code] == int64(want.Rejected[code])
		fmt.Fprintf(out, "  %s %-18s %d\n", mark(ok), code, rejects[code])
		if !ok {
			off = append(off, fmt.Errorf("rejects %q: %d, but %d were expected", code, rejects[code], want.Rejected[code]))
		}
	}

	fmt.Fprintln(out, "\nThroughput (busy: summed over batches processed at once)")
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	m.mu.Lock()
	for _, s := range []struct{ key, name string }{
		{"push", "push into Redis"}, {"transform", "decode, dedup, enrich"}, {"stage", "stage (COPY)"}, {"promote", "promote"},
	} {
		if st := m.steps[s.key]; st != nil && st.busy > 0 {
			fmt.Fprintf(w, "  %s\t%d records\tbusy %v\t%.0f/s\n", s.name, st.records, st.busy.Round(time.Millisecond), float64(st.records)/st.busy.Seconds())
		}
	}
	fmt.Fprintf(w, "  end to end\t%d records\ttook %v\t%.0f/s sustained\n", books.Redis.Taken, m.took.Round(time.Millisecond), float64(books.Redis.Taken)/m.took.Seconds())
	m.mu.Unlock()
	if err := w.Flush(); err != nil {
		return err
	}

	for _, v := range []struct{ title, sql string }{
		{"sales_hourly", "SELECT to_char(hour, 'YYYY-MM-DD HH24:MI TZ') AS hour, category, orders, units, revenue_usd, customers FROM sales_hourly_rollup s ORDER BY s.hour, category LIMIT 4"},
		{"product_performance_daily", "SELECT day, product_id, product_name, orders, revenue_usd FROM product_performance_daily_rollup ORDER BY day, revenue_usd DESC LIMIT 4"},
		{"shipping_zone_stats", "SELECT shipping_zone, country, orders, revenue_usd, round(average_usd, 2) AS average_usd, customers FROM shipping_zone_stats_rollup ORDER BY revenue_usd DESC LIMIT 4"},
	} {
		if err := table(ctx, out, app, v.title, v.sql); err != nil {
			return err
		}
	}
	if err := errors.Join(off...); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nEvery record is accounted for.")
	return nil
}

func mark(ok bool) string {
	if ok {
		return "✓"
	}
	return "✗"
}

func counts(ctx context.Context, app *orders.App, sql string) (map[string]int64, error) {
	rows, err := app.Postgres.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	var code string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&code, &n}, func() error { out[code] = n; return nil })
	return out, err
}

// table prints the first rows of a dashboard.
func table(ctx context.Context, out io.Writer, app *orders.App, title, sql string) error {
	// The text protocol: the numbers are shown as Postgres prints them, not rounded.
	rows, err := app.Postgres.Query(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return err
	}
	defer rows.Close()
	fmt.Fprintf(out, "\n%s\n", title)
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	var names []string
	for _, f := range rows.FieldDescriptions() {
		names = append(names, f.Name)
	}
	fmt.Fprintf(w, "  %s\n", strings.Join(names, "\t"))
	for rows.Next() {
		var cells []string
		for _, v := range rows.RawValues() {
			cells = append(cells, string(v))
		}
		fmt.Fprintf(w, "  %s\n", strings.Join(cells, "\t"))
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return w.Flush()
}
