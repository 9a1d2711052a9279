package dedup_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/redis/rueidis"
)

// durableServer starts a server that can be killed: the usual one, or Redis 8 from Docker's image
// where the usual one lacks WAITAOF. With neither, it checks that New returns ErrNoAOF, and returns
// false.
func durableServer(t *testing.T) (*servers.RedisServer, rueidis.Client, bool) {
	s := servertest.OwnRedis(t)
	c := s.Client(t)
	_, err := dedup.New(t.Context(), c, "probe", dedup.Config{Durable: true})
	if errors.Is(err, dedup.ErrNoAOF) && servers.HasImage(servers.RedisImage) {
		if s, err = servers.StartRedis(t.Context(), servers.Options{Mode: servers.Docker, Private: true, Image: servers.RedisImage}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		})
		c = s.Client(t)
		_, err = dedup.New(t.Context(), c, "probe", dedup.Config{Durable: true})
	}
	if errors.Is(err, dedup.ErrNoAOF) {
		t.Logf("%s has no WAITAOF, and New has refused Durable: %v", s.Chosen, err)
		return s, c, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return s, c, true
}

func set(t testing.TB, c rueidis.Client, name, value string) {
	t.Helper()
	do(t, c, c.B().ConfigSet().ParameterValue().ParameterValue(name, value).Build())
}

func TestDurableWithoutAOF(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]rueidis.Client{
		"appendonly no": servertest.OwnRedis(t, "--appendonly", "no").Client(t),
		"no WAITAOF":    servertest.Miniredis(t),
	} {
		if _, err := dedup.New(t.Context(), c, "w", dedup.Config{Durable: true}); !errors.Is(err, dedup.ErrNoAOF) {
			t.Errorf("%s: %v, want ErrNoAOF", what, err)
		}
	}
}

// The tests of Durable use one server after the other.
func TestDurable(t *testing.T) {
	t.Parallel()
	s, c, ok := durableServer(t)
	if !ok {
		return
	}
	for _, test := range []struct {
		name string
		f    func(*testing.T, *servers.RedisServer, rueidis.Client)
	}{
		{"waits for the disk", durableWaitsForTheDisk},
		{"a large call", durableLargeCall},
		{"survives crashes", durableSurvivesCrashes},
		{"a crash doubles without it", aCrashDoublesWithoutDurable},
	} {
		t.Run(test.name, func(t *testing.T) {
			set(t, c, "appendfsync", "always") // WAITAOF answers at once
			test.f(t, s, c)
		})
	}
}

// No durable claim returns before the disk has it: neither the first one, nor one that returns
// stored verdicts, whatever the connection. See X_WFENCE, B_OTHERCONN and B_FENCENOWRITE in
// docs/model.
func durableWaitsForTheDisk(t *testing.T, s *servers.RedisServer, c rueidis.Client) {
	name := servertest.Prefix(t)
	cfg := dedup.Config{Durable: true, DurableTimeout: 50 * time.Millisecond}
	d := open(t, c, name, cfg)
	b := dedup.Batch{Guard: guard(t, c, name, "b"), Root: "b", Records: 2}
	ids := []string{"x", "y"}

	other := open(t, s.Client(t), name, cfg)
	set(t, c, "appendfsync", "no") // from now on nothing is synced
	if v, err := d.Claim(t.Context(), b, nil, ids); !errors.Is(err, dedup.ErrNotDurable) || v != nil {
		t.Fatalf("claim that is not on disk: %v, %v, want ErrNotDurable", v, err)
	}
	if v, err := other.Claim(t.Context(), b, nil, ids); !errors.Is(err, dedup.ErrNotDurable) || v != nil {
		t.Fatalf("kept verdicts that are not on disk, asked for by another worker: %v, %v, want ErrNotDurable", v, err)
	}
	set(t, c, "appendfsync", "always")
	want(t, claim(t, open(t, c, name, dedup.Config{Durable: true}), b, nil, ids...), fresh, fresh)
}

