package orders

import (
	"encoding/json"
	"time"

	"github.com/govalues/decimal"
)

// A Row is an order as the durable table holds it: looked up, and in US dollars.
type Row struct {
	OrderID      string          `db:"order_id"`
	CustomerID   string          `db:"customer_id"`
	ProductID    string          `db:"product_id"`
	ProductName  string          `db:"product_name"`
	Category     string          `db:"category"`
	Quantity     int32           `db:"quantity"`
	UnitPrice    Numeric         `db:"unit_price"`
	Currency     string          `db:"currency"`
	TotalUSD     Numeric         `db:"total_usd"`
	Zip          string          `db:"zip"`
	City         string          `db:"city"`
	State        string          `db:"state"`
	Country      string          `db:"country"`
	ShippingZone string          `db:"shipping_zone"`
	OrderedAt    time.Time       `db:"ordered_at"`
	ProcessedAt  time.Time       `db:"processed_at"`
	Raw          json.RawMessage `db:"raw"`
}

// A Numeric is an exact decimal on its way to a numeric column.
type Numeric struct{ decimal.Decimal }
