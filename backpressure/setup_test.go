package backpressure_test

import (
	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
)

// throwaway returns a Redis inside this program. A service passes New the client that it has.
func throwaway() (rueidis.Client, func()) {
	s, err := miniredis.Run()
	if err != nil {
		panic(err)
	}
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr()}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		panic(err)
	}
	return c, func() { c.Close(); s.Close() }
}

// check keeps the examples short.
func check(err error) {
	if err != nil {
		panic(err)
	}
}