// A durable call of several commands sends them on one connection, and waits for the disk once.
func durableLargeCall(t *testing.T, _ *servers.RedisServer, c rueidis.Client) {
	name := servertest.Prefix(t)
	d := open(t, c, name, dedup.Config{Durable: true})
	ids := names("", 0, 2500)
	for _, root := range []string{"a", "b"} {
		waits := commandCalls(t, c, "waitaof", func() {
			for i, v := range claim(t, d, dedup.Batch{Root: root, Records: len(ids)}, nil, ids...) {
				if (v == fresh) != (root == "a") {
					t.Fatalf("%s: id %d: got %v", root, i, v)
				}
			}
		})
		if root == "b" && waits != 1 { // the first call also makes the table
			t.Errorf("%d ids were followed by %d WAITAOF, want 1", len(ids), waits)
		}
	}
	short := open(t, c, name, dedup.Config{Durable: true, DurableTimeout: 50 * time.Millisecond})
	set(t, c, "appendfsync", "no") // from now on nothing is synced
	if v, err := short.Claim(t.Context(), dedup.Batch{Root: "c", Records: len(ids)}, nil, ids); !errors.Is(err, dedup.ErrNotDurable) {
		t.Errorf("claims that are not on disk: got %d verdicts, %v, want ErrNotDurable", len(v), err)
	}
}

// store is what the durable side does with the verdicts: it takes each batch once.
type store struct {
	ledger map[string]bool
	rows   map[string]int // rows per id
}

func (s *store) promote(batch string, ids []string, verdicts []dedup.Verdict) {
	if s.ledger[batch] {
		return
	}
	s.ledger[batch] = true
	for i, v := range verdicts {
		if v == fresh {
			s.rows[ids[i]]++
		}
	}
}

// lose makes the server forget what is written from now on when it crashes, as under everysec.
func lose(t testing.TB, c rueidis.Client) { set(t, c, "appendonly", "no") }

func crash(t testing.TB, s *servers.RedisServer, c rueidis.Client) {
	t.Helper()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for c.Do(ctx, c.B().Ping().Build()).Error() != nil && ctx.Err() == nil {
	}
}

// Redis is killed between claim and stage, again and again, and loses its last writes (RCR in
// docs/model). Batches whose claim fails are delivered again. In the end each id is in the table
// once.
func durableSurvivesCrashes(t *testing.T, s *servers.RedisServer, c rueidis.Client) {
	name := servertest.Prefix(t)
	d := open(t, c, name, dedup.Config{Durable: true, DurableTimeout: 2 * time.Second, ExpectedIDs: 1})
	const seed = 6
	r := rand.New(rand.NewPCG(seed, seed))
	durable := &store{ledger: make(map[string]bool), rows: make(map[string]int)}
	type batch struct {
		name string
		ids  []string
	}
	var batches []batch
	wanted := make(map[string]bool)
	for i := range 40 {
		b := batch{name: fmt.Sprint("b", i)}
		for range 20 {
			id := fmt.Sprint("id", r.IntN(300))
			wanted[id] = true
			b.ids = append(b.ids, id)
		}
		batches = append(batches, b)
		guard(t, c, name, b.name)
	}
	if err := c.Do(t.Context(), c.B().Waitaof().Numlocal(1).Numreplicas(0).Timeout(5000).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	crashes, refused := 0, 0
	for round := 0; len(durable.ledger) < len(batches); round++ {
		if round == 400 {
			t.Fatal("no end")
		}
		b := batches[r.IntN(len(batches))]
		losing := crashes < 4 && r.IntN(6) == 0
		if losing {
			lose(t, c)
		}
		// A guard that is lost is not tested here: the queue's own Durable covers it.
		v, err := d.Claim(t.Context(), dedup.Batch{Guard: "{" + name + "}:m:" + b.name, Root: b.name, Records: len(b.ids)}, nil, b.ids)
		if err != nil {
			refused++
		} else {
			durable.promote(b.name, b.ids, v)
		}
		if losing {
			crash(t, s, c)
			set(t, c, "appendfsync", "always")
			crashes++
		}
	}
	doubled, lost := 0, 0
	for id := range wanted {
		switch n := durable.rows[id]; {
		case n == 0:
			lost++
		case n > 1:
			doubled++
		}
	}
	t.Logf("%d crashes, %d claims refused, %d ids, lost %d, doubled %d", crashes, refused, len(wanted), lost, doubled)
	if lost+doubled > 0 || crashes < 3 || refused < 3 {
		t.Fatalf("%d crashes, %d claims refused: lost %d, doubled %d", crashes, refused, lost, doubled)
	}
}

// A crash of a window that is not durable does lose something.
func aCrashDoublesWithoutDurable(t *testing.T, s *servers.RedisServer, c rueidis.Client) {
	d := open(t, c, servertest.Prefix(t), dedup.Config{})
	lose(t, c)
	want(t, claim(t, d, dedup.Batch{Root: "a", Records: 1}, nil, "x"), fresh) // … and is promoted
	crash(t, s, c)
	want(t, claim(t, d, dedup.Batch{Root: "b", Records: 1}, nil, "x"), fresh) // … and x is there twice
}
