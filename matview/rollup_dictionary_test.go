package matview_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// sharing are two roll-ups that count the same values, with different keys and different numbers of
// key columns.
func sharing() []matview.Rollup {
	buyers := matview.Measure{Name: "buyers", Expr: "lower(buyer)", Type: "text", Aggregate: matview.AggregateDistinct, Dictionary: `"Their ""Own"""`}
	return []matview.Rollup{
		{
			Table: "by_day", From: "sales",
			GroupBy:  []matview.Column{{Name: "day", Type: "date"}, {Name: "kind", Expr: "price > 10", Type: "boolean"}},
			Measures: []matview.Measure{{Name: "n", Aggregate: matview.AggregateCount}, buyers},
		},
		{Table: "by_shop", From: "sales", GroupBy: []matview.Column{{Name: "shop", Type: "text"}}, Measures: []matview.Measure{buyers}},
	}
}

func newShop(t *testing.T) *pgxpool.Pool {
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE sales (day date, shop text, buyer text, price int)`)
	return pool
}

// sell promotes random sales of old and new buyers, with some NULLs.
func sell(ctx context.Context, pool *pgxpool.Pool, rollups []matview.Rollup, rnd *rand.Rand, rows, buyers int) error {
	sql, err := promotionOf(rollups, `INSERT INTO sales
		SELECT '2026-01-01'::date + (random() * 3)::int, nullif('shop ' || (random() * 5)::int, 'shop 3'),
			nullif((ARRAY['a', 'A', 'b'])[1 + (random() * 2)::int] || (random() * $2)::int, 'a1'), nullif((random() * 20)::int, 7)
		FROM generate_series(1, $1)`)
	if err != nil {
		return err
	}
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT setseed($1)`, rnd.Float64()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sql, rows, buyers)
		return err
	})
}

// Several promoters merge into two roll-ups with one dictionary, at once. Both roll-ups equal the
// recomputation, and each value has one number.
func TestSharedDictionary(t *testing.T) {
	t.Parallel()
	pool := newShop(t)
	rollups := sharing()
	for _, r := range rollups {
		if err := r.Create(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for seed := range uint64(3) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 1))
			for _, rows := range []int{1, 300, 7, 300} {
				// With many buyers for few rows the numbers are looked up one by one, otherwise hashed.
				if err := sell(t.Context(), pool, rollups, rnd, rows, 150); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, r := range rollups {
		same(t, pool, r)
	}
	buyers := one[int](t, pool, `SELECT count(DISTINCT lower(buyer))::int FROM sales`)
	want(t, "values with a number", one[int](t, pool, `SELECT count(*)::int FROM "Their ""Own"""`), buyers)

	// A third roll-up joins a dictionary that is in use, and is filled.
	late := sharing()[1]
	late.Table = "late"
	if err := late.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if _, err := late.Rebuild(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if err := sell(t.Context(), pool, append(rollups, late), rand.New(rand.NewPCG(9, 9)), 200, 300); err != nil {
		t.Fatal(err)
	}
	for _, r := range append(rollups, late) {
		if err := r.Verify(t.Context(), pool); err != nil {
			t.Error(err)
		}
		same(t, pool, r)
	}
}

// The schema that each roll-up returns names the dictionary, and either may be applied first.
func TestSchemaWithASharedDictionary(t *testing.T) {
	t.Parallel()
	pool := newShop(t)
	rollups := sharing()
	for _, i := range []int{1, 0} {
		sql, err := rollups[i].SQL()
		if err != nil {
			t.Fatal(err)
		}
		exec(t, pool, sql)
	}
	for _, r := range rollups {
		if err := r.Verify(t.Context(), pool); err != nil {
			t.Error(err)
		}
	}
}

// Values that differ cannot share numbers, and what has no numbers has no dictionary.
func TestDictionaryErrors(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(r *matview.Rollup, m *matview.Measure){
		"another expression": func(_ *matview.Rollup, m *matview.Measure) { m.Expr = "buyer" },
		"another type":       func(_ *matview.Rollup, m *matview.Measure) { m.Type = "varchar(9)" },
		"replacements":       func(r *matview.Rollup, _ *matview.Measure) { r.Replaces = true },
		"a sketch":           func(_ *matview.Rollup, m *matview.Measure) { m.Aggregate, m.Type = matview.AggregateSketch, "" },
		"citext":             func(_ *matview.Rollup, m *matview.Measure) { m.Type = "citext" },
		"no name":            func(_ *matview.Rollup, m *matview.Measure) { m.Dictionary = "a.b.c" },
		"its own table":      func(r *matview.Rollup, m *matview.Measure) { m.Dictionary = r.Table },
		"its table of sets":  func(r *matview.Rollup, m *matview.Measure) { m.Dictionary = r.Table + "_buyers" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rollups := sharing()
			change(&rollups[1], &rollups[1].Measures[0])
			if _, err := matview.Merges(rollups...); !errors.Is(err, matview.ErrConfig) || !strings.Contains(err.Error(), "Dictionary") {
				t.Errorf("got %v, want an ErrConfig that names the dictionary", err)
			}
		})
	}
}
