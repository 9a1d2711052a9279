package orders

import "encoding/json"

// MaxPayload is the longest record that Decode reads, in bytes. It is far below the queue's
// own limit: a record that the queue carries may still be too large to be an order.
const MaxPayload = 64 << 10

// Decode reads one order. The error is always an *Invalid.
// The order shares memory with payload, which must not change afterwards.
func Decode(payload []byte) (Order, error) {
	var o Order
	if len(payload) > MaxPayload {
		return o, &Invalid{CodeTooLarge, "too large"}
	}
	if err := json.Unmarshal(payload, &o); err != nil {
		return o, &Invalid{CodeMalformedJSON, err.Error()}
	}
	return o, nil
}
