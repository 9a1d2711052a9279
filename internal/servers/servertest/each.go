package servertest

import (
	"testing"

	"github.com/redis/rueidis"
)

// EachRedis runs f as a subtest on every kind of Redis that can be had here.
func EachRedis(t *testing.T, f func(t *testing.T, c rueidis.Client)) {
	t.Run("shared", func(t *testing.T) { f(t, Redis(t)) })
	t.Run("miniredis", func(t *testing.T) { f(t, Miniredis(t)) })
}
