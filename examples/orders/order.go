package orders

import (
	"encoding/json"
	"time"

	"github.com/govalues/decimal"
)

// An Order is one record of the queue.
type Order struct {
	ID         string          `json:"order_id"`
	CustomerID string          `json:"customer_id"`
	ProductID  string          `json:"product_id"`
	Quantity   int32           `json:"quantity"`
	UnitPrice  decimal.Decimal `json:"unit_price"` // in Currency; a JSON string or number, read exactly
	Currency   string          `json:"currency"`   // ISO 4217 code
	Zip        string          `json:"zip"`
	At         time.Time       `json:"at"`            // RFC 3339
	Raw        json.RawMessage `json:"raw,omitempty"` // anything the shop sent along
}

// ID is the key of the deduplication: the order's id.
func ID(o Order) string { return o.ID }
