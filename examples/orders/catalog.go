package orders

import (
	"time"

	"github.com/govalues/decimal"
)

// A Product is a row of product_catalog.
type Product struct {
	ID        string          `json:"product_id" db:"product_id"`
	Name      string          `json:"name" db:"name"`
	Category  string          `json:"category" db:"category"`
	BasePrice decimal.Decimal `json:"base_price" db:"base_price"`
}

// A Rate is a row of currency_rates: how many units of a currency one US dollar buys.
type Rate struct {
	Currency string          `json:"currency" db:"currency"`
	PerUSD   decimal.Decimal `json:"per_usd" db:"per_usd"`
}

// A Zone is a row of zip_code_zones.
type Zone struct {
	Zip          string `json:"zip" db:"zip"`
	City         string `json:"city" db:"city"`
	State        string `json:"state" db:"state"`
	Country      string `json:"country" db:"country"`
	TimeZone     string `json:"time_zone" db:"time_zone"`
	ShippingZone string `json:"shipping_zone" db:"shipping_zone"`
}

// A Getter finds a value by its key. A *lookup.Snapshot is one, and so is a [Map].
type Getter[V any] interface {
	Get(key string) (V, bool)
}

// A Map is a Getter in plain memory.
type Map[V any] map[string]V

// Get returns the value of key and whether there is one.
func (m Map[V]) Get(key string) (V, bool) {
	v, ok := m[key]
	return v, ok
}

// A Catalog is what an order is looked up in. Take one for a whole batch, so that
// all its orders see the same prices and rates.
type Catalog struct {
	Products Getter[Product]
	Rates    Getter[Rate]
	Zips     Getter[Zone]
	At       time.Time // written as processed_at; zero: the time of the call
}
