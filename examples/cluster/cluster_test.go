package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"strings"
	"testing"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	servertest.Main(m)
}

// TestCluster runs the job while a slot moves from one master to another and back, a master dies
// and comes back with its append-only file, and the Postgres of two shards dies and recovers. The
// books over all nodes balance, and the stores themselves have each order once. If an order is
// taken away, the report ends with an error, and so the program with exit code 1.
func TestCluster(t *testing.T) {
	t.Cleanup(servertest.AwaitClusterClients)
	const n = 5000
	cfg := orders.Config{Orders: n, Duplicates: 0.1, Bad: 0.01, Seed: 7}
	gen, err := orders.NewGenerator(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{} // the good orders
	for p := range gen.All() {
		if o, err := orders.Decode(p); err == nil && sound(o) {
			want[o.ID] = true
		}
	}
	if len(want) != gen.Expected().Unique {
		t.Fatalf("the test takes %d orders for good, the generator makes %d", len(want), gen.Expected().Unique)
	}

	var moved int
	o := options{Job: orders.Job{Orders: cfg, Worker: pipeline.WorkerConfig{Concurrency: 2, Records: 100}}}
	o.payloads = func(nodes *nodes, all iter.Seq[[]byte]) iter.Seq[[]byte] {
		return func(yield func([]byte) bool) {
			d := disturbances{
				n / 8:     func() error { return moveSlot(t, nodes, &moved) },
				n * 3 / 8: func() error { return again(nodes.redis.Nodes[1].Kill, nodes.redis.Nodes[1].Start) },
				n * 5 / 8: func() error { return again(nodes.postgres[0].Kill, nodes.postgres[0].Start) },
			}
			if err := d.during(all, yield); err != nil {
				t.Error(err)
			}
		}
	}
	o.after = func(ctx context.Context, nodes *nodes, report func(io.Writer) error) error {
		aDifference(ctx, t, nodes, report)
		return inStores(ctx, t, nodes, want)
	}
	var out bytes.Buffer
	if err := run(t.Context(), &program.Program{Name: "cluster", Out: &out, Err: io.Discard}, o); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, line := range []string{
		"master 0", "master 2", "Postgres 0", "Postgres 1", "The books over all nodes", "✓ between",
		fmt.Sprintf("%d rows, want %d", len(want), len(want)), "Every record is accounted for.",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("the output lacks %q:\n%s", line, out.String())
		}
	}
	if strings.Contains(out.String(), "✗") || moved == 0 {
		t.Errorf("%d keys moved; the output marks a difference, or no slot has moved:\n%s", moved, out.String())
	}
}

// sound reports whether the lookup tables know what an order names.
func sound(o orders.Order) bool {
	c := orders.SampleCatalog()
	_, product := c.Products.(orders.Map[orders.Product])[o.ProductID]
	_, currency := c.Rates.(orders.Map[orders.Rate])[o.Currency]
	return product && currency
}

// disturbances are what happens to the nodes, by the number of records that are pushed before. Each
// runs during the pushes that follow it, and ends before the next one begins.
type disturbances map[int]func() error

// during passes payloads on and disturbs the nodes meanwhile. It returns the first error.
func (d disturbances) during(all iter.Seq[[]byte], yield func([]byte) bool) (err error) {
	ended := make(chan error, 1)
	ended <- nil
	defer func() {
		if last := <-ended; err == nil {
			err = last
		}
	}()
	i := 0
	for p := range all {
		if disturb := d[i]; disturb != nil {
			if err := <-ended; err != nil {
				ended <- nil
				return err
			}
			go func() { ended <- disturb() }()
		}
		if !yield(p) {
			return nil
		}
		i++
	}
	return nil
}

// again kills a server and starts it again.
func again(kill, start func() error) error {
	if err := kill(); err != nil {
		return err
	}
	return start()
}

// moveSlot moves the slot of the first shard to the second master and back.
func moveSlot(t *testing.T, n *nodes, moved *int) error {
	cl := servertest.OnCluster(t, n.redis)
	name := ""
	for _, key := range keysOf(t, n, 0) {
		if tag, _, ok := strings.Cut(key, "}:queue:stat"); ok {
			name = tag[1:]
		}
	}
	if name == "" {
		return fmt.Errorf("the first master has no queue")
	}
	slot := cl.Slot(t, "{"+name+"}")
	for _, way := range [][2]int{{0, 1}, {1, 0}} {
		cl.Begin(t, slot, way[0], way[1])
		*moved += cl.Finish(t, slot, way[0], way[1])
	}
	return nil
}

// keysOf returns the keys of one master.
func keysOf(t *testing.T, n *nodes, i int) []string {
	t.Helper()
	c, err := n.redis.Node(i)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer c.Close()
	keys, err := c.Do(t.Context(), c.B().Arbitrary("KEYS", "{"+orders.Name+".*").Build()).AsStrSlice()
	if err != nil {
		t.Error(err)
	}
	return keys
}

// inStores reads the stores themselves: each good order is in one row of one Postgres, no record
// waits on any master, and the table over all nodes has the same orders.
func inStores(ctx context.Context, t *testing.T, n *nodes, want map[string]bool) error {
	count := func(sql string, pool int) (map[string]int, error) {
		rows, err := n.pools[pool].Query(ctx, sql)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		found := map[string]int{}
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return nil, err
			}
			found[id]++
		}
		return found, rows.Err()
	}
	all := map[string]int{}
	for i := range n.pools {
		found, err := count("SELECT order_id FROM orders", i)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			t.Errorf("Postgres %d has no order", i)
		}
		for id, k := range found {
			all[id] += k
		}
	}
	parent, err := count("SELECT order_id FROM cluster.orders", 0)
	if err != nil {
		return err
	}
	lost, doubled := 0, 0
	for id := range want {
		switch {
		case all[id] == 0 || parent[id] == 0:
			lost++
		case all[id] > 1 || parent[id] > 1:
			doubled++
		}
	}
	if lost+doubled > 0 || len(all) != len(want) || len(parent) != len(want) {
		t.Errorf("%d orders lost, %d doubled; %d in the stores, %d in the parent, want %d", lost, doubled, len(all), len(parent), len(want))
	}
	for i := range masters {
		for _, key := range keysOf(t, n, i) {
			for _, kind := range []string{"}:ready", "}:queue:b:", "}:queue:m:", "}:queue:handed", "}:queue:dead", "}:queue:broken"} {
				if strings.Contains(key, kind) {
					t.Errorf("master %d still has %s", i, key)
				}
			}
		}
	}
	return nil
}

// aDifference takes an order away, from one Postgres after the other, and expects an error of the
// report. Then it brings the order back.
func aDifference(ctx context.Context, t *testing.T, n *nodes, report func(io.Writer) error) {
	for i, pool := range n.pools {
		var out bytes.Buffer
		if _, err := pool.Exec(ctx, "CREATE TABLE gone AS SELECT * FROM orders ORDER BY order_id LIMIT 1"); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(ctx, "DELETE FROM orders WHERE order_id = (SELECT order_id FROM gone)"); err != nil {
			t.Fatal(err)
		}
		if err := report(&out); err == nil || !strings.Contains(err.Error(), "rows, want") || !strings.Contains(out.String(), "✗ Postgres "+fmt.Sprint(i)) {
			t.Errorf("an order that is gone from Postgres %d: error %v, want the rows that are off:\n%s", i, err, out.String())
		}
		if _, err := pool.Exec(ctx, "INSERT INTO orders SELECT * FROM gone"); err != nil {
			t.Fatal(err)
		}
	}
}
