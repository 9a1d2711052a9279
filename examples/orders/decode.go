package orders

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/govalues/decimal"
	"github.com/segmentio/encoding/json"
)

// What Decode accepts.
const (
	// MaxPayload is the longest record in bytes. It is far below the limit of the queue: a
	// record that the queue carries may still be too large for an order.
	MaxPayload = 64 << 10
	// MaxText is the longest id, code or zip in bytes.
	MaxText = 64
	// MaxQuantity is the highest quantity.
	MaxQuantity = 100_000
	// MaxPriceDigits and MaxPriceScale are the most digits of a unit price before and after
	// the point. Their product with the highest quantity stays exact.
	MaxPriceDigits = 6
	MaxPriceScale  = 4
	// MinYear and MaxYear bound the time of an order.
	MinYear = 1970
	MaxYear = 2199
)

// wire is an Order as it comes in: price and time are still text, because a number in JSON
// must never pass through a float, and because a bad one deserves a reason of its own.
type wire struct {
	ID         string             `json:"order_id"`
	CustomerID string             `json:"customer_id"`
	ProductID  string             `json:"product_id"`
	Quantity   int32              `json:"quantity"`
	UnitPrice  stdjson.RawMessage `json:"unit_price"`
	Currency   string             `json:"currency"`
	Zip        string             `json:"zip"`
	At         string             `json:"at"`
	Raw        stdjson.RawMessage `json:"raw"`
}

// Decode reads one order. The error is always an [*Invalid]; the order that comes with it
// holds what could be read.
//
// It copies nothing: the texts of the order are parts of payload, which must not change
// afterwards. Fields that it does not know are ignored; of a field that is there twice the last
// one counts. Cost: one allocation and some 0.8 µs for a record of 380 bytes, all checks included;
// encoding/json takes four times as long without them, which is why there is a library here
// (BenchmarkDecode, BenchmarkDecodeStd).
func Decode(payload []byte) (Order, error) {
	if len(payload) > MaxPayload {
		return Order{}, invalid(CodeTooLarge, "the record is %d bytes: at most %d", len(payload), MaxPayload)
	}
	// The parser takes any bytes between two quotes; Postgres takes UTF-8.
	if !utf8.Valid(payload) {
		return Order{}, invalid(CodeMalformedJSON, "the record is not valid UTF-8")
	}
	var w wire
	rest, err := json.Parse(payload, &w, json.ZeroCopy|json.DontMatchCaseInsensitiveStructFields)
	if err != nil || len(rest) > 0 {
		return Order{ID: w.ID}, malformed(payload, err)
	}
	o := Order{
		ID: w.ID, CustomerID: w.CustomerID, ProductID: w.ProductID,
		Quantity: w.Quantity, Currency: w.Currency, Zip: w.Zip,
	}
	// An unescaped control character is not JSON, so they can only follow a backslash.
	escapes := bytes.IndexByte(payload, '\\') >= 0
	if err := checkTexts(&o, escapes); err != nil {
		return o, err
	}
	if o.Quantity == 0 {
		return o, invalid(CodeZeroQuantity, "quantity is 0 or missing, must be from 1 to %d", MaxQuantity)
	}
	if o.Quantity < 0 || o.Quantity > MaxQuantity {
		return o, invalid(CodeBadQuantity, "quantity is %d, must be from 1 to %d", o.Quantity, MaxQuantity)
	}
	if o.UnitPrice, err = parsePrice(w.UnitPrice); err != nil {
		return o, err
	}
	if o.At, err = parseTime(w.At); err != nil {
		return o, err
	}
	if string(w.Raw) != "null" {
		o.Raw = w.Raw
	}
	return o, checkRaw(o.Raw, escapes)
}

// malformed finds the words for what the parser did not like. It parses again, with encoding/json,
// which knows the place and the field: slow, but only for bad records.
func malformed(payload []byte, err error) error {
	var syntax *stdjson.SyntaxError
	var typed *stdjson.UnmarshalTypeError
	std := stdjson.Unmarshal(payload, &wire{})
	switch {
	case errors.As(std, &typed) && typed.Field == "":
		return invalid(CodeMalformedJSON, "the record is a JSON %s, must be an object", typed.Value)
	case errors.As(std, &typed) && typed.Field == "quantity":
		return invalid(CodeBadQuantity, "quantity is a JSON %s, must be a whole number from 1 to %d", typed.Value, MaxQuantity)
	case errors.As(std, &typed):
		return invalid(CodeMalformedJSON, "%s is a JSON %s, must be a string", typed.Field, typed.Value)
	case errors.As(std, &syntax):
		return invalid(CodeMalformedJSON, "the record is not valid JSON at byte %d of %d: %v", syntax.Offset, len(payload), syntax)
	case std != nil:
		err = std
	}
	return invalid(CodeMalformedJSON, "the record is not valid JSON: %v", err)
}

func checkTexts(o *Order, escapes bool) error {
	if o.ID == "" {
		return invalid(CodeMissingID, "order_id is missing or empty")
	}
	for _, f := range [...]struct{ name, value string }{
		{"order_id", o.ID},
		{"customer_id", o.CustomerID},
		{"product_id", o.ProductID},
		{"currency", o.Currency},
		{"zip", o.Zip},
	} {
		if f.value == "" {
			return invalid(CodeMissingField, "%s is missing or empty", f.name)
		}
		if len(f.value) > MaxText {
			return invalid(CodeBadField, "%s is %d bytes: at most %d", f.name, len(f.value), MaxText)
		}
		if escapes {
			for i := range len(f.value) {
				if f.value[i] < ' ' {
					return invalid(CodeBadField, "%s is %s: it holds a control character", f.name, excerpt(f.value))
				}
			}
		}
	}
	return nil
}

// parsePrice reads digits and at most one point, from a JSON string or number. It reads the text
// itself because the decimal library rounds what is too long for it, and accepts exponents.
func parsePrice(text []byte) (decimal.Decimal, error) {
	if len(text) == 0 {
		return decimal.Decimal{}, invalid(CodeBadPrice, "unit_price is missing")
	}
	digits := text
	if n := len(text); n >= 2 && text[0] == '"' {
		digits = text[1 : n-1]
	}
	whole, fraction, point := bytes.Cut(digits, []byte{'.'})
	ok := len(whole) >= 1 && len(whole) <= MaxPriceDigits && len(fraction) <= MaxPriceScale && point == (len(fraction) > 0)
	var coefficient int64
	for _, part := range [2][]byte{whole, fraction} {
		for i := 0; ok && i < len(part); i++ {
			ok = part[i] >= '0' && part[i] <= '9'
			coefficient = coefficient*10 + int64(part[i]-'0')
		}
	}
	if ok {
		if d, err := decimal.New(coefficient, len(fraction)); err == nil {
			return d, nil
		}
	}
	return decimal.Decimal{}, invalid(CodeBadPrice,
		"unit_price is %s, must be a decimal such as 12.50, not negative, of at most %d digits before and %d after the point",
		excerpt(text), MaxPriceDigits, MaxPriceScale)
}

func parseTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, invalid(CodeMissingField, "at is missing or empty")
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, invalid(CodeBadTime, "at is %s, must be an RFC 3339 time such as 2026-01-31T12:00:00Z", excerpt(text))
	}
	// Microseconds are what the database keeps: what is decoded equals what is read back.
	t = t.UTC().Truncate(time.Microsecond)
	if t.Year() < MinYear || t.Year() > MaxYear {
		return time.Time{}, invalid(CodeBadTime, "at is %s, must be in the years %d to %d", excerpt(text), MinYear, MaxYear)
	}
	return t, nil
}
