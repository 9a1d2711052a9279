package dedup_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
)

// A program with another Digest would take every known id for new. It is refused by an error with
// both values, at the start and at each call, until the window has expired or was cleared.
func TestDigestIsChanged(t *testing.T) {
	t.Parallel()
	for _, was := range []bool{false, true} {
		k, c := newClock(t)
		long := strings.Repeat("x", 40)
		batch := dedup.Batch{Root: "a", Records: 1}
		early := open(t, c, "w", dedup.Config{Digest: !was}) // it has started before the window began
		first := open(t, c, "w", dedup.Config{Digest: was})
		want(t, claim(t, first, batch, nil, long), fresh)
		refused := func(what string, err error) {
			t.Helper()
			text := fmt.Sprintf("Config.Digest is %v, must be %v in window \"w\"", !was, was)
			if !errors.Is(err, dedup.ErrConfig) || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: got %v, want ErrConfig with %q", what, err, text)
			}
		}
		_, err := dedup.New(t.Context(), c, "w", dedup.Config{Digest: !was})
		refused("New", err)
		_, err = early.Claim(t.Context(), batch, nil, []string{long})
		refused("Claim", err)
		_, err = early.Seen(t.Context(), long)
		refused("Seen", err)
		_, err = early.Undo(t.Context(), []dedup.Claim{{Root: "a", ID: long}})
		refused("Undo", err)
		want(t, claim(t, first, batch, nil, long), fresh) // nothing was changed
		k.Advance(dedup.DefaultWindow)
		want(t, claim(t, early, dedup.Batch{Root: "b", Records: 1}, nil, long), fresh)
		_, err = first.Claim(t.Context(), batch, nil, []string{long})
		if text := fmt.Sprintf("Config.Digest is %v, must be %v", was, !was); !errors.Is(err, dedup.ErrConfig) || !strings.Contains(err.Error(), text) {
			t.Errorf("after the window: got %v, want ErrConfig with %q", err, text)
		}
	}
}

// A window of a later layout is left alone.
func TestLayoutIsUnknown(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{})
		batch := dedup.Batch{Root: "a", Records: 1}
		want(t, claim(t, d, batch, nil, "x"), fresh)
		const later = "2 and whatever comes then"
		key := "{" + name + "}:dedup:state"
		do(t, c, c.B().Set().Key(key).Value(later).Build())
		refused := func(what string, err error) {
			t.Helper()
			text := fmt.Sprintf("the window %q has layout 2, this program needs layout 1", name)
			if !errors.Is(err, dedup.ErrLayout) || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: got %v, want ErrLayout with %q", what, err, text)
			}
		}
		_, err := dedup.New(t.Context(), c, name, dedup.Config{})
		refused("New", err)
		_, err = d.Claim(t.Context(), batch, nil, []string{"x"})
		refused("Claim", err)
		_, err = d.Forget(t.Context(), "x")
		refused("Forget", err)
		_, err = d.Stats(t.Context())
		refused("Stats", err)
		refused("Clear", d.Clear(t.Context()))
		if got, _ := do(t, c, c.B().Get().Key(key).Build()).ToString(); got != later {
			t.Errorf("the state is %q, want it unchanged", got)
		}
	})
}

