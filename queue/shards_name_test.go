package queue_test

import (
	"testing"

	"github.com/headrace/headrace/queue"
)

// No suffix puts a shard that does not exist into its part of the slots, so a search would not end.
func TestShardNameRefusesAShardThatDoesNotExist(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ i, n int }{{2, 2}, {-1, 2}, {0, 0}, {0, -1}, {0, queue.MaxShards + 1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("ShardName of shard %d of %d returned, want a panic", c.i, c.n)
				}
			}()
			queue.ShardName("orders", c.i, c.n)
		}()
	}
	if name := queue.ShardName("orders", queue.MaxShards-1, queue.MaxShards); name == "" {
		t.Error("the last shard has no name")
	}
}
