package ops

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/redis/rueidis"
)

// Ready returns up to n of the oldest payloads in the ready list of a queue, after the skip oldest.
// It takes none away.
func Ready(ctx context.Context, c rueidis.Client, name string, skip, n int) ([][]byte, error) {
	list, err := c.Do(ctx, c.B().Lrange().Key("{"+name+"}:ready").Start(int64(-skip-n)).Stop(int64(-skip-1)).Build()).AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("ops: %w", err)
	}
	out := make([][]byte, 0, len(list))
	for i := len(list) - 1; i >= 0; i-- { // the oldest is at the right end
		out = append(out, []byte(list[i]))
	}
	return out, nil
}

// DeadLetters returns the ids of the dead letters of a queue, oldest first, without their payloads.
func DeadLetters(ctx context.Context, c rueidis.Client, name string) ([]string, error) {
	ids, err := c.Do(ctx, c.B().Zrange().Key("{"+name+"}:queue:dead").Min("0").Max("-1").Build()).AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("ops: %w", err)
	}
	return ids, nil
}

// Payload is a payload for JSON output: JSON stays what it is, other text becomes a string, and
// anything else a string of Go's escapes.
func Payload(b []byte) any {
	if json.Valid(b) {
		return json.RawMessage(b)
	}
	return Readable(b)
}

// Readable is a payload on one line.
func Readable(b []byte) string {
	if !utf8.Valid(b) {
		return strconv.QuoteToASCII(string(b))
	}
	for _, r := range string(b) {
		if !strconv.IsPrint(r) {
			return strconv.Quote(string(b))
		}
	}
	return string(b)
}