// Keys that another program changed or deleted: the error names them, and Clear mends them.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for i, damage := range []func(key string) rueidis.Completed{
			func(key string) rueidis.Completed { return c.B().Set().Key(key).Value("nonsense").Build() },
			func(key string) rueidis.Completed { return c.B().Set().Key(key).Value("1 2 3 4 5 6 7 8\n[]").Build() },
			func(key string) rueidis.Completed { return c.B().Set().Key(key).Value("").Build() },
			func(key string) rueidis.Completed { return c.B().Append().Key(key).Value("}").Build() },
			func(key string) rueidis.Completed {
				do(t, c, c.B().Del().Key(key).Build())
				return c.B().Lpush().Key(key).Element("x").Build()
			},
		} {
			name := fmt.Sprint(servertest.Prefix(t), i)
			d := open(t, c, name, dedup.Config{})
			batch := dedup.Batch{Root: "a", Records: 1}
			want(t, claim(t, d, batch, nil, "x"), fresh)
			do(t, c, damage("{"+name+"}:dedup:state"))
			if _, err := d.Claim(t.Context(), batch, nil, []string{"y"}); !errors.Is(err, dedup.ErrDamaged) || !strings.Contains(err.Error(), "{"+name+"}:dedup:") {
				t.Errorf("damage %d: got %v, want ErrDamaged with the key", i, err)
			}
			if err := d.Clear(t.Context()); err != nil {
				t.Errorf("damage %d: Clear: %v", i, err)
			}
			want(t, claim(t, d, batch, nil, "x"), fresh)
			want(t, claim(t, d, dedup.Batch{Root: "b", Records: 1}, nil, "x"), dup)
		}
	})
}

// An index that was deleted or evicted is noticed: its claims are forgotten, Stats counts that, and
// no key is left without a time to live.
func TestLostIndex(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		d := open(t, c, name, dedup.Config{})
		want(t, claim(t, d, dedup.Batch{Root: "a", Records: 1}, nil, "x"), fresh)
		keys, err := do(t, c, c.B().Keys().Pattern("{"+name+"}:dedup:t:*:i0").Build()).AsStrSlice()
		if err != nil || len(keys) != 1 {
			t.Fatal(keys, err)
		}
		do(t, c, c.B().Del().Key(keys[0]).Build())
		want(t, claim(t, d, dedup.Batch{Root: "b", Records: 2}, nil, "x", "y"), fresh, fresh)
		want(t, claim(t, d, dedup.Batch{Root: "c", Records: 2}, nil, "x", "y"), dup, dup)
		if s := stats(t, d); s.LostTables != 1 || s.Tables != 1 {
			t.Errorf("Stats: got %+v, want one table lost and one there", s)
		}
		keys, err = do(t, c, c.B().Keys().Pattern("{"+name+"}:dedup:*").Build()).AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			if ttl, err := do(t, c, c.B().Pttl().Key(key).Build()).AsInt64(); err != nil || ttl < 0 {
				t.Errorf("%s: a time to live of %d, %v, want one", key, ttl, err)
			}
		}
	})
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
	d := open(t, c, "w", dedup.Config{Eviction: dedup.EvictionRefuse})
	want(t, claim(t, d, dedup.Batch{Root: "a", Records: 1}, nil, "x"), fresh)
	want(t, claim(t, d, dedup.Batch{Root: "b", Records: 1}, nil, "x"), dup)
	if seen, err := d.Seen(t.Context(), "x"); err != nil || !seen[0] {
		t.Errorf("Seen: got %v, %v, want true", seen, err)
	}
	if undo, err := d.Undo(t.Context(), []dedup.Claim{{Root: "a", ID: "x"}}); err != nil || len(undo[0]) != 1 {
		t.Errorf("Undo: got %v, %v, want one", undo, err)
	}
	if s := stats(t, d); s.IDs != 1 {
		t.Errorf("Stats: got %d ids, want 1", s.IDs)
	}
	o.InitAddress, o.Standalone, o.SendToReplicas = o.Standalone.ReplicaAddress, rueidis.StandaloneOption{}, nil
	other, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	n, err := other.Do(t.Context(), other.B().Dbsize().Build()).AsInt64()
	if err != nil || n != 0 {
		t.Errorf("the replica has %d keys, %v, want none", n, err)
	}
}

