package redisxtest

import (
	"context"
	"os"

	"github.com/redis/rueidis"
)

// Narrow is a client on a network that is so slow that the client gives up on more than Most bytes
// at once, after the server has got the first command. It serves one goroutine.
type Narrow struct {
	rueidis.Client

	Most     int
	Greatest int // bytes of the greatest round trip
}

// DoMulti sends commands, or gives up.
func (n *Narrow) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	bytes := 0
	for _, c := range cmds {
		for _, w := range c.Commands() {
			bytes += len(w)
		}
	}
	n.Greatest = max(n.Greatest, bytes)
	if bytes <= n.Most {
		return n.Client.DoMulti(ctx, cmds...)
	}
	n.Do(ctx, cmds[0])
	results := make([]rueidis.RedisResult, len(cmds))
	for i := range results {
		results[i] = rueidis.NewErrorResult(os.ErrDeadlineExceeded)
	}
	return results
}

// Reads is a client that counts what its cached reads bring. It serves one goroutine.
type Reads struct {
	rueidis.Client

	Trips []int // bytes of each round trip
}

// DoMultiCache runs cached reads.
func (r *Reads) DoMultiCache(ctx context.Context, cmds ...rueidis.CacheableTTL) []rueidis.RedisResult {
	results := r.Client.DoMultiCache(ctx, cmds...)
	bytes := 0
	for i := range results {
		text, _ := results[i].ToString() // "" for a key that is not there
		bytes += len(text)
	}
	r.Trips = append(r.Trips, bytes)
	return results
}
