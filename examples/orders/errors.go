package orders

import "fmt"

// Why a record is refused. The codes are stable: they are what rejects are counted by.
const (
	CodeTooLarge        = "too_large"        // more than MaxPayload bytes
	CodeMalformedJSON   = "malformed_json"   // not one JSON object, or a field of the wrong type
	CodeMissingID       = "missing_id"       // no order_id
	CodeMissingField    = "missing_field"    // another required field is missing or empty
	CodeBadField        = "bad_field"        // a text is too long or holds a control character
	CodeZeroQuantity    = "zero_quantity"    // quantity is 0 or missing
	CodeBadQuantity     = "bad_quantity"     // quantity is negative, too high or not whole
	CodeBadPrice        = "bad_price"        // unit_price is not a plain decimal within its limits
	CodeBadTime         = "bad_time"         // at is not an RFC 3339 time within its limits
	CodeBadRaw          = "bad_raw"          // raw holds what a jsonb column cannot store
	CodeUnknownProduct  = "unknown_product"  // product_id is not in the catalog
	CodeUnknownCurrency = "unknown_currency" // currency has no rate
	CodeUnknownZip      = "unknown_zip"      // zip has no zone
	CodeTotalTooHigh    = "total_too_high"   // the amount in US dollars does not fit its column
)

// Invalid is the reason why a record is refused. It is not a failure of the program: the record is
// rejected with it and the rest of the batch goes on.
type Invalid struct {
	Code   string // one of the Code constants
	Reason string // which field, what it holds, what it must be
}

// Error returns the reason. It names the field, so the code would only repeat it.
func (e *Invalid) Error() string { return e.Reason }

func invalid(code, format string, args ...any) error {
	return &Invalid{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// excerpt keeps a reason short when the value is not.
func excerpt[T ~string | ~[]byte](v T) string {
	const most = 64
	if len(v) > most {
		return fmt.Sprintf("%.*q…", most, string(v[:most]))
	}
	return fmt.Sprintf("%q", string(v))
}
