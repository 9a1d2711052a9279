package orders

import (
	"encoding/json"
	"math/big"
	"time"

	"github.com/govalues/decimal"
	"github.com/jackc/pgx/v5/pgtype"
)

// A Row is an order as the durable table holds it: looked up, and in US dollars.
type Row struct {
	OrderID      string          `db:"order_id"`
	CustomerID   string          `db:"customer_id"`
	ProductID    string          `db:"product_id"`
	ProductName  string          `db:"product_name"`
	Category     string          `db:"category"`
	Quantity     int32           `db:"quantity"`
	UnitPrice    Numeric         `db:"unit_price" dbtype:"numeric(12,4)"`
	Currency     string          `db:"currency"`
	TotalUSD     Numeric         `db:"total_usd" dbtype:"numeric(14,2)"`
	Zip          string          `db:"zip"`
	City         string          `db:"city"`
	State        string          `db:"state"`
	Country      string          `db:"country"`
	ShippingZone string          `db:"shipping_zone"`
	OrderedAt    time.Time       `db:"ordered_at"`
	ProcessedAt  time.Time       `db:"processed_at"`
	Raw          json.RawMessage `db:"raw" dbtype:"jsonb"` // nil is NULL
}

// A Numeric is an exact decimal on its way to a numeric column. Package staging writes it
// from its coefficient and scale, without an allocation.
type Numeric struct{ decimal.Decimal }

// NumericValue implements [pgtype.NumericValuer], so that plain pgx takes a Numeric too.
func (n Numeric) NumericValue() (pgtype.Numeric, error) {
	i := new(big.Int).SetUint64(n.Coef())
	if n.IsNeg() {
		i.Neg(i)
	}
	return pgtype.Numeric{Int: i, Exp: -int32(n.Scale()), Valid: true}, nil // a scale is at most 19
}
