package orders_test

import (
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/govalues/decimal"
	"pgregory.net/rapid"

	"github.com/headrace/headrace/examples/orders"
)

func order(price string, quantity int32, currency string) orders.Order {
	return orders.Order{
		ID: "o1", CustomerID: "c1", ProductID: "ELEC-001", Quantity: quantity, UnitPrice: decimal.MustParse(price),
		Currency: currency, Zip: "10001", At: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

// TestEnrichCurrencies pins one order of each currency, worked out by hand. Multiplying by the rate
// instead of dividing, as the units of the rates tempt one to do, books the yen at 22,350 times its
// value.
func TestEnrichCurrencies(t *testing.T) {
	t.Parallel()
	catalog := orders.SampleCatalog()
	for _, c := range []struct {
		price    string
		quantity int32
		currency string
		want     string
	}{
		{"129.99", 3, "USD", "389.97"}, // 389.97 ÷ 1
		{"129.99", 3, "EUR", "423.88"}, // 389.97 ÷ 0.92 = 423.8804…
		{"129.99", 3, "GBP", "493.63"}, // 389.97 ÷ 0.79 = 493.6329…
		{"129.99", 3, "CAD", "288.87"}, // 389.97 ÷ 1.35 = 288.8666…
		{"129.99", 3, "AUD", "256.56"}, // 389.97 ÷ 1.52 = 256.5592…
		{"14950", 3, "JPY", "300.00"},  // 44,850 ÷ 149.5 = 300
		{"129.99", 3, "INR", "4.69"},   // 389.97 ÷ 83.2 = 4.6871…
	} {
		row, err := orders.Enrich(order(c.price, c.quantity, c.currency), catalog)
		if err != nil {
			t.Errorf("%s: %v", c.currency, err)
		} else if got := row.TotalUSD.String(); got != c.want {
			t.Errorf("%d × %s %s is %s USD: want %s", c.quantity, c.price, c.currency, got, c.want)
		}
	}
}

func TestEnrichRounding(t *testing.T) {
	t.Parallel()
	catalog := orders.SampleCatalog()
	for price, want := range map[string]string{
		"0.005": "0.00", "0.015": "0.02", "0.025": "0.02", "0.0251": "0.03", "0.0249": "0.02", "999999.995": "1000000.00", "0": "0.00",
	} {
		row, err := orders.Enrich(order(price, 1, "USD"), catalog)
		if err != nil || row.TotalUSD.String() != want {
			t.Errorf("%s USD is %s, %v: want %s (half to even)", price, row.TotalUSD, err, want)
		}
	}
}

// TestEnrichExact compares with rational arithmetic, for any price, quantity and rate within the
// limits.
func TestEnrichExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		price := decimal.MustNew(rapid.Int64Range(0, 9_999_999_999).Draw(t, "price"), rapid.IntRange(0, orders.MaxPriceScale).Draw(t, "scale"))
		if price.Coef() >= 1_000_000 && price.Scale() == 0 {
			price = decimal.MustNew(int64(price.Coef()), orders.MaxPriceScale)
		}
		quantity := rapid.Int32Range(1, orders.MaxQuantity).Draw(t, "quantity")
		// Rates as their column, numeric(16,6), holds them: ten digits before the point.
		scale := rapid.IntRange(0, 6).Draw(t, "rate scale")
		most := int64(9_999_999_999)
		for range scale {
			most = most*10 + 9
		}
		rate := decimal.MustNew(rapid.Int64Range(1, most).Draw(t, "rate"), scale)
		catalog := orders.SampleCatalog()
		catalog.Rates = orders.Map[orders.Rate]{"EUR": {Currency: "EUR", PerUSD: rate}}
		o := order("0", quantity, "EUR")
		o.UnitPrice = price

		cents := rational(price)
		cents.Mul(cents, big.NewRat(int64(quantity)*100, 1))
		cents.Quo(cents, rational(rate))
		want := halfEven(cents)

		row, err := orders.Enrich(o, catalog)
		if want.Cmp(big.NewInt(99_999_999_999_999)) > 0 {
			if err == nil {
				t.Fatalf("%v cents fit no column, got %v", want, row.TotalUSD)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if row.TotalUSD.Scale() != 2 || row.TotalUSD.Coef() != want.Uint64() {
			t.Fatalf("%v × %d ÷ %v is %v: want %v cents", price, quantity, rate, row.TotalUSD, want)
		}
	})
}

func rational(d decimal.Decimal) *big.Rat {
	r, _ := new(big.Rat).SetString(d.String())
	return r
}

func halfEven(r *big.Rat) *big.Int {
	q, rest := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	half := rest.Lsh(rest, 1).Cmp(r.Denom())
	if half > 0 || half == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	return q
}

func TestEnrichRefuses(t *testing.T) {
	t.Parallel()
	catalog := orders.SampleCatalog()
	catalog.Rates.(orders.Map[orders.Rate])["ZWL"] = orders.Rate{Currency: "ZWL"}
	catalog.Rates.(orders.Map[orders.Rate])["XAU"] = orders.Rate{Currency: "XAU", PerUSD: decimal.MustParse("0.000001")}
	for _, c := range []struct {
		change       func(*orders.Order)
		code, reason string
	}{
		{func(o *orders.Order) { o.ProductID = "GONE" }, orders.CodeUnknownProduct, `product_id is "GONE"`},
		{func(o *orders.Order) { o.Currency = "XTS" }, orders.CodeUnknownCurrency, `currency is "XTS"`},
		{func(o *orders.Order) { o.Currency = "ZWL" }, orders.CodeUnknownCurrency, `currency is "ZWL"`},
		{func(o *orders.Order) { o.Zip = "00000" }, orders.CodeUnknownZip, `zip is "00000"`},
		{func(o *orders.Order) { o.Currency, o.Quantity = "XAU", orders.MaxQuantity }, orders.CodeTotalTooHigh, "× 100000"},
	} {
		o := order("129.99", 1, "USD")
		c.change(&o)
		_, err := orders.Enrich(o, catalog)
		refused(t, err, c.code, c.reason)
	}
}

func TestEnrichRow(t *testing.T) {
	t.Parallel()
	catalog := orders.SampleCatalog()
	o := order("12.50", 2, "USD")
	o.Zip = "V6B 1A1"
	catalog.At = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	row, err := orders.Enrich(o, catalog)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(row.OrderID, row.CustomerID, row.ProductID, row.ProductName, row.Category, row.Quantity, row.UnitPrice, row.Currency,
		row.TotalUSD, row.Zip, row.City, row.State, row.Country, row.ShippingZone, row.OrderedAt.Unix(), row.ProcessedAt.Unix(), row.Raw == nil)
	want := fmt.Sprintln("o1", "c1", "ELEC-001", "27-inch 4K Monitor", "Electronics", 2, "12.50", "USD",
		"25.00", "V6B 1A1", "Vancouver", "BC", "CA", "CA-WEST", o.At.Unix(), catalog.At.Unix(), true)
	if got != want {
		t.Errorf("row is\n%s want\n%s", got, want)
	}
}
