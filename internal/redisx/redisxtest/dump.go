package redisxtest

import (
	"testing"

	"github.com/redis/rueidis"
)

// Dump returns a digest of every key that begins with {name}, with its type and value. name has no
// character of a glob. The server must have DUMP: miniredis does not.
func Dump(t testing.TB, c rueidis.Client, name string) string {
	t.Helper()
	const body = `local keys, all = redis.call('KEYS', ARGV[1]), ''
table.sort(keys)
for _, key in ipairs(keys) do all = redis.sha1hex(all .. key .. redis.call('DUMP', key)) end
return all`
	digest, err := c.Do(t.Context(), c.B().Eval().Script(body).Numkeys(0).Arg("{"+name+"}*").Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}
