package window_test

import (
	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
)

// exampleRedis lets an example have a Redis to itself. A service passes the client that it has already.
func exampleRedis() (rueidis.Client, func()) {
	m, err := miniredis.Run()
	if err != nil {
		panic(err)
	}
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{m.Addr()}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		panic(err)
	}
	return c, func() { c.Close(); m.Close() }
}
