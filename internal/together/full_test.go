package together_test

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/queue"
)

// takesMemory are the calls that a Redis at maxmemory refuses. All others free memory in the end,
// or belong to an operator, who needs them exactly then.
var takesMemory = []string{"add", "bounded push", "claim", "delayed push", "gate", "push", "refresh"}

// An operator pauses, resumes, requeues, forgets and repairs on a full Redis, and programs start on
// it. What was refused succeeds when there is room again.
func TestCallsOnAFullRedis(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t).Client(t)
	set := func(bytes string) {
		t.Helper()
		if err := c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", bytes).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	name := servertest.Prefix(t)
	calls, check := openNamed(t, c, name)
	maps.Copy(calls, moreCalls(t, c, name+"-2"))
	maps.Copy(calls, rareCalls(t, c, name))
	maps.Copy(calls, operatorCalls(t, c, name+"-3"))
	refused := func() (names []string) {
		for _, what := range slices.Sorted(maps.Keys(calls)) {
			if err := calls[what](); err != nil {
				if text := err.Error(); !strings.Contains(text, "OOM") && !strings.Contains(text, "maxmemory") {
					t.Errorf("%s: got %v, want an error about the memory", what, err)
				}
				names = append(names, what)
			}
		}
		return names
	}
	set("1")
	if got := refused(); !slices.Equal(got, takesMemory) {
		t.Errorf("at maxmemory: got refusals of %q, want %q", got, takesMemory)
	}
	set("0")
	maps.DeleteFunc(calls, func(what string, _ func() error) bool { return !slices.Contains(takesMemory, what) })
	if got := refused(); len(got) > 0 {
		t.Errorf("with room again: got refusals of %q, want none", got)
	}
	check()
}

// operatorCalls returns the calls of operators and of programs that start, on data of their own.
func operatorCalls(t *testing.T, c rueidis.Client, name string) map[string]func() error {
	t.Helper()
	ctx, quiet := t.Context(), slog.New(slog.DiscardHandler)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	q, err := queue.New(ctx, c, name, queue.Config{Logger: quiet})
	must(err)
	must(q.Push(ctx, []byte("dead")))
	dead, err := q.TryLease(ctx, queue.LeaseOptions{Duration: time.Hour})
	must(err)
	must(q.Settle(ctx, dead, queue.Resolution{}))
	ids, err := dedup.New(ctx, c, name, dedup.Config{ExpectedIDs: 1000, Logger: quiet})
	must(err)
	_, err = ids.Claim(ctx, dedup.Batch{Root: "root", Records: 2}, nil, []string{"a", "b"})
	must(err)
	damaged, err := dedup.New(ctx, c, name+"-damaged", dedup.Config{ExpectedIDs: 1000, Logger: quiet})
	must(err)
	_, err = damaged.Mark(ctx, "a")
	must(err)
	parts, err := c.Do(ctx, c.B().Keys().Pattern("{"+name+"-damaged}:dedup:*").Build()).AsStrSlice()
	must(err)
	for _, key := range parts {
		switch {
		case strings.HasSuffix(key, ":0"): // a part of its log
			must(c.Do(ctx, c.B().Del().Key(key).Build()).Error())
		case !strings.HasSuffix(key, ":state"): // its index
			must(c.Do(ctx, c.B().Persist().Key(key).Build()).Error())
		}
	}
	gate, err := backpressure.New(ctx, c, name, backpressure.Config{Records: backpressure.SourcesOf(q), Logger: quiet})
	must(err)
	reserved, err := gate.TryAcquire(ctx, 1)
	must(err)
	remote, err := lookup.NewRemote(ctx, c, name, lookup.RemoteConfig[string, string]{Logger: quiet})
	must(err)
	must(remote.Put(ctx, map[string]string{"a": "b"}))
	return map[string]func() error{
		"3 pause":       func() error { return q.Pause(ctx) },
		"3 resume":      func() error { return q.Resume(ctx) },
		"3 stats":       func() error { _, err := q.Stats(ctx); return err },
		"3 audit":       func() error { _, err := q.Audit(ctx); return err },
		"3 requeue all": func() error { _, err := q.RequeueAll(ctx); return err },
		"3 open":        func() error { _, err := queue.New(ctx, c, name, queue.Config{Logger: quiet}); return err },
		"3 open shards": func() error {
			_, err := queue.NewShards(ctx, c, name+"-shards", 2, nil, queue.Config{Logger: quiet})
			return err
		},
		"3 release claims": func() error {
			n, err := ids.Release(ctx, dedup.Claim{Root: "root", Place: 0, ID: "a"})
			if err == nil && n != 1 {
				t.Errorf("got %d claims given back, want 1", n)
			}
			return err
		},
		"3 repair a window": func() error {
			r, err := damaged.Repair(ctx)
			if err != nil {
				return err
			}
			if r.Mended != 2 {
				t.Errorf("got %d keys mended, want 2", r.Mended)
			}
			return r.After.Balanced()
		},
		"4 clear":           func() error { return ids.Clear(ctx) },
		"3 release a grant": func() error { return reserved.Release(ctx) },
		"3 notify":          func() error { return gate.Notify(ctx) },
		"3 repair a gate":   func() error { _, err := gate.Repair(ctx); return err },
		"3 forget entries":  func() error { return remote.Forget(ctx, "a") },
	}
}
