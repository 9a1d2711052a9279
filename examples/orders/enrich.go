package orders

import (
	"time"

	"github.com/govalues/decimal"
)

// maxCents is the highest amount that numeric(14,2) holds.
const maxCents = 99_999_999_999_999

// Enrich combines an order with reference data and converts its amount to US dollars. The error is
// an [*Invalid] with CodeUnknownProduct, CodeUnknownCurrency, CodeUnknownZip or CodeTotalTooHigh.
func Enrich(o Order, c Catalog) (Row, error) {
	product, ok := c.Products.Get(o.ProductID)
	if !ok {
		return Row{}, invalid(CodeUnknownProduct, "product_id is %s: it is not in the catalog", excerpt(o.ProductID))
	}
	rate, ok := c.Rates.Get(o.Currency)
	if !ok || !rate.PerUSD.IsPos() {
		return Row{}, invalid(CodeUnknownCurrency, "currency is %s: it has no rate", excerpt(o.Currency))
	}
	zone, ok := c.Zips.Get(o.Zip)
	if !ok {
		return Row{}, invalid(CodeUnknownZip, "zip is %s: it has no shipping zone", excerpt(o.Zip))
	}
	total, err := inUSD(o.UnitPrice, o.Quantity, rate.PerUSD)
	if err != nil {
		return Row{}, err
	}
	at := c.At
	if at.IsZero() {
		at = time.Now()
	}
	return Row{
		OrderID: o.ID, CustomerID: o.CustomerID,
		ProductID: o.ProductID, ProductName: product.Name, Category: product.Category,
		Quantity: o.Quantity, UnitPrice: Numeric{o.UnitPrice}, Currency: o.Currency, TotalUSD: Numeric{total},
		Zip: o.Zip, City: zone.City, State: zone.State, Country: zone.Country, ShippingZone: zone.ShippingZone,
		OrderedAt: o.At, ProcessedAt: at, Raw: o.Raw,
	}, nil
}

// inUSD is price × quantity ÷ perUSD in cents, rounded once, half to even.
//
// The library holds 19 digits and rounds what is longer, and so would round a quotient twice:
// to 19 digits, then to cents. Hence a whole quotient and a remainder, which are exact: the
// product has at most 10 + 6 digits by the limits of Decode, two more in cents.
func inUSD(price decimal.Decimal, quantity int32, perUSD decimal.Decimal) (decimal.Decimal, error) {
	n, err := decimal.New(int64(quantity)*100, 0)
	if err != nil {
		return decimal.Decimal{}, tooHigh(price, quantity, err)
	}
	cents, err := price.MulExact(n, price.Scale()) // refuses to round
	if err != nil {
		return decimal.Decimal{}, tooHigh(price, quantity, err)
	}
	whole, rest, err := cents.QuoRem(perUSD)
	if err != nil {
		return decimal.Decimal{}, tooHigh(price, quantity, err)
	}
	coefficient := whole.Coef()
	// rest ≥ perUSD − rest compares twice the rest with the divisor and cannot overflow.
	other, err := perUSD.SubExact(rest, max(perUSD.Scale(), rest.Scale()))
	if err != nil {
		return decimal.Decimal{}, tooHigh(price, quantity, err)
	}
	if half := rest.Cmp(other); half > 0 || half == 0 && coefficient%2 == 1 {
		coefficient++
	}
	if coefficient > maxCents {
		return decimal.Decimal{}, invalid(CodeTotalTooHigh, "unit_price × quantity is %v × %d: more than %d cents in US dollars", price, quantity, int64(maxCents))
	}
	return decimal.New(int64(coefficient), 2)
}

func tooHigh(price decimal.Decimal, quantity int32, err error) error {
	return invalid(CodeTotalTooHigh, "unit_price × quantity is %v × %d: it cannot be expressed in US dollars: %v", price, quantity, err)
}
