package window_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/window"
	"github.com/redis/rueidis"
)

// refused matches the errors of a user without a right; the last text is that of Redis 7.0.
var refused = regexp.MustCompile(`NOPERM|[Pp]ermission|The user executing the script can't (run|access)`)

// documentedCommands are the rights in the package comment.
var documentedCommands = strings.Fields(`+eval +evalsha +time +hmget +hget +hset +hdel +hincrby +zadd +zcard +zcount
	+zrange +zrangebyscore +zrank +zscore +zmscore +zrem +zremrangebyrank +pexpire +pttl +unlink`)

// readerCommands are the rights of a Reader in the package comment.
var readerCommands = strings.Fields(`+eval +evalsha +time +hmget +hget +zcard +zcount +zrange +zrank +zscore`)

// A user with the documented rights, and without a channel, can do all; each of the rights is
// needed.
func TestAccessRights(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	admin := own.Client(t)
	users := 0
	as := func(name string, rights ...string) rueidis.Client {
		users++
		user := fmt.Sprint("u", users)
		args := append([]string{"SETUSER", user, "reset", "on", ">secret", "~{" + name + "}:window:*"}, rights...)
		if err := admin.Do(t.Context(), admin.B().Arbitrary("ACL").Args(args...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		o := redisxtest.Options(t, own.URL)
		o.Username, o.Password, o.DisableCache = user, "secret", true
		c, err := rueidis.NewClient(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	// work calls everything but Audit and Repair.
	work := func(c rueidis.Client, name string) error {
		ctx := t.Context()
		logger, _ := collect()
		w, err := window.New(ctx, c, name, window.Config{Size: time.Second, Keep: time.Hour, Lateness: -1, Idle: time.Millisecond, MaxFailures: 1, Remember: time.Minute, Logger: logger})
		if err != nil {
			return err
		}
		now := time.Now().Truncate(time.Second)
		var errs []error
		try := func(_ any, err error) { errs = append(errs, err) }
		try(w.Add(ctx, "k", many(3000, 0)...))
		try(w.Add(ctx, "k", many(3000, 0)...))
		try(w.Add(ctx, "k", window.Event{At: now.Add(-30 * time.Minute), Data: "old"}, window.Event{At: now.Add(-20 * time.Minute), Data: "new"}))
		try(w.Add(ctx, "k", at(0, "late"), at(0, "event 000000")))
		try(w.Add(ctx, "other", at(0, "idle")))
		if err := errors.Join(errs...); err != nil {
			return err
		}
		try(w.OpenWindows(ctx, "k", time.Time{}, 1))
		try(w.Range(ctx, "k", noon, now))
		_, next, err := w.RangePage(ctx, "k", noon, now, "", 1)
		errs = append(errs, err)
		_, _, err = w.RangePage(ctx, "k", noon, now, next, 1)
		errs = append(errs, err)
		try(w.Last(ctx, "k", time.Hour))
		var closed []window.ClosedWindow
		for len(closed) < 3 {
			some, err := w.CloseDue(ctx, 10)
			if err != nil {
				return errors.Join(append(errs, err)...)
			}
			closed = append(closed, some...)
		}
		errs = append(errs, w.Extend(ctx, closed[0], time.Minute), w.Done(ctx, closed[0]))
		errs = append(errs, w.Release(ctx, closed[1], window.ReleaseOptions{Failure: "x"}), w.Release(ctx, closed[2], window.ReleaseOptions{}))
		dead, _, err := w.DeadWindows(ctx, "", 10)
		errs = append(errs, err)
		try(w.Discard(ctx, dead...))
		late, _, err := w.Late(ctx, "", 10)
		errs = append(errs, err, w.DiscardLate(ctx, late...))
		try(w.Stats(ctx))
		return errors.Join(errs...)
	}
	if err := work(as("all", documentedCommands...), "all"); err != nil {
		t.Errorf("with the documented rights: %v", err)
	}
	for _, right := range documentedCommands {
		if right == "+evalsha" || right == "+zremrangebyrank" || right == "+eval" {
			continue // needed for scripts that the server knows, when something has slid out, and for those it does not know
		}
		name := "without-" + right[1:]
		rights := slices.DeleteFunc(slices.Clone(documentedCommands), func(r string) bool { return r == right })
		if err := work(as(name, rights...), name); err == nil || !refused.MatchString(err.Error()) {
			t.Errorf("without %s: got %v, want a refusal", right, err)
		}
	}
	c := as("all", append(slices.Clone(documentedCommands), "+scan", "+zscan", "+type")...)
	w := named(t, c, "all", window.Config{Size: time.Second, Keep: time.Hour})
	if _, err := w.Repair(t.Context()); err != nil {
		t.Errorf("Repair with the documented rights: %v", err)
	}
	before := changes(t, admin)
	if err := readAll(t.Context(), as("all", readerCommands...), "all"); err != nil {
		t.Errorf("a reader with the documented rights: %v", err)
	}
	if after := changes(t, admin); after != before {
		t.Errorf("got %s changes after the reader's calls, want %s as before", after, before)
	}
	for _, right := range readerCommands {
		if right == "+evalsha" || right == "+eval" {
			continue // either is enough for scripts that the server knows
		}
		rights := slices.DeleteFunc(slices.Clone(readerCommands), func(r string) bool { return r == right })
		if err := readAll(t.Context(), as("all", rights...), "all"); err == nil || !refused.MatchString(err.Error()) {
			t.Errorf("a reader without %s: got %v, want a refusal", right, err)
		}
	}

	// What the user may not read is an error: an event that came too late is not taken for a repeated
	// one.
	const name = "buckets"
	w = named(t, admin, name, window.Config{Size: time.Second, Lateness: -1})
	add(t, w, "k", append(many(3000, 0), at(2*time.Second, "next"))...)
	key := "~{" + name + "}:window:"
	blind := as(name, append(slices.Clone(documentedCommands), "resetkeys", key+"[^e]*", key+"expiry", key+"events:*")...)
	if r, err := named(t, blind, name, window.Config{Size: time.Second, Lateness: -1}).Add(t.Context(), "k", at(0, "late")); err == nil || !refused.MatchString(err.Error()) {
		t.Errorf("a late event of a window that is not readable: got %+v, %v, want a refusal", r, err)
	}
}

// A book that the user may not change is an error: only one that holds no number is left as it is.
func TestNoBookIsLeftOut(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	admin := own.Client(t)
	cfg := window.Config{Size: time.Second, Lateness: -1}
	w := named(t, admin, "books", cfg)
	add(t, w, "k", at(0, "a"), at(time.Second, "b"))
	closed := closeDue(t, w, 1)
	if err := admin.Do(t.Context(), admin.B().Arbitrary("ACL", "SETUSER", "u", "on", ">secret", "~*", "+@all").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	o := redisxtest.Options(t, own.URL)
	o.Username, o.Password, o.DisableCache = "u", "secret", true
	c, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	asUser := named(t, c, "books", cfg)
	if err := admin.Do(t.Context(), admin.B().Arbitrary("ACL", "SETUSER", "u", "-hincrby").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if err := asUser.Done(t.Context(), closed[0]); err == nil || !refused.MatchString(err.Error()) {
		t.Errorf("got %v, want a refusal", err)
	}
}

// changes is how many changes the server has counted.
func changes(t *testing.T, c rueidis.Client) string {
	t.Helper()
	info, err := c.Do(t.Context(), c.B().Info().Section("persistence").Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`rdb_changes_since_last_save:\d+`).FindString(info)
}

// readAll opens a Reader and calls all its methods but Audit.
func readAll(ctx context.Context, c rueidis.Client, name string) error {
	r, err := window.Open(ctx, c, name)
	if err != nil {
		return err
	}
	var errs []error
	try := func(_ any, err error) { errs = append(errs, err) }
	try(r.Stats(ctx))
	for _, phase := range []window.Phase{window.PhaseOpen, window.PhaseDue, window.PhaseLeased, window.PhaseDead} {
		_, next, err := r.Windows(ctx, phase, "", 1)
		errs = append(errs, err)
		_, _, err = r.Windows(ctx, phase, next, 1)
		errs = append(errs, err)
	}
	open, err := r.OpenWindows(ctx, "k", time.Time{}, 1)
	errs = append(errs, err)
	for _, w := range open {
		try(r.ReadOpen(ctx, w))
	}
	dead, _, err := r.DeadWindows(ctx, "", 10)
	errs = append(errs, err)
	for _, w := range dead {
		try(r.ReadDead(ctx, w))
	}
	_, _, err = r.Late(ctx, "", 10)
	errs = append(errs, err)
	try(r.Count(ctx, "k", noon, time.Now()))
	try(r.Range(ctx, "k", noon, time.Now()))
	_, next, err := r.RangePage(ctx, "k", noon, time.Now(), "", 1)
	errs = append(errs, err)
	_, _, err = r.RangePage(ctx, "k", noon, time.Now(), next, 1)
	errs = append(errs, err)
	try(r.Last(ctx, "k", time.Hour))
	try(r.LastCount(ctx, "k", time.Hour))
	return errors.Join(errs...)
}

// Someone deletes keys by hand, or writes others. Audit names it, Repair mends it or gives it up,
// and then all goes on.
func TestRepair(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, damage := range []struct {
			name     string
			do       []string // after P is replaced by the prefix and W by the window
			found    string
			repaired string
			windows  int // that come in the end, of 1 or 2 due
		}{
			{"events of a due window", []string{"DEL", "Pevents:W"}, "its record counts 2 events, but 0 are there", "buried: 2 of 2 events are missing", 1},
			{"one event", []string{"ZREM", "Pevents:W", "a"}, "its record counts 2 events, but 1 are there", "buried: 1 of 2 events are missing", 1},
			{"one event more", []string{"ZADD", "Pevents:W", "1", "foreign"}, "its record counts 2 events, but 3 are there", "counted: 3 events, not 2", 2},
			{"record", []string{"DEL", "Pinfo:W"}, "it has no record, but 2 events", "given up: 2 events without a record of the window", 1},
			{"all of it", []string{"DEL", "Pinfo:W", "Pevents:W"}, "it has no record, but 0 events", "given up: 0 events without a record of the window", 1},
			{"due", []string{"DEL", "Pdue"}, "its state is due, but it is in open false, due false", "put back to due", 2},
			{"expiry", []string{"DEL", "Pexpiry"}, "it is not in expiry", "put back to expiry", 2},
			{"in two sets", []string{"ZADD", "Pdead", "1", "W"}, "its state is due, but it is in open false, due true, leases false, dead true", "removed from dead", 2},
			{"state", []string{"HDEL", "Pinfo:W", "state"}, "it has no record, but 2 events", "buried: its state was overwritten", 1},
			{"empty state", []string{"HSET", "Pinfo:W", "state", ""}, "it has no record, but 2 events", "buried: its state was overwritten", 1},
			{"odd state", []string{"HSET", "Pinfo:W", "state", "lost"}, "its state is lost", "buried: its state was overwritten", 1},
			{"negative", []string{"HSET", "Pinfo:W", "n", "-1"}, `"n = -1" is no number`, "corrected n", 2},
			{"a book", []string{"HSET", "Pmeta", "done", "17"}, "the books do not balance", "balanced the books", 2},
			{"the book of due windows", []string{"HSET", "Pmeta", "due", "1"}, "the books do not balance", "booked 2 more events as due", 2},
			{"what was added", []string{"HDEL", "Pmeta", "added"}, "the books do not balance", "balanced the books", 2},
			{"a lease of many years", []string{"ZADD", "Pdue", "4e12", "W"}, "its score in due = 4", "corrected its time in due", 2},
			{"an end in many years", []string{"ZADD", "Popen:k", "4e12", "O"}, "its score in open = 4", "corrected its time in open", 2},
			{"no time to live", []string{"PERSIST", "Pevents:W"}, "it never expires", "let key ", 2},
			{"seed", []string{"HSET", "Pmeta", "seed", "\x00\xff", "done", "1"}, "the books do not balance", "balanced the books", 2},
			{"wrong type", []string{"SET", "Pleases", "x"}, "leases: type is string, must be zset", "deleted key ", 2},
		} {
			t.Run(damage.name, func(t *testing.T) {
				name := servertest.Prefix(t)
				logger, _ := collect()
				w := named(t, c, name, window.Config{Size: time.Second, Lateness: -1, Logger: logger})
				add(t, w, "k", at(0, "a"), at(0, "b"), at(time.Second, "c"), at(2*time.Second, "d"))
				first := windowName(0, time.Second, "k")
				var args []string
				for i, a := range damage.do {
					a = strings.ReplaceAll(strings.ReplaceAll(a, "W", first), "O", strings.TrimSuffix(windowName(2*time.Second, time.Second, "k"), " k"))
					if i > 0 && strings.HasPrefix(a, "P") {
						a = "{" + name + "}:window:" + a[1:]
					}
					args = append(args, a)
				}
				if err := c.Do(t.Context(), c.B().Arbitrary(args...).Build()).Error(); err != nil {
					t.Fatal(err)
				}
				a, err := w.Audit(t.Context())
				if err == nil && !strings.Contains(strings.Join(a.Differences, "\n"), damage.found) || a.Balanced() == nil && err == nil {
					t.Errorf("audit: got %q, %v, want %q", a.Differences, err, damage.found)
				}
				if err != nil && !strings.Contains(err.Error(), damage.found) {
					t.Errorf("audit: %v", err)
				}
				a, err = w.Repair(t.Context())
				if err != nil || !strings.Contains(strings.Join(a.Repaired, "\n"), damage.repaired) {
					t.Errorf("repair: got %q, %v, want %q", a.Repaired, err, damage.repaired)
				}
				for i := 0; a.Balanced() != nil && i < 5; i++ { // until it finds nothing
					if a, err = w.Repair(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				balanced(t, w)
				if err := a.Balanced(); err != nil {
					t.Errorf("after five repairs: %v", err)
				}
				if got := closeDue(t, w, 10); len(got) != damage.windows {
					t.Errorf("got %v, want %d windows", show(got...), damage.windows)
				}
			})
		}
	})
}

// A window that loses events between its close and its closer is not delivered: what is left would
// give a wrong result.
func TestDamagedWindowIsNotDelivered(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name := servertest.Prefix(t)
		logger, lines := collect()
		w := named(t, c, name, window.Config{Size: time.Second, Lateness: -1, Logger: logger})
		add(t, w, "k", at(0, "a"), at(0, "b"), at(time.Second, "c"))
		if err := c.Do(t.Context(), c.B().Zrem().Key("{"+name+"}:window:events:"+windowName(0, time.Second, "k")).Member("a").Build()).Error(); err != nil {
			t.Fatal(err)
		}
		want(t, "closed", show(closeDue(t, w, 1)...), []string{})
		dead, _, err := w.DeadWindows(t.Context(), "", 10)
		if err != nil || len(dead) != 1 || dead[0].Failure != "1 of 2 events are missing" {
			t.Errorf("got %+v, %v, want one dead window", dead, err)
		}
		if l := lines(); len(l) != 1 || !strings.Contains(l[0], "a window lost events") {
			t.Errorf("got log %q, want one line", l)
		}
		if st := balanced(t, w); st.Events.Expired != 1 || st.Events.Dead != 1 {
			t.Errorf("got %+v, want the missing event counted as expired", st.Events)
		}
	})
}

// After a failover behind one address the connections lead to a replica. Calls recover without a
// restart.
func TestSwitchOver(t *testing.T) {
	t.Parallel()
	a, b := servertest.OwnRedis(t), servertest.OwnRedis(t)
	p := redisxtest.NewProxy(t, a.URL)
	c := p.Client(t, nil)
	w := named(t, c, "w", window.Config{Size: time.Second, Lateness: -1, Keep: 366 * 24 * time.Hour})
	add(t, w, "k", at(0, "a"), at(time.Second, "b"))
	p.Point(t, b.URL)
	ac := a.Client(t)
	if err := ac.Do(t.Context(), ac.B().Replicaof().Host("127.0.0.1").Port(1).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if r, err := w.Add(ctx, "k", at(0, "a"), at(time.Second, "b")); err != nil || r.New != 2 {
		t.Errorf("add: got %+v, %v, want 2 new on the other server", r, err)
	}
	if closed, err := w.CloseDue(ctx, 1); err != nil || len(closed) != 1 {
		t.Errorf("close: got %d windows, %v, want 1", len(closed), err)
	}
}

// A client that sends reads to a replica sees its own writes: the replica here has nothing at all.
func TestReadsComeFromThePrimary(t *testing.T) {
	t.Parallel()
	own, empty := servertest.OwnRedis(t), servertest.OwnRedis(t)
	o := redisxtest.Options(t, own.URL)
	o.Standalone.ReplicaAddress = []string{redisxtest.SamePassword(t, empty.URL, own.URL)}
	o.SendToReplicas = func(cmd rueidis.Completed) bool { return cmd.IsReadOnly() }
	c, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	w := named(t, c, "w", window.Config{Size: time.Second, Lateness: -1, Keep: 366 * 24 * time.Hour})
	add(t, w, "k", at(0, "a"), at(time.Second, "b"))
	add(t, w, "k", at(0, "late"))
	n, err := w.Count(t.Context(), "k", noon, noon.Add(time.Hour))
	r, err2 := w.Range(t.Context(), "k", noon, noon.Add(time.Hour))
	if err != nil || err2 != nil || n != 3 || len(r) != 3 {
		t.Errorf("got %d and %d events, %v, %v, want 3", n, len(r), err, err2)
	}
	want(t, "late", lates(t, w), []string{"k 12:00:00 late watermark"})
	want(t, "closed", show(closeDue(t, w, 1)...), []string{"k 12:00:00-12:00:01 watermark 1: a"})
	balanced(t, w)
}
