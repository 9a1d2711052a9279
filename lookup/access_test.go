package lookup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/redis/rueidis"
)

// asUser returns a client of a user that may use the keys of table w and these commands.
func asUser(t *testing.T, url string, admin rueidis.Client, name string, rights ...string) rueidis.Client {
	t.Helper()
	args := append([]string{"SETUSER", name, "reset", "on", ">pw", "~{w}:lookup:*", "~w:lookup", "~w:lookup:*", "+hello", "+ping"}, rights...)
	if err := admin.Do(t.Context(), admin.B().Arbitrary("ACL").Args(args...).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	o := redisxtest.Options(t, url)
	o.Username, o.Password, o.DisableCache = name, "pw", true
	c, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// The rights that the package comment lists are enough, and each of them is needed.
func TestAccessRights(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	admin := s.Client(t)
	for what, tc := range map[string]struct {
		rights string
		work   func(c rueidis.Client) error
	}{
		"reader": {"+eval +evalsha +get +time +hgetall", func(c rueidis.Client) error {
			writer := newTable(t, admin, "w", lookup.Config[string, int]{Load: numbers(3)})
			refresh(t, writer)
			if err := admin.Do(t.Context(), admin.B().ScriptFlush().Build()).Error(); err != nil {
				return err
			}
			table, err := lookup.New(t.Context(), c, "w", lookup.Config[string, int]{})
			if err != nil {
				return err
			}
			return table.Sync(t.Context())
		}},
		"refresher": {"+eval +evalsha +get +time +hgetall +set +del +hset +hlen +pttl +pexpire +persist +unlink", func(c rueidis.Client) error {
			if err := admin.Do(t.Context(), admin.B().ScriptFlush().Build()).Error(); err != nil {
				return err
			}
			failing := errors.New("the source fails")
			fail := true
			table, err := lookup.New(t.Context(), c, "w", lookup.Config[string, int]{
				Chunk: 1,
				Load: func(ctx context.Context, put func(string, int) error) error {
					if err := numbers(3)(ctx, put); err != nil || !fail {
						return err
					}
					return failing
				},
			})
			if err != nil {
				return err
			}
			if _, err := table.Refresh(t.Context()); !errors.Is(err, failing) {
				return err
			}
			if left := keysOf(t, admin, "{w}:lookup:v:"); len(left) > 0 {
				return fmt.Errorf("%d parts were not discarded", len(left))
			}
			fail = false
			for range 2 {
				if _, err := table.Refresh(t.Context()); err != nil {
					return err
				}
			}
			return nil
		}},
		"remote": {"+eval +evalsha +mget +get +set +unlink", func(c rueidis.Client) error {
			r, err := lookup.NewRemote(t.Context(), c, "w", lookup.RemoteConfig[string, int]{})
			if err != nil {
				return err
			}
			if err := r.Put(t.Context(), map[string]int{"a": 1}); err != nil {
				return err
			}
			f, err := r.GetMany(t.Context(), []string{"a", "b"})
			if err == nil && f.Values[0] != 1 {
				err = fmt.Errorf("got %v, want [1 0]", f.Values)
			}
			return errors.Join(err, r.Forget(t.Context(), "a"))
		}},
	} {
		clear := func() {
			if err := admin.Do(t.Context(), admin.B().Flushall().Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		clear()
		rights := strings.Fields(tc.rights)
		if err := tc.work(asUser(t, s.URL, admin, what, rights...)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for i, right := range rights {
			if right == "+pttl" || right == "+del" || right == "+evalsha" || what == "remote" && (right == "+eval" || right == "+get" || right == "+mget") {
				continue // these serve the next refresher sooner, or the probe, save the text of scripts, or a client with other options
			}
			clear()
			less := append(append([]string{}, rights[:i]...), rights[i+1:]...)
			if err := tc.work(asUser(t, s.URL, admin, fmt.Sprint(what, i), less...)); err == nil {
				t.Errorf("%s without %s: no error, so it is not needed", what, right)
			}
		}
	}
}

// A client with a cache reads for it in a transaction. Where the user may not, or the server has no
// such command, a Remote answers all the same.
func TestRemoteWithoutTheRightsOfACache(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	admin := s.Client(t)
	const rights = "+client +eval +evalsha +mget +get +set +unlink"
	for what, more := range map[string]string{"all": "+multi +exec +pttl", "multi": "+exec +pttl", "exec": "+multi +pttl", "pttl": "+multi +exec", "none": ""} {
		asUser(t, s.URL, admin, what, strings.Fields(rights+" "+more)...)
		o := redisxtest.Options(t, s.URL)
		o.Username, o.Password = what, "pw"
		c, err := rueidis.NewClient(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		r := newRemote(t, c, "w", lookup.RemoteConfig[string, int]{})
		if err := r.Put(t.Context(), map[string]int{"a": 1}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			wantOne(t, "with the rights to "+what, r)
		}
	}
	without := servertest.OwnRedis(t, "--rename-command", "MULTI", "")
	r := newRemote(t, without.Client(t), "w", lookup.RemoteConfig[string, int]{})
	if f, err := r.GetMany(t.Context(), []string{"a", "b"}); err != nil || len(f.Missing) != 2 {
		t.Errorf("without MULTI: got %+v, %v, want two missing keys", f, err)
	}
	if err := r.Put(t.Context(), map[string]int{"a": 1}); err != nil {
		t.Fatal(err)
	}
	wantOne(t, "without MULTI", r)
}

// wantOne fails the test unless the key a of r has the value 1, and b is missing.
func wantOne(t *testing.T, what string, r *lookup.Remote[string, int]) {
	t.Helper()
	f, err := r.GetMany(t.Context(), []string{"a", "b"})
	if err != nil || f.Values[0] != 1 || len(f.Missing) != 1 {
		t.Errorf("%s: got %+v, %v, want 1 and a missing key", what, f, err)
	}
}

// A look-up waits for a server that is busy with a script, like every other call.
func TestRemoteOfABusyServer(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t, "--lua-time-limit", "1")
	c, admin := s.Client(t), s.Client(t)
	r := newRemote(t, c, "w", lookup.RemoteConfig[string, int]{})
	if err := r.Put(t.Context(), map[string]int{"a": 1}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		const body = `local function now() local t = redis.call('TIME'); return t[1] * 1000 + t[2] / 1000 end
local finish = now() + 500
repeat until now() > finish`
		done <- s.Client(t).Do(t.Context(), admin.B().Eval().Script(body).Numkeys(0).Build()).Error()
	}()
	eventually(t, "the server is busy", func() bool { return redisx.Refused(admin.Do(t.Context(), admin.B().Ping().Build()).Error()) })
	wantOne(t, "while the server is busy", r)
	if err := <-done; err != nil && !rueidis.IsRedisNil(err) {
		t.Error(err)
	}
}

// A user who may use no channel, which is the default of Redis: a refresh succeeds, and every
// version arrives within MaxAge. The log has it once.
func TestWithoutPubSubRights(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	c := asUser(t, s.URL, s.Client(t), "app", "+@all", "resetchannels")
	src := &source{m: map[string]int{"v": 0}}
	var log logged
	table := newTable(t, c, "w", lookup.Config[string, int]{Load: lookup.FromMap(src.load)})
	reader := newTable(t, c, "w", lookup.Config[string, int]{MaxAge: 40 * time.Millisecond, Logger: log.logger()})
	refresh(t, table)
	run(t, reader)
	for i := range 5 {
		src.set(map[string]int{"v": i}, nil)
		r := refresh(t, table)
		eventually(t, "the new version", func() bool { s, err := reader.Snapshot(); return err == nil && s.Version() == r.Version })
	}
	eventually(t, "the log has it", func() bool { return strings.Contains(log.String(), "NOPERM") })
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("the log has %d lines, want 1:\n%s", n, log.String())
	}
}

// A client that reads from replicas gets the truth: every decision rests on the primary.
func TestReadsComeFromThePrimary(t *testing.T) {
	t.Parallel()
	primary, replica := servertest.OwnRedis(t), servertest.OwnRedis(t) // the replica has nothing
	o := redisxtest.Options(t, primary.URL)
	o.Standalone.ReplicaAddress = []string{redisxtest.SamePassword(t, replica.URL, primary.URL)}
	o.SendToReplicas = func(cmd rueidis.Completed) bool { return cmd.IsReadOnly() }
	c, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	table := newTable(t, c, "w", lookup.Config[string, int]{Load: numbers(30), Chunk: 7})
	first := refresh(t, table)
	reader := newTable(t, c, "w", lookup.Config[string, int]{})
	if err := reader.Sync(t.Context()); err != nil {
		t.Fatalf("Sync: %v", err)
	}
	if s, err := table.Stats(t.Context()); err != nil || s.Version != first.Version {
		t.Errorf("Stats: got %+v, %v, want version %s", s, err, first.Version)
	}
	if r := refresh(t, table); r.Version == first.Version || !r.Done {
		t.Errorf("the second refresh: got %+v, want a new version", r)
	}
}

// After a failover behind one address the old primary keeps its connections, as a replica.
func TestFailoverBehindOneAddress(t *testing.T) {
	t.Parallel()
	was, is := servertest.OwnRedis(t), servertest.OwnRedis(t)
	p := redisxtest.NewProxy(t, was.URL)
	c := p.Client(t, nil)
	table := newTable(t, c, "w", lookup.Config[string, int]{Load: numbers(3)})
	remote := newRemote(t, c, "w", lookup.RemoteConfig[string, int]{})
	refresh(t, table)
	old := was.Client(t)
	if err := old.Do(t.Context(), old.B().Arbitrary("REPLICAOF", "127.0.0.1", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	p.Point(t, is.URL)
	eventually(t, "a refresh reaches the new primary", func() bool { _, err := table.Refresh(t.Context()); return err == nil })
	eventually(t, "a Put reaches the new primary", func() bool { return remote.Put(t.Context(), map[string]int{"a": 1}) == nil })
	if n := len(keysOf(t, p.Client(t, nil), "w")); n != 3 {
		t.Errorf("the new primary has %d keys, want 3", n)
	}
}

// A Redis that is full stores nothing more; a Remote still returns the answer of its source.
func TestRemoteOnAFullRedis(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t, "--maxmemory", "1", "--maxmemory-policy", "noeviction")
	var log logged
	fetches := 0
	r := newRemote(t, s.Client(t), "w", lookup.RemoteConfig[string, int]{
		Logger: log.logger(),
		Fetch: func(_ context.Context, keys []string) (map[string]int, error) {
			fetches++
			return map[string]int{"a": 1}, nil
		},
	})
	for range 5 {
		f, err := r.GetMany(t.Context(), []string{"a", "b"})
		if err != nil || f.Values[0] != 1 || len(f.Missing) != 1 {
			t.Fatalf("got %+v, %v, want [1 0] and b missing", f, err)
		}
	}
	if fetches != 5 {
		t.Errorf("the source was asked %d times, want 5", fetches)
	}
	if n := strings.Count(log.String(), "OOM"); n != 1 {
		t.Errorf("the log has the full Redis %d times, want once:\n%s", n, log.String())
	}
	if err := r.Put(t.Context(), map[string]int{"a": 1}); err == nil {
		t.Error("Put on a full Redis: no error")
	}
}
