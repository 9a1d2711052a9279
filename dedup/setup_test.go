package dedup_test

import (
	"log"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
)

// redisForExample starts a Redis inside this process. A program connects to its own server instead.
func redisForExample() (client rueidis.Client, stop func()) {
	server, err := miniredis.Run()
	if err != nil {
		log.Fatal(err)
	}
	client, err = rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{server.Addr()}, DisableCache: true, ForceSingleClient: true, // miniredis needs both
	})
	if err != nil {
		log.Fatal(err)
	}
	return client, func() {
		client.Close()
		server.Close()
	}
}
