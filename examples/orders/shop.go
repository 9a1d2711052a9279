package orders

import (
	"bytes"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

const (
	largeRecord = 1_000_000          // bytes of a record that is too large: a queue still takes it
	maxLarge    = 5                  // of them a run: a thousand would be a gigabyte
	customers   = 50_000             // distinct customers
	spread      = 7 * 24 * time.Hour // time that the orders of a run are spread over

	payloadRoom = 448 // a little above the longest good payload: one allocation each
)

// A shop computes the payload of an order from its number.
type shop struct {
	seed       uint64
	start      time.Time
	step       time.Duration
	products   []string
	currencies []string
	scales     []int      // digits after the point of a price, by currency
	prices     [][]uint64 // list price in the currency's smallest unit, by product and currency
	zips       []string
	now        time.Time // of the last order: most are in the same second as the one before
	nowText    []byte
}

func newShop(cfg Config) shop {
	c := SampleCatalog()
	products, rates, zips := c.Products.(Map[Product]), c.Rates.(Map[Rate]), c.Zips.(Map[Zone])
	s := shop{seed: mix(^cfg.Seed), start: cfg.Start}
	if !cfg.Burst {
		s.step = spread / time.Duration(cfg.Orders)
	}
	s.products, s.currencies, s.zips = sortedKeys(products), sortedKeys(rates), sortedKeys(zips)
	for _, currency := range s.currencies {
		scale := 2
		if currency == "JPY" {
			scale = 0
		}
		s.scales = append(s.scales, scale)
	}
	for _, id := range s.products {
		row := make([]uint64, len(s.currencies))
		for i, currency := range s.currencies {
			price, err := products[id].BasePrice.Mul(rates[currency].PerUSD)
			if err != nil {
				panic(err) // the lookup data is part of the program
			}
			row[i] = price.Rescale(s.scales[i]).Coef()
		}
		s.prices = append(s.prices, row)
	}
	return s
}

func sortedKeys[V any](m Map[V]) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// draft is what a broken order changes.
type draft struct {
	product, currency string
	quantity          uint64
	padding           int // bytes added to raw
}

var (
	channels  = [...]string{"web", "ios", "android", "store", "phone"}
	campaigns = [...]string{"spring-sale", "newsletter", "back-to-school", "none"}
	notes     = [...]string{"leave at the door", "ring twice", "gift wrap, please", "call before delivery"}
)

// order is the payload of the good order n.
func (s *shop) order(n int) []byte { return s.build(uint64(n), nil) }

// broken is the payload of the bad order n, to be refused with that code.
func (s *shop) broken(n int, code string) []byte {
	number := uint64(n) | 1<<40 // so that its id is never that of a good one
	switch code {
	case CodeUnknownProduct:
		return s.build(number, func(d *draft) { d.product = "GONE-404" })
	case CodeUnknownCurrency:
		return s.build(number, func(d *draft) { d.currency = "XTS" })
	case CodeZeroQuantity:
		return s.build(number, func(d *draft) { d.quantity = 0 })
	case CodeTooLarge:
		bare := len(s.build(number, nil))
		return s.build(number, func(d *draft) { d.padding = largeRecord - bare })
	default: // cut off, as by a connection that broke
		whole := s.build(number, nil)
		return whole[:len(whole)*2/3]
	}
}

func (s *shop) build(number uint64, change func(*draft)) []byte {
	var rng rand.PCG
	rng.Seed(s.seed, number)
	below := func(n int) int { // fast, and even enough for test data
		hi, _ := bits.Mul64(rng.Uint64(), uint64(n))
		return int(hi)
	}
	product, currency := below(len(s.products)), below(len(s.currencies))
	d := draft{product: s.products[product], currency: s.currencies[currency], quantity: 1 + uint64(below(5))}
	if change != nil {
		change(&d)
	}
	// Up to a tenth above or below the list price.
	price := max(1, s.prices[product][currency]*uint64(90+below(21))/100)

	b := make([]byte, 0, payloadRoom+d.padding)
	b = append(b, `{"order_id":"ord-`...)
	b = appendHex(b, mix(s.seed^number))
	b = append(b, `","customer_id":"cust-`...)
	b = appendPadded(b, uint64(below(customers)), 6)
	b = append(append(b, `","product_id":"`...), d.product...)
	b = strconv.AppendUint(append(b, `","quantity":`...), d.quantity, 10)
	b = append(b, `,"unit_price":`...)
	if quoted := below(4) > 0; quoted { // both forms are read exactly
		b = append(appendPrice(append(b, '"'), price, s.scales[currency]), '"')
	} else {
		b = appendPrice(b, price, s.scales[currency])
	}
	b = append(append(b, `,"currency":"`...), d.currency...)
	b = append(append(b, `","zip":"`...), s.zips[below(len(s.zips))]...)
	b = s.appendTime(append(b, `","at":"`...), number&^(1<<40))
	b = append(append(b, `","raw":{"channel":"`...), channels[below(len(channels))]...)
	b = appendHex(append(b, `","session":"`...), rng.Uint64())
	b = append(append(b, `","campaign":"`...), campaigns[below(len(campaigns))]...)
	b = append(b, `","user_agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36","items_viewed":`...)
	b = strconv.AppendUint(b, uint64(below(40)), 10)
	b = strconv.AppendBool(append(b, `,"gift":`...), below(10) == 0)
	b = append(append(b, `,"note":"`...), notes[below(len(notes))]...)
	if d.padding > 0 {
		b = append(b, bytes.Repeat([]byte{'x'}, d.padding)...)
	}
	return append(b, `"}}`...)
}

// appendTime writes the time of an order, with milliseconds. Writing a date costs more than the
// rest of the order, so the text up to the second is kept.
func (s *shop) appendTime(b []byte, number uint64) []byte {
	at := s.start.Add(time.Duration(number) * s.step)
	second := at.Truncate(time.Second)
	if len(s.nowText) == 0 || !second.Equal(s.now) {
		s.now, s.nowText = second, second.AppendFormat(s.nowText[:0], "2006-01-02T15:04:05")
	}
	b = append(append(b, s.nowText...), '.')
	return append(appendPadded(b, uint64(at.Nanosecond()/1e6), 3), 'Z')
}

func appendPrice(b []byte, units uint64, scale int) []byte {
	if scale == 0 {
		return strconv.AppendUint(b, units, 10)
	}
	return appendPadded(append(strconv.AppendUint(b, units/100, 10), '.'), units%100, 2)
}

func appendPadded(b []byte, n uint64, digits int) []byte {
	var text [20]byte
	for i := range digits {
		text[digits-1-i] = byte('0' + n%10)
		n /= 10
	}
	return append(b, text[:digits]...)
}

func appendHex(b []byte, n uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&15])
	}
	return b
}

// mix scatters the bits of n and is reversible, so different numbers make different ids. Ids in no
// order are the hard case for the index of the target table.
func mix(n uint64) uint64 { // the finalizer of SplitMix64
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}
