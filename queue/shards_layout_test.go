package queue_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

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

// A program that runs while the number of shards changes notices it. No record that it has pushed
// until then is lost: it leases the records of the shards that the new number abandons, and leaves
// the others to programs with that number.
func TestTheNumberOfShardsChangesUnderAProgram(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	name, _ := common(servertest.Prefix(t))
	shards := func(n int) *queue.Shards {
		s, err := queue.NewShards(ctx, c, name, n, nil, queue.Config{Logger: quiet})
		must(t, err)
		return s
	}
	running := func(err error) bool {
		var e *queue.ShardsError
		return errors.As(err, &e) && errors.Is(err, queue.ErrConfig) && e.Have == 4 && e.Want == 3 && e.Running && strings.Contains(err.Error(), "changed to 4")
	}
	old := shards(3)
	now := shards(4)
	pushed := 0
	pushes := map[string]func() error{
		"Push":      func() error { return old.Push(ctx, records(0, 3)...) },
		"PushAt":    func() error { return old.PushAt(ctx, time.Unix(1, 0), records(0, 3)...) },
		"PushGated": func() error { return old.PushGated(ctx, nil, records(0, 3)...) },
	}
	for what, push := range pushes {
		servertest.Eventually(t, what+" notices", func() bool {
			err := push()
			if err == nil {
				pushed += 3
			}
			return running(err)
		})
	}
	leased := 0
	drain := func(s *queue.Shards, until func(error) bool) {
		for {
			b, err := s.TryLease(ctx, queue.LeaseOptions{})
			if until(err) {
				return
			}
			must(t, err)
			leased += len(b.Payloads)
			_, err = s.Ack(ctx, b.ID)
			must(t, err)
		}
	}
	drain(old, running)
	drain(now, func(err error) bool { return errors.Is(err, queue.ErrEmpty) })
	if leased != pushed || pushed == 0 {
		t.Errorf("%d records were leased, want the %d that were pushed", leased, pushed)
	}
	if _, err := old.Lease(ctx, queue.LeaseOptions{}); !running(err) {
		t.Errorf("a lease that would wait: got %v, want the error with both numbers", err)
	}
	shards(3)
	servertest.Eventually(t, "the number is the old one again", func() bool { return old.Push(ctx, records(0, 1)...) == nil })
}

// A program without a key notices that another one places the records by a key. A layout that was
// deleted keeps no program from its work.
func TestTheLayoutChangesUnderAProgram(t *testing.T) {
	t.Parallel()
	c, ctx, name := servertest.Redis(t), t.Context(), servertest.Prefix(t)
	shards := func(n int, by func([]byte) string) (*queue.Shards, error) {
		return queue.NewShards(ctx, c, name, n, by, queue.Config{Logger: quiet})
	}
	blind, err := shards(2, nil)
	must(t, err)
	_, err = shards(2, first)
	must(t, err)
	servertest.Eventually(t, "a push without a key is refused", func() bool {
		err := blind.Push(ctx, []byte("a"))
		return errors.Is(err, queue.ErrConfig) && strings.Contains(err.Error(), "by")
	})
	must(t, c.Do(ctx, c.B().Del().Key("{"+name+"}:queue:shards").Build()).Error())
	must(t, blind.PushKeyed(ctx, []string{"a"}, [][]byte{[]byte("a")}))
	_, err = blind.TryLease(ctx, queue.LeaseOptions{})
	must(t, err)
}
