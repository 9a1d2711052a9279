package orders_test

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/examples/orders"
)

func generator(t *testing.T, cfg orders.Config) *orders.Generator {
	t.Helper()
	g, err := orders.NewGenerator(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// judge runs all payloads through Decode and Enrich and counts what becomes of them.
func judge(t *testing.T, g *orders.Generator) orders.Expected {
	t.Helper()
	catalog := orders.SampleCatalog()
	got := orders.Expected{Rejected: map[string]int{}}
	payloads := map[string]string{}
	for p := range g.All() {
		got.Orders++
		o, err := orders.Decode(p)
		if err == nil {
			_, err = orders.Enrich(o, catalog)
		}
		var refusal *orders.Invalid
		if errors.As(err, &refusal) {
			got.Rejected[refusal.Code]++
			if o.ID != "" && payloads[o.ID] != "" {
				t.Errorf("a bad order has the id of a good one: %s", o.ID)
			}
			continue
		}
		if len(p) < 320 || len(p) > 440 {
			t.Errorf("a payload of %d bytes: %s", len(p), p)
		}
		switch earlier, ok := payloads[o.ID]; {
		case !ok:
			payloads[o.ID] = string(p)
			got.Unique++
		case earlier != string(p):
			t.Errorf("a duplicate differs from its original:\n%s\n%s", earlier, p)
		default:
			got.Duplicates++
		}
	}
	return got
}

func TestGeneratorShares(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg                    orders.Config
		unique, duplicate, bad int
		large                  int
	}{
		"default":         {orders.Config{}, 10_000, 0, 0, 0},
		"demo":            {orders.Config{Duplicates: orders.DefaultDuplicates, Bad: orders.DefaultBad}, 9450, 500, 50, 5},
		"few bad":         {orders.Config{Orders: 1000, Bad: 0.005}, 995, 0, 5, 1},
		"one":             {orders.Config{Orders: 1, Duplicates: 1}, 1, 0, 0, 0},
		"all duplicates":  {orders.Config{Orders: 500, Duplicates: 1}, 1, 499, 0, 0},
		"all bad":         {orders.Config{Orders: 100, Bad: 1}, 0, 0, 100, 5},
		"half and half":   {orders.Config{Orders: 101, Duplicates: 0.5, Bad: 0.5}, 1, 49, 51, 5},
		"far duplicates":  {orders.Config{Orders: 20_000, Duplicates: 0.3, Seed: 9}, 14_000, 6000, 0, 0},
		"burst and start": {orders.Config{Orders: 50, Burst: true, Start: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}, 50, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := generator(t, c.cfg)
			got := judge(t, g)
			if diff := cmp.Diff(g.Expected(), got); diff != "" {
				t.Errorf("the truth and what is there differ: %s", diff)
			}
			bad := 0
			for _, n := range got.Rejected {
				bad += n
			}
			if got.Unique != c.unique || got.Duplicates != c.duplicate || bad != c.bad || got.Rejected[orders.CodeTooLarge] != c.large {
				t.Errorf("unique, duplicates, bad, large are %d %d %d %d: want %d %d %d %d", got.Unique, got.Duplicates, bad,
					got.Rejected[orders.CodeTooLarge], c.unique, c.duplicate, c.bad, c.large)
			}
			if bad >= 50 && len(got.Rejected) != 5 {
				t.Errorf("rejects are %v: want five kinds", got.Rejected)
			}
		})
	}
}

func TestGeneratorDeterminism(t *testing.T) {
	t.Parallel()
	cfg := orders.Config{Seed: 7, Orders: 3000, Duplicates: 0.1, Bad: 0.01}
	a, b := generator(t, cfg), generator(t, cfg)
	cfg.Seed = 8
	other := generator(t, cfg)
	ids := map[string]bool{}
	for p := range a.All() {
		if q, ok := b.Next(); !ok || !bytes.Equal(p, q) {
			t.Fatalf("the same seed made different payloads:\n%s\n%s", p, q)
		}
		if o, err := orders.Decode(p); err == nil {
			ids[o.ID] = true
		}
	}
	if _, ok := b.Next(); ok {
		t.Error("one generator made more than the other")
	}
	for p := range other.All() {
		if o, err := orders.Decode(p); err == nil && ids[o.ID] {
			t.Fatalf("two seeds made the same id %s", o.ID)
		}
	}
}

func TestGeneratorTimes(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, burst := range []bool{false, true} {
		last := time.Time{}
		for p := range generator(t, orders.Config{Orders: 1000, Burst: burst, Start: start}).All() {
			o, err := orders.Decode(p)
			if err != nil {
				t.Fatal(err)
			}
			if o.At.Before(start) || o.At.After(start.AddDate(0, 0, 7)) || o.At.Before(last) || burst && !o.At.Equal(start) {
				t.Fatalf("burst %v: an order at %v after one at %v", burst, o.At, last)
			}
			last = o.At
		}
		if !burst && last.Before(start.AddDate(0, 0, 6)) {
			t.Errorf("the last order is at %v: they should fill a week", last)
		}
	}
}

func TestGeneratorLarge(t *testing.T) {
	t.Parallel()
	const queueLimit = 1 << 20
	n := 0
	for p := range generator(t, orders.Config{Orders: 30, Bad: 1}).All() {
		if len(p) > orders.MaxPayload {
			n++
			if len(p) != 1_000_000 || len(p) >= queueLimit {
				t.Errorf("a large record of %d bytes", len(p))
			}
		}
	}
	if n != 5 {
		t.Errorf("%d large records: want 5", n)
	}
}

func TestGeneratorMemory(t *testing.T) { // not parallel: it reads the heap of the whole process
	g := generator(t, orders.Config{Orders: 300_000, Duplicates: 0.2})
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range g.All() {
	}
	if after := heap(); after > before+1<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	runtime.KeepAlive(g)
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]orders.Config{
		"Config.Orders is -1, must be from 1 to 1000000000":                          {Orders: -1},
		"Config.Duplicates is 1.5, must be from 0 to 1":                              {Duplicates: 1.5},
		"Config.Duplicates is NaN, must be from 0 to 1":                              {Duplicates: math.NaN()},
		"Config.Bad is -0.1, must be from 0 to 1":                                    {Bad: -0.1},
		"Config.Duplicates is 0.6 and Config.Bad is 0.5: together they must be at m": {Duplicates: 0.6, Bad: 0.5},
		"must be in the years 1970 to 2199":                                          {Start: time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if _, err := orders.NewGenerator(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v: want %s", err, want)
		}
	}
}
