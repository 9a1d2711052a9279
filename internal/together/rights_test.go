package together_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/window"
)

// commands are those that scripts run.
var commands = []string{
	"bitfield", "bitfield_ro", "del", "exists", "get", "getrange", "hdel", "hexists", "hget", "hgetall", "hincrby", "hlen", "hmget", "hset", "hstrlen", "lindex",
	"llen", "lmove", "lpush", "lrange", "ltrim", "memory|usage", "persist", "pexpire", "pttl", "rename", "rpop", "set", "setrange", "sort", "strlen", "time", "type", "unlink", "zadd", "zcard", "zcount",
	"zmscore", "zrange", "zrangebyscore", "zrank", "zrem", "zremrangebyrank", "zscore", "zunionstore",
}

// unrefused are commands of scripts that no call here needs: hints, and the source of a gate that
// this one lacks.
var unrefused = []string{"publish", "info"}

// A user may lack the right to any command. A call that fails because of that has changed nothing,
// and when the user has the right, it succeeds.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	admin := own.Client(t)
	acl := func(rule ...string) {
		t.Helper()
		if err := admin.Do(t.Context(), admin.B().Arbitrary("ACL", "SETUSER", "user").Args(rule...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	acl("reset", "on", ">secret", "~*", "&*", "+@all")
	o := redisxtest.Options(t, own.URL)
	o.Username, o.Password = "user", "secret"
	c, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	refused := 0
	for _, command := range commands {
		name := servertest.Prefix(t)
		calls, check := openNamed(t, c, name)
		maps.Copy(calls, moreCalls(t, c, name+"-2"))
		maps.Copy(calls, rareCalls(t, c, name))
		for what, call := range calls {
			tag := name
			if number, _, ok := strings.Cut(what, " "); ok && strings.Trim(number, "23456789") == "" {
				tag += "-" + number
			}
			acl("-" + command)
			before := redisxtest.Dump(t, admin, tag)
			err := call()
			after := redisxtest.Dump(t, admin, tag)
			acl("+" + command)
			if err == nil {
				continue
			}
			refused++
			text := strings.ToLower(err.Error())
			if !strings.Contains(text, "noperm") && !strings.Contains(text, "the user executing the script") && !strings.Contains(text, "acl failure") {
				t.Errorf("-%s: %s: got %v, want the server's refusal", command, what, err)
			}
			switch what {
			case "refresh": // a version that it has begun expires
				for _, key := range unexpiring(t, admin, tag) {
					t.Errorf("-%s: %s: got %v, and a key that never expires: %s", command, what, err, key)
				}
			case "delayed push": // so does its list
			case "9 repair": // it mends one thing after the other
			default:
				if before != after {
					t.Errorf("-%s: %s: got %v, and keys that have changed, want none", command, what, err)
				}
			}
			if err := call(); err != nil {
				t.Errorf("-%s: %s: with the right again: %v", command, what, err)
			}
		}
		check()
	}
	if refused < 3*len(commands) {
		t.Errorf("%d calls were refused, want %d or more", refused, 3*len(commands))
	}
}

// unexpiring returns the keys of versions of a table that never expire.
func unexpiring(t *testing.T, c rueidis.Client, name string) (keys []string) {
	t.Helper()
	const body = `local out = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  if redis.call('PTTL', key) < 0 then out[#out + 1] = key end
end
return out`
	keys, err := c.Do(t.Context(), c.B().Eval().Script(body).Numkeys(0).Arg("{"+name+"}:lookup:v:*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// The lines of docs/operations.md are the sums of the rights that the package comments document.
func TestSumsOfDocumentedRights(t *testing.T) {
	t.Parallel()
	right := regexp.MustCompile(`\+[a-z_|]+`)
	// rights returns the rights in a file from a text on, up to another text.
	rights := func(file, from, to string) (list []string) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, found := strings.Cut(string(text), from)
		if !found {
			t.Fatalf("%s has no %q", file, from)
		}
		part, _, _ := strings.Cut(rest, to)
		return right.FindAllString(part, -1)
	}
	const acl = "ACL SETUSER "
	roles := map[string][][]string{
		"producer": {rights("../../queue/doc.go", acl+"producer", acl)},
		"worker": {
			rights("../../queue/doc.go", acl+"worker", acl), rights("../../dedup/doc.go", "# Access rights", "Audit"),
			rights("../../lookup/doc.go", "# Access rights", ", and +scan"), {"+subscribe", "+publish"},
		},
		"promoter": {rights("../../queue/doc.go", acl+"promoter", acl), rights("../../dedup/doc.go", "# Access rights", "Audit")},
	}
	gate := rights("../../backpressure/doc.go", acl+"producer", "Consumers")
	for role, parts := range roles {
		sum := func(lists ...[]string) []string {
			all := slices.Sorted(slices.Values(slices.Concat(lists...)))
			return slices.Compact(slices.DeleteFunc(all, func(r string) bool { return strings.HasPrefix(r, "+@") || r == "+" }))
		}
		end := acl
		if role == "promoter" {
			end = "```"
		}
		got, want := sum(rights("../../docs/operations.md", acl+role, end)), sum(append(parts, gate)...)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", role, got, want)
		}
	}
}

// moreCalls opens a queue and windows with something in every state, and returns the calls that
// change it. Each can be made once.
func moreCalls(t *testing.T, c rueidis.Client, name string) map[string]func() error {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	q, err := queue.New(ctx, c, name, queue.Config{Lease: queue.LeaseConfig{Backoff: time.Millisecond, MaxBackoff: time.Millisecond}})
	must(err)
	must(q.Push(ctx, slices.Repeat([][]byte{[]byte("record")}, 20)...))
	lease := func(records int, d time.Duration) *queue.Batch {
		t.Helper()
		b, err := q.TryLease(ctx, queue.LeaseOptions{Records: records, Duration: d})
		must(err)
		return b
	}
	dead := lease(1, time.Hour)
	must(q.Settle(ctx, dead, queue.Resolution{}))
	held, released, handed, split := lease(1, time.Hour), lease(1, time.Hour), lease(1, time.Hour), lease(4, time.Hour)
	buried, returned := lease(1, time.Hour), lease(1, time.Hour)
	must(q.Handoff(ctx, returned))
	lease(1, time.Millisecond)
	must(q.PushAt(ctx, time.Now().Add(-time.Second), []byte("due")))
	w, err := window.New(ctx, c, name, window.Config{Size: time.Second, Lateness: -1})
	must(err)
	at := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for i := range 3 {
		_, err = w.Add(ctx, "k", window.Event{At: at.Add(time.Duration(i) * time.Second), Data: "event"})
		must(err)
	}
	closed, err := w.CloseDue(ctx, 1)
	must(err)
	if len(closed) != 1 {
		t.Fatalf("got %d closed windows, want 1", len(closed))
	}
	takeOne := func() error {
		_, err := w.CloseDue(ctx, 1)
		return err
	}
	take := func() error {
		b, err := q.TryLease(ctx, queue.LeaseOptions{Records: 1, Duration: time.Hour})
		if errors.Is(err, queue.ErrEmpty) {
			return nil
		}
		if err == nil && b == nil {
			return errors.New("no batch")
		}
		return err
	}
	return map[string]func() error{
		"2 extend":  func() error { return q.ExtendWaiting(ctx, held, time.Hour) },
		"2 release": func() error { return q.Release(ctx, released, queue.ReleaseOptions{Failure: "bad"}) },
		"2 handoff": func() error { return q.Handoff(ctx, handed) },
		"2 split":   func() error { return q.Settle(ctx, split, queue.Resolution{}) },
		"2 bury":    func() error { return q.Settle(ctx, buried, queue.Resolution{}) },
		"2 requeue": func() error { _, err := q.Requeue(ctx, dead.ID); return err },
		"2 reconcile": func() error {
			_, err := q.Reconcile(ctx, func(_ context.Context, ids []string) ([]queue.BatchFate, error) {
				return make([]queue.BatchFate, len(ids)), nil
			}, nil)
			return err
		},
		"2 lease":       take,
		"2 lease again": take,
		"2 take":        takeOne,
		"2 done":        func() error { return w.Done(ctx, closed[0]) },
	}
}
