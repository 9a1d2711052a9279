package staging_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/govalues/decimal"
	"github.com/headrace/headrace/internal/bench"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// order is the enriched order of the examples.
type order struct {
	OrderID      string          `db:"order_id"`
	CustomerID   string          `db:"customer_id"`
	ProductID    string          `db:"product_id"`
	ProductName  string          `db:"product_name"`
	Category     string          `db:"category"`
	Quantity     int32           `db:"quantity"`
	UnitPrice    decimal.Decimal `db:"unit_price" dbtype:"numeric(12,4)"`
	Currency     string          `db:"currency"`
	TotalUSD     decimal.Decimal `db:"total_usd" dbtype:"numeric(14,2)"`
	Zip          string          `db:"zip"`
	City         string          `db:"city"`
	State        string          `db:"state"`
	Country      string          `db:"country"`
	ShippingZone string          `db:"shipping_zone"`
	OrderedAt    time.Time       `db:"ordered_at"`
	ProcessedAt  time.Time       `db:"processed_at"`
	Raw          json.RawMessage `db:"raw"`
}

func orders(n int) []order {
	out := make([]order, n)
	for i := range out {
		price := decimal.MustNew(rand.Int64N(1_000_000), 4)
		out[i] = order{
			OrderID: fmt.Sprintf("ORD-%016x", rand.Uint64()), CustomerID: fmt.Sprintf("CUST-%06d", rand.IntN(100000)), ProductID: fmt.Sprintf("PROD-%03d", rand.IntN(15)),
			ProductName: "Mechanical Keyboard", Category: "Electronics", Quantity: int32(1 + rand.IntN(9)), UnitPrice: price, Currency: "EUR", TotalUSD: decimal.MustNew(rand.Int64N(100_000), 2),
			Zip: "94105", City: "San Francisco", State: "CA", Country: "US", ShippingZone: "WEST", OrderedAt: noon.Add(-time.Duration(i) * time.Second), ProcessedAt: noon,
			Raw: json.RawMessage(`{"note":"leave at the door","gift":false}`),
		}
	}
	return out
}

// batchesOf cuts orders into loads of size rows.
func batchesOf(rows []order, size int) []staging.Load[order] {
	var out []staging.Load[order]
	for lo := 0; lo < len(rows); lo += size {
		l := load(rows[lo:min(lo+size, len(rows))]...)
		out = append(out, l)
	}
	return out
}

