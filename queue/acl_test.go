package queue_test

import (
	"context"
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
)

// documentedRights are the rules of each role in the package comment.
func documentedRights(t *testing.T) map[string][]string {
	t.Helper()
	src, err := os.ReadFile("doc.go")
	must(t, err)
	out, role := map[string][]string{}, ""
	user, rule := regexp.MustCompile(`ACL SETUSER (\w+) `), regexp.MustCompile(`[+-]\S+`)
	for line := range strings.Lines(string(src)) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "//"))
		if m := user.FindStringSubmatch(line); m != nil {
			role = m[1]
		} else if !strings.HasPrefix(line, "+") {
			role = ""
		}
		if role != "" {
			out[role] = append(out[role], rule.FindAllString(line, -1)...)
		}
	}
	return out
}

// roles are what each role does with a queue. Every call may run twice.
var roles = map[string]func(ctx context.Context, open func(queue.Config) *queue.Queue) map[string]error{
	"producer": func(ctx context.Context, open func(queue.Config) *queue.Queue) map[string]error {
		plain, bounded := open(queue.Config{}), open(queue.Config{Push: queue.PushConfig{MaxDepth: 1000}})
		small := open(queue.Config{Push: queue.PushConfig{MaxDepth: 1}})
		return map[string]error{
			"push":    plain.Push(ctx, records(0, 3)...),
			"delayed": plain.PushAt(ctx, time.Now(), records(0, 3)...),
			"bounded": bounded.Push(ctx, records(0, 2)...),
			"large":   bounded.Push(ctx, records(0, 200)...),
			"full":    except(small.Push(ctx, records(0, 200)...), queue.ErrFull),
		}
	},
	"worker": func(ctx context.Context, open func(queue.Config) *queue.Queue) map[string]error {
		cfg := quick
		cfg.Lease.MaxFailures = 1
		q, l, out := open(cfg), newLedger(), map[string]error{}
		lease := func(what string, o queue.LeaseOptions) *queue.Batch {
			o.Settle = l.settle
			short, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			b, err := q.Lease(short, o)
			out[what] = err
			if b == nil {
				b = &queue.Batch{}
			}
			return b
		}
		b := lease("fresh", queue.LeaseOptions{Records: 4})
		out["extend"] = q.Extend(ctx, b, time.Minute)
		out["waiting"] = q.ExtendWaiting(ctx, b, time.Minute)
		out["release"] = q.Release(ctx, b, queue.ReleaseOptions{Failure: "bad"})
		b = lease("child", queue.LeaseOptions{})
		out["handoff"] = q.Handoff(ctx, b)
		_, out["ack"] = q.AckWith(ctx, queue.Ack{ID: b.ID, Undo: []queue.Undo{{Key: "{" + q.Name() + "}:x", Old: "a", New: "b"}}})
		b = lease("another child", queue.LeaseOptions{Duration: time.Millisecond})
		for len(b.Payloads) > 1 && out["bury"] == nil {
			out["bury"] = q.Settle(ctx, b, queue.Resolution{})
			b = lease("split", queue.LeaseOptions{})
		}
		out["bury"] = q.Settle(ctx, b, queue.Resolution{})
		for n := 0; n < 20 && out["rest"] == nil; n++ {
			b, err := q.TryLease(ctx, queue.LeaseOptions{Records: 50, Bytes: 40, Duration: time.Hour})
			if b != nil {
				_, err = q.Ack(ctx, b.ID)
			}
			out["rest"] = except(err, queue.ErrEmpty)
		}
		// Redis counts a BLMOVE when it returns, so some must time out on the server.
		idler := open(queue.Config{Lease: queue.LeaseConfig{Records: 10_000, Linger: time.Hour, PollInterval: 20 * time.Millisecond}})
		idle, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := idler.Lease(idle, queue.LeaseOptions{})
		out["idle"] = except(err, context.DeadlineExceeded)
		return out
	},
	"promoter": func(ctx context.Context, open func(queue.Config) *queue.Queue) map[string]error {
		q, l, out := open(queue.Config{}), newLedger(), map[string]error{}
		handed, err := q.HandedOff(ctx)
		out["handed off"] = err
		// Each fate once: the batches have 3, 2, 1 and 1 records, and one of each kind is void.
		slices.SortFunc(handed, func(a, b queue.HandedOff) int { return b.Records - a.Records })
		for i, h := range handed {
			l.kind[h.ID] = []queue.Fate{queue.FatePromoted, queue.FateVoid, queue.FateUnknown, queue.FateVoid}[i%4]
		}
		_, out["reconcile"] = q.Reconcile(ctx, l.known, l.settle)
		_, out["ack"] = q.AckWith(ctx, queue.Ack{ID: "none", Undo: []queue.Undo{{Key: "{" + q.Name() + "}:x", Old: "a", New: "b"}}})
		return out
	},
	"reader": func(ctx context.Context, open func(queue.Config) *queue.Queue) map[string]error {
		q, out := open(queue.Config{}), map[string]error{}
		_, out["stats"] = q.Stats(ctx)
		_, out["audit"] = q.Audit(ctx)
		_, out["handed off"] = q.HandedOff(ctx)
		dead, _, err := q.DeadLetters(ctx, "", 10)
		out["dead"] = err
		if len(dead) == 0 {
			return map[string]error{"dead": queue.ErrEmpty}
		}
		handed, _ := q.HandedOff(ctx)
		_, out["get"] = q.Get(ctx, handed[0].ID)
		_, out["batches"] = q.Batches(ctx, handed[0].ID)
		_, _, out["in flight"] = q.InFlight(ctx, time.Now(), 10)
		_, out["scan"] = q.Scan(ctx, queue.ScanOptions{}, func([]queue.ScannedRecord) error { return nil })
		_, out["annotation"] = q.Annotation(ctx, handed[0].ID, "dedup")
		_, out["dead letter"] = q.DeadLetter(ctx, dead[0].ID)
		return out
	},
}

