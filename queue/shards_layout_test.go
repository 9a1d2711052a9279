package queue_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// common returns a name of which a shard of 3 is a shard of 4 too, with the name of that shard.
func common(prefix string) (name, shard string) {
	for k := 0; ; k++ {
		name = fmt.Sprintf("%s-%d", prefix, k)
		for i := range 3 {
			for j := range 4 {
				if shard = queue.ShardName(name, i, 3); shard == queue.ShardName(name, j, 4) {
					return name, shard
				}
			}
		}
	}
}

// Where a key places the records, another number of shards moves keys out of a shard that stays.
func TestNumberOfShardsByKey(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	name, shard := common(servertest.Prefix(t))
	shards := func(n int, by func([]byte) string) (*queue.Shards, error) {
		return queue.NewShards(ctx, c, name, n, by, queue.Config{Logger: quiet})
	}
	three, err := shards(3, first)
	must(t, err)
	for key := 0; ; key++ {
		if k := fmt.Sprint(key); three.Queues()[three.ShardOf(k)].Name() == shard {
			must(t, three.PushKeyed(ctx, []string{k}, records(0, 1)))
			break
		}
	}
	refused := func(by func([]byte) string) {
		t.Helper()
		_, err := shards(4, by)
		var e *queue.ShardsError
		if !errors.As(err, &e) || e.Have != 3 || e.Want != 4 || e.Records != 1 {
			t.Errorf("4 shards: got %v, want an error with 3, 4 and the record of %s", err, shard)
		}
	}
	refused(first)
	refused(nil)
	b, err := three.TryLease(ctx, queue.LeaseOptions{})
	must(t, err)
	refused(first) // it is in flight
	_, err = three.Ack(ctx, b.ID)
	must(t, err)
	_, err = shards(4, first)
	must(t, err)
}

// A user without the right to record the number of shards may use that number alone.
func TestNumberOfShardsWithoutTheRight(t *testing.T) {
	t.Parallel()
	server, ctx := servertest.OwnRedis(t), t.Context()
	admin := server.Client(t)
	must(t, admin.Do(ctx, admin.B().Arbitrary("ACL", "SETUSER", "producer", "reset", "on", ">secret", "~*", "+@all", "-set").Build()).Error())
	o := redisxtest.Options(t, server.URL)
	o.Username, o.Password = "producer", "secret"
	c, err := rueidis.NewClient(o)
	must(t, err)
	t.Cleanup(c.Close)
	_, err = queue.NewShards(ctx, admin, "orders", 3, nil, queue.Config{Logger: quiet})
	must(t, err)
	_, err = queue.NewShards(ctx, c, "orders", 3, first, queue.Config{Logger: quiet})
	must(t, err)
	_, err = queue.NewShards(ctx, c, "orders", 4, nil, queue.Config{Logger: quiet})
	var e *queue.ShardsError
	if !errors.As(err, &e) || e.Have != 3 || e.Want != 4 || e.Records != 0 || strings.Contains(err.Error(), "0 records") {
		t.Errorf("4 shards: got %v, want an error that names 3, 4 and the missing right", err)
	}
}

// A name is that of one queue, with shards or without.
func TestTheNameOfShardsIsNoQueue(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		ctx := t.Context()
		q := open(t, c, quick)
		must(t, q.Push(ctx, records(0, 5)...))
		held := lease(t, q, queue.LeaseOptions{Records: 2})
		var text bytes.Buffer
		cfg := quick
		cfg.Logger = slog.New(slog.NewTextHandler(&text, nil))
		shards := func() error {
			_, err := queue.NewShards(ctx, c, q.Name(), 2, nil, cfg)
			return err
		}
		if err := shards(); !errors.Is(err, queue.ErrConfig) || !strings.Contains(err.Error(), "5 records") {
			t.Errorf("shards of a name with records: got %v, want ErrConfig and their number", err)
		}
		rest := lease(t, q, queue.LeaseOptions{})
		_, err := q.Ack(ctx, held.ID, rest.ID)
		must(t, err)
		must(t, shards())
		if _, err := queue.New(ctx, c, q.Name(), quick); !errors.Is(err, queue.ErrConfig) || !strings.Contains(err.Error(), q.Name()) {
			t.Errorf("the name of the shards: got %v, want ErrConfig", err)
		}
		must(t, shards())
		if strings.Contains(text.String(), "records=") {
			t.Errorf("the log warns of records that are not there: %s", text.String())
		}
		must(t, c.Do(ctx, c.B().Lpush().Key("{"+q.Name()+"}:ready").Element("stray").Build()).Error())
		must(t, shards())
		if !strings.Contains(text.String(), "records=1") {
			t.Errorf("the log does not warn of a record in the list of the name: %s", text.String())
		}
	})
}
