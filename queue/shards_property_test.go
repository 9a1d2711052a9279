package queue_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// shardsModel is a model of a queue with shards whose programs die and start with other numbers.
type shardsModel struct {
	*model
	shards *queue.Shards
	by     func([]byte) string
	open   func(n int) (*queue.Shards, error)
}

// use makes the shards of another program the target.
func (m *shardsModel) use(s *queue.Shards) {
	m.shards, m.q = s, s
	for _, q := range s.Queues() {
		m.all[q.Name()] = q
	}
	// Workers of the shards that are gone have nothing to lease, and do not wake up.
	m.held = slices.DeleteFunc(m.held, func(h *held) bool { return s.Of(h.b) == nil })
}

// placed checks that each record that is leased is in the shard of its key.
func (m *shardsModel) placed(t *rapid.T) {
	if m.by == nil {
		return
	}
	for _, h := range m.held {
		for _, p := range h.b.Payloads {
			if want := m.shards.Queues()[m.shards.ShardOf(m.by(p))].Name(); h.live && h.b.Queue != want {
				t.Fatalf("record %s is in %s, want %s", p, h.b.Queue, want)
			}
		}
	}
}

// TestSequences for shards: programs die, others open the shards again, with the same number or
// another one, and the layout is deleted by hand. No record is lost, doubled, or in the shard of
// another key.
func TestShardSequences(t *testing.T) {
	setChecks(t, 100)
	c := servertest.Redis(t)
	name, n := servertest.Prefix(t), 0
	cfg := quick
	cfg.Logger = quiet
	changes := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		m := &shardsModel{model: newModel(t, c, nil)}
		if rapid.Bool().Draw(rt, "keyed") {
			m.by = func(p []byte) string { return string(p[len(p)-1:]) }
		}
		base := fmt.Sprintf("%s-%d", name, n)
		m.open = func(n int) (*queue.Shards, error) { return queue.NewShards(t.Context(), c, base, n, m.by, cfg) }
		s, err := m.open(rapid.IntRange(1, 4).Draw(rt, "shards"))
		if err != nil {
			rt.Fatal(err)
		}
		m.use(s)
		steps := m.steps()
		steps["placed"] = m.placed
		steps["restart"] = func(rt *rapid.T) {
			s, err := m.open(len(m.shards.Queues()))
			if err != nil {
				rt.Fatal(err)
			}
			m.use(s)
		}
		steps["deleteLayout"] = func(rt *rapid.T) {
			if err := c.Do(t.Context(), c.B().Del().Key("{"+base+"}:queue:shards").Build()).Error(); err != nil {
				rt.Fatal(err)
			}
			steps["restart"](rt)
		}
		steps["number"] = func(rt *rapid.T) {
			want := rapid.IntRange(1, 4).Draw(rt, "shards")
			s, err := m.open(want)
			var refused *queue.ShardsError
			switch {
			case errors.As(err, &refused):
				if refused.Records == 0 || refused.Have != len(m.shards.Queues()) || refused.Want != want {
					rt.Fatalf("%d shards: %v, want both numbers and the records that are left", want, err)
				}
			case err != nil:
				rt.Fatal(err)
			default:
				if want != len(m.shards.Queues()) {
					changes++
				}
				m.use(s)
			}
		}
		rt.Repeat(steps)
		m.drain(rt)
	})
	t.Logf("%d sequences, %d changes of the number", n, changes)
}