func except(err, expected error) error {
	if strings.Contains(errText(err), expected.Error()) {
		return nil
	}
	return err
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// rare are commands of the documented lines that no test of a healthy server runs: they close a
// stale connection, follow a clock that was set back, undo, set a broken batch aside, or move
// records where native commands are missing.
var rare = []string{"unlink", "zunionstore", "setrange", "lmove", "type", "hset", "zscore", "zrangebyscore", "getrange"}

// The documented lines are enough for each role, and hold no command that it does not run.
func TestAccessRights(t *testing.T) {
	t.Parallel()
	rights := documentedRights(t)
	if len(rights) != len(roles) {
		t.Fatalf("the package comment has rights for %d roles, want %d", len(rights), len(roles))
	}
	server := servertest.OwnRedis(t) // it counts the commands of one role after the other
	for role, use := range roles {
		t.Run(role, func(t *testing.T) {
			admin, name := server.Client(t), "orders-"+role
			prepare(t, openAs(t, admin, name, queue.Config{}))
			rules := append([]string{"ACL", "SETUSER", role, "reset", "on", ">secret", "~{" + name + "}:*"}, rights[role]...)
			must(t, admin.Do(t.Context(), admin.B().Arbitrary(rules...).Build()).Error())
			o := redisxtest.Options(t, server.URL)
			o.Username, o.Password = role, "secret"
			c, err := rueidis.NewClient(o)
			must(t, err)
			t.Cleanup(c.Close)
			must(t, admin.Do(t.Context(), admin.B().Arbitrary("CONFIG", "RESETSTAT").Build()).Error())
			results := use(t.Context(), func(cfg queue.Config) *queue.Queue { return openAs(t, c, name, cfg) })
			for what, err := range results {
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			ran := commandsRun(t, admin)
			for _, rule := range rights[role] {
				if cmd := rule[1:]; rule[0] == '+' && cmd[0] != '@' && !slices.Contains(ran, cmd) && !slices.Contains(rare, cmd) {
					t.Errorf("%s is documented and does nothing; the role ran %v", rule, ran)
				}
			}
		})
	}
}

// A counter of the books that the user may not change is an error: only one that holds no number is
// left as it is.
func TestNoCounterIsLeftOut(t *testing.T) {
	t.Parallel()
	server := servertest.OwnRedis(t)
	admin, ctx := server.Client(t), t.Context()
	q := openAs(t, admin, "orders", queue.Config{})
	must(t, q.Push(ctx, records(0, 1)...))
	b := lease(t, q, queue.LeaseOptions{})
	must(t, admin.Do(ctx, admin.B().Arbitrary("ACL", "SETUSER", "u", "on", ">secret", "~*", "+@all", "-hincrby").Build()).Error())
	o := redisxtest.Options(t, server.URL)
	o.Username, o.Password = "u", "secret"
	c, err := rueidis.NewClient(o)
	must(t, err)
	t.Cleanup(c.Close)
	err = openAs(t, c, "orders", queue.Config{}).Settle(ctx, b, queue.Resolution{})
	if !refusal.MatchString(errText(err)) {
		t.Errorf("got %v, want the server's refusal", err)
	}
}

// refusal is in the error of a right that the user lacks.
var refusal = regexp.MustCompile(`NOPERM|ACL failure|The user executing the script can't`)

// prepare makes a queue with batches in every state.
func prepare(t *testing.T, q *queue.Queue) {
	t.Helper()
	ctx := t.Context()
	must(t, q.Push(ctx, records(0, 20)...))
	must(t, q.Settle(ctx, lease(t, q, queue.LeaseOptions{Records: 1}), queue.Resolution{}))
	for n := range 4 {
		must(t, q.Handoff(ctx, lease(t, q, queue.LeaseOptions{Records: max(1, 3-n)})))
	}
	must(t, q.Release(ctx, lease(t, q, queue.LeaseOptions{Records: 2}), queue.ReleaseOptions{Delay: time.Hour}))
	must(t, q.PushAt(ctx, time.Now(), records(20, 30)...))
}

// commandsRun are the commands that the server ran without refusing them.
func commandsRun(t *testing.T, c rueidis.Client) (ran []string) {
	t.Helper()
	info, err := c.Do(t.Context(), c.B().Info().Section("commandstats").Build()).ToString()
	must(t, err)
	for line := range strings.Lines(info) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":")
		if ok && strings.HasPrefix(line, "cmdstat_") && !strings.HasPrefix(rest, "calls=0,") {
			ran = append(ran, name)
		}
	}
	return ran
}