// plainCopy renders rows as a ready binary COPY of the server's own: the staging table's COPY TO.
func plainCopy(b testing.TB, pool *pgxpool.Pool, table string) []byte {
	c, err := pool.Acquire(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Release()
	var buf bytes.Buffer
	if _, err := c.Conn().PgConn().CopyTo(context.Background(), &buf, "COPY "+table+" TO STDOUT BINARY"); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

func copyIn(b testing.TB, pool *pgxpool.Pool, table string, data []byte) {
	c, err := pool.Acquire(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Release()
	if _, err := c.Conn().PgConn().CopyFrom(context.Background(), bytes.NewReader(data), "COPY "+table+" FROM STDIN BINARY"); err != nil {
		b.Fatal(err)
	}
}

func orderTable(b testing.TB, pool *pgxpool.Pool, cfg staging.Config[order]) *staging.Table[order] {
	b.Helper()
	cfg.Create, cfg.Key = true, []string{"order_id"}
	return newTable(b, pool, "orders", cfg)
}

func BenchmarkFigures(b *testing.B) {
	pool := servertest.Postgres(b)
	tab := orderTable(b, pool, staging.Config[order]{})
	st, reg := tab.Staging()
	clear := func() {
		exec(b, pool, "TRUNCATE orders, "+st[0]+", "+st[1]+", "+reg[0]+", "+reg[1])
	}
	const size, n = 5000, 100_000
	rows := orders(n)
	stageAll := func(rows []order) {
		for _, l := range batchesOf(rows, size) {
			stage(b, tab, l, staging.OutcomeStaged)
		}
	}

	// The same rows, ready, into a table of the same shape without our column.
	exec(b, pool, "CREATE UNLOGGED TABLE bare (LIKE orders); CREATE TABLE logged (LIKE orders)")
	var ready [][]byte
	for _, l := range batchesOf(rows, size) {
		clear()
		stage(b, tab, l, staging.OutcomeStaged)
		promote(b, tab)
		ready = append(ready, plainCopy(b, pool, "orders"))
	}
	bench.Run(b, bench.Figure{Name: "staging/stage", Setup: func(int) { clear(); exec(b, pool, "TRUNCATE bare") },
		Bare: func(int) int {
			for _, d := range ready {
				copyIn(b, pool, "bare", d)
			}
			return n
		},
		Ours: func(int) int { stageAll(rows); return n },
	})

	// The bare statement reads what is staged, too.
	cols := "order_id, customer_id, product_id, product_name, category, quantity, unit_price, currency, total_usd, zip, city, state, country, shipping_zone, ordered_at, processed_at, raw"
	promoteFigure := func(name string, rows []order, prepare func(), staged ...string) {
		n := len(rows)
		setup := func(int) {
			prepare()
			stageAll(rows)
			for _, sql := range staged {
				exec(b, pool, sql)
			}
		}
		bench.Run(b, bench.Figure{Name: name, Setup: setup,
			Bare: func(int) int {
				full := st[0]
				if !query[bool](b, pool, "SELECT EXISTS (SELECT FROM "+st[0]+")") {
					full = st[1]
				}
				exec(b, pool, "INSERT INTO orders ("+cols+") SELECT "+cols+" FROM "+full+" ON CONFLICT DO NOTHING")
				return n
			},
			Ours: func(int) int {
				if p := promote(b, tab); p.Rows != n {
					b.Fatalf("%+v", p)
				}
				return n
			},
		})
	}
	promoteFigure("staging/promote", rows, clear) // the keys are random

	// UNLOGGED against LOGGED, and COPY against INSERT of 100 rows a statement, one pipeline a batch.
	bench.Run(b, bench.Figure{Name: "staging/unlogged-to-logged", Setup: func(int) { exec(b, pool, "TRUNCATE bare, logged") },
		Bare: func(int) int {
			for _, d := range ready {
				copyIn(b, pool, "logged", d)
			}
			return n
		},
		Ours: func(int) int {
			for _, d := range ready {
				copyIn(b, pool, "bare", d)
			}
			return n
		},
	})
	bench.Run(b, bench.Figure{Name: "staging/copy-to-insert", Setup: func(int) { clear(); exec(b, pool, "TRUNCATE bare") },
		Bare: func(int) int { insertAll(b, pool, rows[:n/10]); return n / 10 },
		Ours: func(int) int {
			for _, l := range batchesOf(rows[:n/10], size) {
				stage(b, tab, l, staging.OutcomeStaged)
			}
			return n / 10
		},
	})

	// On a target that is large already: HEADRACE_LARGE=10000000. Every round adds its rows. The index
	// has grown in the order of arrival, as that of a live table. Each side runs after a checkpoint:
	// otherwise one would find pages that the other has written whole to the WAL, between 20,000 and
	// 54,000 of them.
	if large, _ := strconv.Atoi(os.Getenv("HEADRACE_LARGE")); large > 0 {
		exec(b, pool, "TRUNCATE orders, "+st[0]+", "+st[1]+", "+reg[0]+", "+reg[1])
		exec(b, pool, "INSERT INTO orders ("+cols+") SELECT 'OLD-' || md5(i::text), 'CUST-1', 'PROD-1', 'Mechanical Keyboard', 'Electronics', 1, 9.99, 'EUR', 9.99, '94105', 'San Francisco', 'CA', 'US', 'WEST', now(), now(), '{}' FROM generate_series(1, $1::int) i", large)
		exec(b, pool, "VACUUM ANALYZE orders")
		size := func(f string) int64 { return query[int64](b, pool, "SELECT "+f+"('orders') >> 20") }
		bench.Note(b, "staging/promote-large: %d rows in the target, %d MB and %d MB of index", large, size("pg_table_size"), size("pg_indexes_size"))
		last := 0
		random := func() string { return fmt.Sprintf("OLD-%016x%016x", rand.Uint64(), rand.Uint64()) } // each in another page of the index
		rising := func() string { last++; return fmt.Sprintf("ORD-%016x%016x", last, rand.Uint64()) }
		for _, c := range []struct {
			figure string
			n      int
			key    func() string
		}{{"staging/promote-large", n, random}, {"staging/promote-large-rising", n, rising}, {"staging/promote-large-500k", 5 * n, random}} {
			rows := orders(c.n)
			promoteFigure(c.figure, rows, func() {
				for i := range rows {
					rows[i].OrderID = c.key()
				}
				rand.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
				exec(b, pool, "TRUNCATE "+st[0]+", "+st[1]+", "+reg[0]+", "+reg[1])
			}, "CHECKPOINT")
		}
	}
	refusals(b)
}

func insertAll(b testing.TB, pool *pgxpool.Pool, rows []order) {
	const at = 100
	for lo := 0; lo < len(rows); lo += 5000 {
		batch := &pgx.Batch{}
		for i := lo; i < min(lo+5000, len(rows)); i += at {
			var sql strings.Builder
			var args []any
			sql.WriteString("INSERT INTO bare VALUES ")
			for j, o := range rows[i:min(i+at, len(rows))] {
				if j > 0 {
					sql.WriteByte(',')
				}
				sql.WriteByte('(')
				for k, v := range []any{o.OrderID, o.CustomerID, o.ProductID, o.ProductName, o.Category, o.Quantity, o.UnitPrice, o.Currency, o.TotalUSD, o.Zip, o.City, o.State, o.Country, o.ShippingZone,
					o.OrderedAt, o.ProcessedAt, o.Raw} {
					if k > 0 {
						sql.WriteByte(',')
					}
					args = append(args, v)
					fmt.Fprintf(&sql, "$%d", len(args))
				}
				sql.WriteByte(')')
			}
			batch.Queue(sql.String(), args...)
		}
		if err := pool.SendBatch(context.Background(), batch).Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func median[N cmp.Ordered](x []N) N { return slices.Sorted(slices.Values(x))[len(x)/2] }

// BenchmarkRounds shows that nothing bloats: 20 rounds of stage and promote, the first against the
// last, and the size of the tables.
func BenchmarkRounds(b *testing.B) {
	pool := servertest.Postgres(b)
	tab := orderTable(b, pool, staging.Config[order]{})
	st, reg := tab.Staging()
	const n, rounds = 100_000, 20
	size := func(f, table string) string {
		return query[string](b, pool, "SELECT pg_size_pretty("+f+"($1::text::regclass))", table)
	}
	weights := func() string {
		var out []string
		for _, t := range []string{"orders", st[0], st[1], reg[0], reg[1], "orders_ledger", "pg_class"} {
			out = append(out, fmt.Sprintf("%s %s + index %s", strings.TrimPrefix(t, `"public".`), size("pg_table_size", t), size("pg_indexes_size", t)))
		}
		return strings.Join(out, ", ")
	}
	var took [rounds]time.Duration
	var slower [rounds]float64 // than the bare tools in the same seconds: the machine's own ups and downs cancel out
	var first string
	exec(b, pool, "CREATE UNLOGGED TABLE bare (LIKE orders); CREATE TABLE bare_target (LIKE orders INCLUDING ALL)")
	for r := range rounds {
		rows := orders(n)
		exec(b, pool, "TRUNCATE orders") // a target that grows gets slower: its index no longer fits
		begun := time.Now()
		for _, l := range batchesOf(rows, 5000) {
			stage(b, tab, l, staging.OutcomeStaged)
		}
		if p := promote(b, tab); p.Rows != n {
			b.Fatalf("%+v", p)
		}
		took[r] = time.Since(begun)
		ready := plainCopy(b, pool, "orders")
		exec(b, pool, "TRUNCATE bare, bare_target")
		begun = time.Now()
		copyIn(b, pool, "bare", ready)
		exec(b, pool, "INSERT INTO bare_target SELECT * FROM bare ON CONFLICT DO NOTHING")
		slower[r] = float64(took[r]) / float64(time.Since(begun))
		if r == 0 {
			first = weights()
		}
	}
	bench.Note(b, "staging: %d rounds of %d rows: %.2f s each, at first, %.2f s at last (medians of five); times what COPY and INSERT of the same rows take: %.2f and %.2f", rounds, n,
		median(took[:5]).Seconds(), median(took[rounds-5:]).Seconds(), median(slower[:5]), median(slower[rounds-5:]))
	bench.Note(b, "staging: after the first round: %s", first)
	bench.Note(b, "staging: after the last round: %s", weights())
}

// BenchmarkRewrite reads, transforms and writes back 500,000 rows.
func BenchmarkRewrite(b *testing.B) {
	pool := servertest.Postgres(b)
	const n = 500_000
	exec(b, pool, "CREATE TABLE source AS SELECT i::bigint AS id, repeat('v', 100) || i AS v FROM generate_series(1, 500000) i; CREATE TABLE target (id bigint PRIMARY KEY, v text)")
	tab := newTable(b, pool, "target", staging.Config[pair]{Key: []string{"id"}})
	begun := time.Now()
	var peak uint64
	p, err := staging.Rewrite[pair, pair]{Name: "bench", Source: "SELECT id, v FROM source", Key: "id", Transform: func(_ context.Context, in []pair) ([]pair, error) {
		for i := range in {
			in[i].V = strings.ToUpper(in[i].V)
		}
		return in, nil
	}, Progress: func(staging.RewriteProgress) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.Sys)
	}}.Run(context.Background(), tab)
	if err != nil || p.Written != n {
		b.Fatal(p, err)
	}
	bench.Note(b, "staging: rewrite of %d rows: %.0f rows/s, peak memory of the program %d MB", n, n/time.Since(begun).Seconds(), peak>>20)
}

// BenchmarkEncode is the Go side of a COPY alone, a row at a time.
func BenchmarkEncode(b *testing.B) {
	tab := orderTable(b, servertest.Postgres(b), staging.Config[order]{})
	l := load(orders(5000)...)
	buf := make([]byte, 65531)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += len(l.Rows) {
		n, err := tab.Encode(&l, buf)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(n / len(l.Rows)))
	}
}

// refusals promotes rows into a table with a CHECK, a foreign key and a trigger. The bare side has
// no bad row. Our side has one, which the trigger refuses and nothing foresees, or a tenth of the
// rows, a third of them by each. HEADRACE_REFUSALS=500000 sets the number of rows.
func refusals(b *testing.B) {
	n := 50_000
	if s := os.Getenv("HEADRACE_REFUSALS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	type sale struct {
		ID       string `db:"id"`
		Customer int64  `db:"customer"`
		Amount   int64  `db:"amount"`
		Note     string `db:"note"`
	}
	pool := servertest.Postgres(b)
	exec(b, pool, `CREATE TABLE customers (id bigint PRIMARY KEY); INSERT INTO customers SELECT generate_series(0, 9999);
		CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.note = 'bad' THEN RAISE EXCEPTION 'a bad note'; END IF; RETURN NEW; END $$`)
	table := func(name string) *staging.Table[sale] {
		exec(b, pool, "CREATE TABLE "+name+` (id text PRIMARY KEY, customer bigint NOT NULL REFERENCES customers, amount bigint CHECK (amount >= 0), note text);
			CREATE TRIGGER tr BEFORE INSERT ON `+name+" FOR EACH ROW EXECUTE FUNCTION tr()")
		return newTable(b, pool, name, staging.Config[sale]{Key: []string{"id"}})
	}
	good, bad := table("good"), table("bad")
	rows := make([]sale, n)
	for i := range rows {
		rows[i] = sale{fmt.Sprintf("S-%016x", rand.Uint64()), int64(i % 10_000), int64(i), "leave at the door"}
	}
	fillWith := func(tab *staging.Table[sale], name string, rows []sale) {
		st, reg := tab.Staging()
		exec(b, pool, "TRUNCATE "+name+", "+name+"_rejects, "+st[0]+", "+st[1]+", "+reg[0]+", "+reg[1])
		for part := range slices.Chunk(rows, 5000) {
			stage(b, tab, load(part...), staging.OutcomeStaged)
		}
	}
	figure := func(name string, spoil func([]sale) int) {
		spoiled := slices.Clone(rows)
		refused := spoil(spoiled)
		bench.Run(b, bench.Figure{Name: name, Rounds: bench.MinRounds,
			Setup: func(int) { fillWith(good, "good", rows); fillWith(bad, "bad", spoiled); exec(b, pool, "CHECKPOINT") },
			Bare:  func(int) int { promote(b, good); return n },
			Ours: func(int) int {
				if p := promote(b, bad); p.RejectedByRule != refused {
					b.Fatalf("%+v, want %d rejects", p, refused)
				}
				return n
			},
		})
	}
	figure("staging/promote-one-bad", func(s []sale) int { s[len(s)/2].Note = "bad"; return 1 })
	figure("staging/promote-tenth-bad", func(s []sale) int {
		refused := 0
		for i := range s {
			switch rand.IntN(30) {
			case 0:
				s[i].Note = "bad"
			case 1:
				s[i].Amount = -1
			case 2:
				s[i].Customer = -1
			default:
				continue
			}
			refused++
		}
		return refused
	})
}
