package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// report prints the books of each node and those over all, and compares them with what was
// generated and with the table over all nodes. repeated is how many records may have been pushed
// twice. The error names what is off.
func report(
	ctx context.Context, out io.Writer, n *nodes, s *pipeline.Shards, parts []*part, want orders.Expected, repeated int,
) error {
	redis, err := reportShards(ctx, out, s, parts)
	if err != nil {
		return err
	}
	postgres, rows, err := reportDatabases(ctx, out, n, parts)
	if err != nil {
		return err
	}
	total := pipeline.Books{At: time.Now(), Redis: redis, Postgres: postgres, Quiet: true}
	fmt.Fprintln(out, "\nThe books over all nodes")
	for _, l := range total.Lines() {
		fmt.Fprintln(out, program.Wrap(fmt.Sprintf("  %s %-9s ", mark(l.Imbalance() == 0), l.Name), l.Sum, program.DefaultWidth))
	}
	off := []error{total.Balanced()}

	var distinct int64
	if err := n.pools[0].QueryRow(ctx, "SELECT count(DISTINCT order_id) FROM cluster.orders").Scan(&distinct); err != nil {
		return err
	}
	bad := int64(0)
	for _, n := range want.Rejected {
		bad += int64(n)
	}
	again := redis.Taken - int64(want.Orders) // they arrived twice
	fmt.Fprintln(out, "\nAgainst what was generated")
	check := func(ok bool, format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		fmt.Fprintf(out, "  %s %s\n", mark(ok), text)
		if !ok {
			off = append(off, errors.New(text))
		}
	}
	check(again >= 0 && again <= int64(repeated), "%d orders pushed, %d of them twice", want.Orders, again)
	check(rows == int64(want.Unique) && postgres.Rows == rows, "%d rows, want %d; the ledgers have %d", rows, want.Unique, postgres.Rows)
	check(distinct == rows, "%d distinct orders among them", distinct)
	dropped, refused := postgres.Duplicates, postgres.Rejected+postgres.RejectedByRule
	check(dropped+refused == int64(want.Duplicates)+bad+again && dropped >= int64(want.Duplicates) && refused >= bad,
		"%d duplicates and %d rejects, want %d and %d and what arrived twice", dropped, refused, want.Duplicates, bad)
	check(redis.Dead == 0, "%d dead", redis.Dead)
	if err := errors.Join(off...); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nEvery record is accounted for.")
	return nil
}

// reportShards prints the books of each shard, and returns their sum.
func reportShards(ctx context.Context, out io.Writer, s *pipeline.Shards, parts []*part) (queue.Stats, error) {
	fmt.Fprintln(out, "\nShards of the queue")
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	for i, p := range parts {
		st, err := p.shard.Queue.Stats(ctx)
		if err != nil {
			return st, err
		}
		fmt.Fprintf(w, "  %s %s\tmaster %d\tPostgres %d\ttaken %d\tacked %d\n",
			mark(st.Balanced() == nil), p.shard.Queue.Name(), i, p.database, st.Taken, st.Acked)
	}
	if err := w.Flush(); err != nil {
		return queue.Stats{}, err
	}
	return s.Queue.Stats(ctx)
}

// reportDatabases prints the books of each Postgres and what the parent reads there. It returns the
// sums.
func reportDatabases(ctx context.Context, out io.Writer, n *nodes, parts []*part) (sum staging.Books, rows int64, err error) {
	fmt.Fprintln(out, "\nLedgers")
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	for i := range n.pools {
		b, err := parts[i].app.Table.Books(ctx) // of the whole table, whichever shard fed it
		if err != nil {
			return sum, rows, err
		}
		var here int64
		if err := n.pools[0].QueryRow(ctx, "SELECT count(*) FROM cluster.orders WHERE node = $1", i).Scan(&here); err != nil {
			return sum, rows, err
		}
		fmt.Fprintf(w, "  %s Postgres %d\tbatches %d\trecords %d\trows %d\tread by the parent %d\n",
			mark(here == b.Rows), i, b.Batches, b.Records, b.Rows, here)
		rows += here
		sum.Batches, sum.Void, sum.Records, sum.Kept = sum.Batches+b.Batches, sum.Void+b.Void, sum.Records+b.Records, sum.Kept+b.Kept
		sum.Duplicates, sum.Filtered, sum.Rejected = sum.Duplicates+b.Duplicates, sum.Filtered+b.Filtered, sum.Rejected+b.Rejected
		sum.Staged, sum.Rows, sum.Conflicts = sum.Staged+b.Staged, sum.Rows+b.Rows, sum.Conflicts+b.Conflicts
		sum.RejectedByRule, sum.Pruned = sum.RejectedByRule+b.RejectedByRule, sum.Pruned || b.Pruned
	}
	return sum, rows, w.Flush()
}

func mark(ok bool) string {
	if ok {
		return "✓"
	}
	return "✗"
}
