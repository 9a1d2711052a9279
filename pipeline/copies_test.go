package pipeline_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
)

// copiesChain is the chain of a rig with another policy.
func (r *rig) copiesChain(c pipeline.Copies) {
	r.flow.Chain = pipeline.Then4(
		pipeline.Decode(decodeItem),
		pipeline.DedupWith(r.window, itemID, pipeline.DedupConfig{Copies: c}),
		pipeline.Filter("wanted", func(v item) bool { return v.Kind != "filter" }),
		pipeline.Map("refuse", refuse),
	)
}

// counts are the books of some records.
type counts struct{ Rows, Duplicates, Filtered, Rejected, Ruled int64 }

func (r *rig) counts() counts {
	r.t.Helper()
	b, err := r.table.Books(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return counts{b.Rows, b.Duplicates, b.Filtered, b.Rejected, b.RejectedByRule}
}

// expected are the counts of n copies of one record by policy.
func expected(c pipeline.Copies, kind string, n int64) counts {
	switch {
	case kind == "rule":
		return counts{Ruled: 1, Duplicates: n - 1}
	case kind == "keep":
		return counts{Rows: 1, Duplicates: n - 1}
	case c == pipeline.CopiesJudged && kind == "refuse":
		return counts{Rejected: n}
	case c == pipeline.CopiesJudged:
		return counts{Filtered: n}
	case kind == "refuse":
		return counts{Rejected: 1, Duplicates: n - 1}
	}
	return counts{Filtered: 1, Duplicates: n - 1}
}

// With a policy that keeps claims, the counts follow from the records alone, however they fall into
// batches, and however commits and copies follow each other.
func TestCopiesDoNotDependOnTiming(t *testing.T) {
	t.Parallel()
	for name, policy := range map[string]pipeline.Copies{"judged": pipeline.CopiesJudged, "dropped": pipeline.CopiesDropped} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{})
			r.copiesChain(policy)
			seed := uint64(time.Now().UnixNano())
			random := rand.New(rand.NewPCG(seed, 0))
			stop := r.start(pipeline.WorkerConfig{Records: 1 + random.IntN(9), Concurrency: 2}, pipeline.PromoterConfig{})
			defer stop()
			var want counts
			for round := range 6 {
				var records []string
				for i := range 12 {
					kind, n := []string{"keep", "refuse", "rule", "filter"}[random.IntN(4)], 1+random.IntN(5)
					for range n {
						records = append(records, fmt.Sprintf("r%d-%d %s", round, i, kind))
					}
					e := expected(policy, kind, int64(n))
					want = counts{want.Rows + e.Rows, want.Duplicates + e.Duplicates, want.Filtered + e.Filtered, want.Rejected + e.Rejected, want.Ruled + e.Ruled}
				}
				random.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
				for len(records) > 0 { // some before, some after the promotions of others
					n := min(1+random.IntN(12), len(records))
					r.push(records[:n]...)
					records = records[n:]
					if random.IntN(3) == 0 {
						r.settled()
					}
				}
			}
			r.settled()
			stop()
			if got := r.counts(); got != want {
				t.Errorf("seed %d: got %+v, want %+v", seed, got, want)
			}
		})
	}
}

// By default a corrected record is accepted once the rejection is committed.
func TestCopiesReleased(t *testing.T) {
	t.Parallel()
	for policy, want := range map[pipeline.Copies]counts{
		pipeline.CopiesReleased: {Rows: 1, Rejected: 1},
		pipeline.CopiesJudged:   {Duplicates: 1, Rejected: 1},
		pipeline.CopiesDropped:  {Duplicates: 1, Rejected: 1},
	} {
		r := newRig(t, rigOptions{})
		r.copiesChain(policy)
		stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
		r.push("a refuse")
		r.settled()
		r.push("a keep")
		r.settled()
		stop()
		if got := r.counts(); got != want {
			t.Errorf("policy %d: got %+v, want %+v", policy, got, want)
		}
	}
	defer func() {
		if p := fmt.Sprint(recover()); !strings.Contains(p, "DedupConfig.Copies is 9") {
			t.Errorf("a bad policy: got %q, want a panic", p)
		}
	}()
	pipeline.DedupWith(nil, itemID, pipeline.DedupConfig{Copies: 9})
}
