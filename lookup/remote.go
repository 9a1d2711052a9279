package lookup

import (
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"
)

// RemoteConfig sets up a [Remote].
type RemoteConfig[K comparable, V any] struct {
	// Fetch reads keys from the source and returns those that exist. Without it, what is not in Redis is missing.
	Fetch func(ctx context.Context, keys []K) (map[K]V, error)
	// TTL is how long an entry stays in Redis; Negative how long a missing key stays known as missing.
	TTL, Negative time.Duration
	Keys          Codec[K]
	Values        Codec[V]
}

// Remote is a table too large for every process. This type is concurrency safe.
type Remote[K comparable, V any] struct{}

// NewRemote makes a remote table on the caller's client, which it never closes. It sends nothing.
func NewRemote[K comparable, V any](client rueidis.Client, name string, cfg RemoteConfig[K, V]) (*Remote[K, V], error) {
	return &Remote[K, V]{}, nil
}

// GetMany looks up many keys.
func (r *Remote[K, V]) GetMany(ctx context.Context, keys []K) (Found[V], error) {
	return Found[V]{}, errors.ErrUnsupported
}
