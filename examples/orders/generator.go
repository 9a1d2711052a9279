package orders

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Shares and count that the demonstration uses.
const (
	DefaultOrders     = 10_000
	DefaultDuplicates = 0.05
	DefaultBad        = 0.005
)

// MaxOrders is the most records of one Generator.
const MaxOrders = 1_000_000_000

// Config configures a Generator.
type Config struct {
	Seed       uint64    // the same Config makes the same bytes; two seeds make different ids
	Orders     int       // how many records, duplicates and bad ones included; 0 means DefaultOrders
	Duplicates float64   // share of records that repeat an earlier good one, 0 to 1
	Bad        float64   // share of records that must be refused, 0 to 1
	Burst      bool      // all orders at one time instead of spread over a week
	Start      time.Time // time of the first order; zero means 2026-01-01 00:00 UTC
}

func (c Config) withDefaults() Config {
	if c.Orders == 0 {
		c.Orders = DefaultOrders
	}
	if c.Start.IsZero() {
		c.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	c.Start = c.Start.UTC()
	return c
}

func (c Config) validate() error {
	share := func(f float64) bool { return f >= 0 && f <= 1 } // false for NaN
	switch {
	case c.Orders < 0 || c.Orders > MaxOrders:
		return fmt.Errorf("orders: Config.Orders is %d, must be from 1 to %d, or 0 for %d", c.Orders, MaxOrders, DefaultOrders)
	case !share(c.Duplicates):
		return fmt.Errorf("orders: Config.Duplicates is %v, must be from 0 to 1", c.Duplicates)
	case !share(c.Bad):
		return fmt.Errorf("orders: Config.Bad is %v, must be from 0 to 1", c.Bad)
	case c.Duplicates+c.Bad > 1:
		return fmt.Errorf("orders: Config.Duplicates is %v and Config.Bad is %v: together they must be at most 1", c.Duplicates, c.Bad)
	case c.Start.Year() < MinYear || c.Start.Add(spread).Year() > MaxYear:
		return fmt.Errorf("orders: Config.Start is %v, must be in the years %d to %d", c.Start, MinYear, MaxYear)
	}
	return nil
}

// Check returns an error that names the field whose value cannot be used, and its range.
func (c Config) Check() error { return c.withDefaults().validate() }

// Expected is the truth about the records that a Generator handed out.
type Expected struct {
	Orders     int            // all of them: Unique + Duplicates + the sum of Rejected
	Unique     int            // distinct good orders: the rows that must be in the table
	Duplicates int            // repetitions of those, byte for byte
	Rejected   map[string]int // bad records by the code of their rejection
}

// String is the truth in one sentence.
func (e Expected) String() string {
	text := fmt.Sprintf("%d unique, %d duplicates", e.Unique, e.Duplicates)
	before := ", rejects: "
	for _, code := range slices.Sorted(maps.Keys(e.Rejected)) {
		text += fmt.Sprintf("%s%d %s", before, e.Rejected[code], code)
		before = ", "
	}
	return text
}

// near is how far back most duplicates reach: a client that retries does so soon.
const near = 1000

// A Generator makes payloads. The shares are exact: of 10,000 records with 5 % duplicates 500 are
// duplicates. Only good orders are repeated, four in five of them soon, the others from anywhere
// in what came before. It remembers no order, because the n-th good order is computed from the
// seed and n: memory stays the same for any number. It is not safe for concurrent use.
type Generator struct {
	cfg    Config
	made   shop
	choose *rand.Rand

	good, duplicate, bad int // records of each kind still to come
	badAll, largeAll     int // how many bad ones there are in all, and how many of them are large
	want                 Expected
}

// NewGenerator checks cfg and returns a Generator.
func NewGenerator(cfg Config) (*Generator, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	g := &Generator{
		cfg:    cfg,
		made:   newShop(cfg),
		choose: rand.New(rand.NewPCG(cfg.Seed, 1)), //nolint:gosec // test data
		want:   Expected{Rejected: map[string]int{}},
	}
	g.bad = int(math.Round(float64(cfg.Orders) * cfg.Bad))
	// A duplicate needs an order to repeat, so one stays good even when all should be duplicates.
	g.duplicate = max(0, min(int(math.Round(float64(cfg.Orders)*cfg.Duplicates)), cfg.Orders-g.bad-1))
	g.good = cfg.Orders - g.bad - g.duplicate
	g.badAll = g.bad
	g.largeAll = min(maxLarge, g.bad/5)
	return g, nil
}

// Next returns the next payload, or false after the last one. The payload is the caller's.
func (g *Generator) Next() ([]byte, bool) {
	left := g.good + g.duplicate + g.bad
	if left == 0 {
		return nil, false
	}
	g.want.Orders++
	// Choosing among what is left keeps the shares exact and needs no list.
	switch r := g.choose.IntN(left); {
	case r < g.bad:
		g.bad--
		payload, code := g.nextBad()
		g.want.Rejected[code]++
		return payload, true
	case r < g.bad+g.duplicate && g.want.Unique > 0:
		g.duplicate--
		g.want.Duplicates++
		back := g.want.Unique
		if g.choose.IntN(5) > 0 {
			back = min(back, near)
		}
		return g.made.order(g.want.Unique - 1 - g.choose.IntN(back)), true
	default: // also when a duplicate is due and there is nothing yet to repeat: it comes later
		g.good--
		g.want.Unique++
		return g.made.order(g.want.Unique - 1), true
	}
}

func (g *Generator) nextBad() (payload []byte, code string) {
	n := g.badAll - g.bad - 1          // the n-th bad one, from 0
	large := n * g.largeAll / g.badAll // that many before this one, spread evenly
	if large != (n+1)*g.largeAll/g.badAll {
		return g.made.broken(n, CodeTooLarge), CodeTooLarge
	}
	code = [...]string{CodeUnknownProduct, CodeUnknownCurrency, CodeZeroQuantity, CodeMalformedJSON}[(n-large)%4]
	return g.made.broken(n, code), code
}

// All yields the payloads that are left.
func (g *Generator) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for p, ok := g.Next(); ok && yield(p); p, ok = g.Next() {
		}
	}
}

// Expected returns the truth about the records handed out so far.
func (g *Generator) Expected() Expected {
	want := g.want
	want.Rejected = maps.Clone(g.want.Rejected)
	return want
}