// After a failover behind one address the old primary keeps its connections, as a replica.
func TestFailoverBehindOneAddress(t *testing.T) {
	t.Parallel()
	was, is := servertest.OwnRedis(t), servertest.OwnRedis(t)
	p := redisxtest.NewProxy(t, was.URL)
	d := open(t, p.Client(t, nil), "w", dedup.Config{})
	want(t, claim(t, d, dedup.Batch{Root: "a", Records: 1}, nil, "x"), fresh)
	old := was.Client(t)
	do(t, old, old.B().Arbitrary("REPLICAOF", "127.0.0.1", "1").Build())
	p.Point(t, is.URL)
	servertest.Eventually(t, "claims reach the new primary", func() bool {
		_, err := d.Claim(t.Context(), dedup.Batch{Root: "b", Records: 1}, nil, []string{"y"})
		return err == nil
	})
	want(t, claim(t, d, dedup.Batch{Root: "c", Records: 2}, nil, "x", "y"), fresh, dup)
}

// The rights that the package comment lists are enough, and each of them is needed.
func TestAccessRights(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	admin := s.Client(t)
	rights := strings.Fields("+eval +evalsha +get +set +del +time +exists +hget +hset +getrange +setrange +bitfield +bitfield_ro +pexpire +unlink")
	user := func(name string, rights []string) *dedup.Deduplicator {
		args := append([]string{"SETUSER", name, "reset", "on", ">pw", "~{w}:dedup:*", "~{w}:guard", "+hello", "+ping"}, rights...)
		do(t, admin, admin.B().Arbitrary("ACL").Args(args...).Build())
		o := redisxtest.Options(t, s.URL)
		o.Username, o.Password, o.DisableCache = name, "pw", true
		c, err := rueidis.NewClient(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		d, err := dedup.New(t.Context(), c, "w", dedup.Config{})
		if err != nil {
			return nil
		}
		return d
	}
	ctx := t.Context()
	all := func(d *dedup.Deduplicator) error {
		if d == nil {
			return errors.New("New failed")
		}
		do(t, admin, admin.B().Flushall().Build())
		do(t, admin, admin.B().ScriptFlush().Build())
		do(t, admin, admin.B().Hset().Key("{w}:guard").FieldValue().FieldValue("n", "1").Build())
		batch := dedup.Batch{Guard: "{w}:guard", Root: "a", Records: 2}
		_, claims := d.Claim(ctx, batch, nil, []string{"x", "y"})
		_, again := d.Claim(ctx, dedup.Batch{Root: "b", Records: 2}, nil, []string{"x", "z"})
		_, undo := d.Undo(ctx, []dedup.Claim{{Root: "a", ID: "x"}})
		_, forget := d.Forget(ctx, "y")
		_, seen := d.Seen(ctx, "y")
		return errors.Join(claims, again, undo, forget, seen, d.Clear(context.WithoutCancel(ctx)))
	}
	if err := all(user("enough", rights)); err != nil {
		t.Fatalf("with all rights: %v", err)
	}
	for i, right := range rights {
		if right == "+evalsha" {
			continue // scripts then run by their text
		}
		less := append(append([]string{}, rights[:i]...), rights[i+1:]...)
		if err := all(user(fmt.Sprint("less", i), less)); err == nil {
			t.Errorf("without %s: no error, so it is not needed", right)
		}
	}
}

// Every key of the window begins with {name}:dedup:, which no other package uses.
func TestKeys(t *testing.T) {
	t.Parallel()
	k, c := newClock(t)
	d := open(t, c, "w", dedup.Config{ExpectedIDs: 1})
	for i := range 3 {
		claim(t, d, dedup.Batch{Root: fmt.Sprint(i), Records: fillsTable}, nil, names(fmt.Sprint(i, "-"), 0, fillsTable)...)
		k.Advance(time.Minute)
	}
	for _, key := range k.Keys() {
		if !strings.HasPrefix(key, "{w}:dedup:") {
			t.Errorf("a key named %s, want {w}:dedup:…", key)
		}
		if ttl := k.TTL(key); ttl <= 0 {
			t.Errorf("%s has no time to live", key)
		}
	}
}
