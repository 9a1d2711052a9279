package examples_test

import (
	"strings"
	"syscall"
	"testing"
)

// On a Redis that has no memory left every program starts: the producer waits, and the others work
// off what is there, with the lookup tables that are there.
func TestProgramsOnAFullRedis(t *testing.T) {
	t.Parallel()
	s := own(t)
	c := s.redis.Client(t)
	set := func(bytes string) {
		t.Helper()
		if err := c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", bytes).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	ok := func(name string, args ...string) string {
		t.Helper()
		r := run(t, name, s.env(), args...)
		if r.code != 0 {
			t.Fatalf("%s %q: exit code %d, standard error:\n%s", name, args, r.code, r.err)
		}
		return r.out
	}
	ok("headrace", "init-cache")
	ok("producer", "-orders", "3000")
	set("1")
	producer := start(t, "producer", s.env(), "-orders", "100")
	worker, promoter := start(t, "worker", s.env()), start(t, "promoter", s.env())
	eventually(t, "what is there is worked off", func() bool {
		return strings.Contains(ok("stats"), "acked 3000 ")
	})
	set("0")
	if r := producer.wait(); r.code != 0 {
		t.Errorf("producer: exit code %d, standard error:\n%s", r.code, r.err)
	}
	for _, p := range []*process{worker, promoter} {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if r := p.wait(); r.code != 0 {
			t.Errorf("%v: exit code %d, standard error:\n%s", p.cmd.Args, r.code, r.err)
		}
	}
	ok("headrace", "process", "-empty")
	ok("headrace", "promote", "-empty")
	if out := ok("headrace", "audit"); !strings.Contains(out, "✓ Redis") {
		t.Errorf("audit:\n%s", out)
	}
	if n := one[int64](t, s.pg.Pool(t), "SELECT sum(records)::bigint FROM orders_ledger"); n < 3100 {
		t.Errorf("the ledger has %d records, want all that were pushed, at least 3100", n)
	}
}