// A user who may read the key of an undo and not write it ends no batch half.
func TestUndoOfAKeyThatMayOnlyBeRead(t *testing.T) {
	t.Parallel()
	server := servertest.OwnRedis(t)
	admin, ctx := server.Client(t), t.Context()
	must(t, admin.Do(ctx, admin.B().Arbitrary("ACL", "SETUSER", "u", "on", ">secret", "~{orders}:ready", "~{orders}:queue:*", "%R~{orders}:claims", "+@all").Build()).Error())
	must(t, admin.Do(ctx, admin.B().Set().Key("{orders}:claims").Value("old").Build()).Error())
	o := redisxtest.Options(t, server.URL)
	o.Username, o.Password = "u", "secret"
	c, err := rueidis.NewClient(o)
	must(t, err)
	t.Cleanup(c.Close)
	q := openAs(t, c, "orders", queue.Config{})
	must(t, q.Push(ctx, records(0, 1)...))
	b := lease(t, q, queue.LeaseOptions{})
	undo := []queue.Undo{{Key: "{orders}:claims", Old: "old", New: "new"}}
	before := redisxtest.Dump(t, admin, "orders")
	_, ackErr := q.AckWith(ctx, queue.Ack{ID: b.ID, Undo: undo})
	for what, err := range map[string]error{"ack": ackErr, "bury": q.Settle(ctx, b, queue.Resolution{Undo: undo})} {
		if !strings.Contains(errText(err), "NOPERM") {
			t.Errorf("%s: got %v, want the server's refusal", what, err)
		}
	}
	if redisxtest.Dump(t, admin, "orders") != before {
		t.Error("a call that was refused has changed the queue")
	}
	_, err = openAs(t, admin, "orders", queue.Config{}).AckWith(ctx, queue.Ack{ID: b.ID, Undo: undo})
	must(t, err)
}

// A user may lack the right to the keys of batches, delayed pushes or dead letters, which no call
// names. A call that fails because of that has changed nothing.
func TestKeysThatNoCallNames(t *testing.T) {
	t.Parallel()
	server := servertest.OwnRedis(t)
	admin, ctx := server.Client(t), t.Context()
	for _, missing := range []string{"b", "m", "l", "d"} {
		name := "orders-" + missing
		key := "~{" + name + "}:"
		rules := []string{"ACL", "SETUSER", missing, "on", ">secret", "+@all", key + "ready", key + "queue:[a-z][a-z]*"}
		for _, kind := range []string{"b", "m", "l", "d"} {
			if kind != missing {
				rules = append(rules, key+"queue:"+kind+":*")
			}
		}
		must(t, admin.Do(ctx, admin.B().Arbitrary(rules...).Build()).Error())
		o := redisxtest.Options(t, server.URL)
		o.Username, o.Password = missing, "secret"
		c, err := rueidis.NewClient(o)
		must(t, err)
		t.Cleanup(c.Close)
		mine, q := openAs(t, admin, name, queue.Config{}), openAs(t, c, name, queue.Config{})
		must(t, mine.Push(ctx, records(0, 20)...))
		dead, held, one, many := lease(t, mine, queue.LeaseOptions{Records: 1}), lease(t, mine, queue.LeaseOptions{Records: 1}),
			lease(t, mine, queue.LeaseOptions{Records: 1}), lease(t, mine, queue.LeaseOptions{Records: 4})
		must(t, mine.Settle(ctx, dead, queue.Resolution{}))
		refused := 0
		for what, call := range map[string]func() error{
			"ack":     func() error { _, err := q.Ack(ctx, held.ID); return err },
			"split":   func() error { return q.Settle(ctx, many, queue.Resolution{}) },
			"bury":    func() error { return q.Settle(ctx, one, queue.Resolution{}) },
			"requeue": func() error { _, err := q.Requeue(ctx, dead.ID); return err },
			"discard": func() error { _, err := q.Discard(ctx, dead.ID); return err },
			"delayed": func() error { return q.PushAt(ctx, time.Now(), records(20, 25)...) },
			"lease": func() error {
				_, err := q.TryLease(ctx, queue.LeaseOptions{Records: 3})
				return except(err, queue.ErrEmpty)
			},
		} {
			before := redisxtest.Dump(t, admin, name)
			err := call()
			if err == nil {
				continue
			}
			refused++
			if !refusal.MatchString(err.Error()) {
				t.Errorf("without %s, %s: got %v, want the server's refusal", missing, what, err)
			}
			if redisxtest.Dump(t, admin, name) != before {
				t.Errorf("without %s, %s: got %v, and keys that have changed", missing, what, err)
			}
		}
		if refused == 0 {
			t.Errorf("without %s no call was refused", missing)
		}
		if a, err := mine.Audit(ctx); err != nil || a.Balanced() != nil {
			t.Errorf("without %s: the audit has %v, %v", missing, a.Differences, err)
		}
	}
}
