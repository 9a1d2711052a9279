package staging_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/staging"
)

// laneStory is a policy under which lanes are promoted at once.
type laneStory struct {
	name, ddl string
	cfg       staging.Config[laned]
	spread    int // of the keys: the fewer, the more conflicts
}

var laneStories = []laneStory{
	{"skip", lanedTable + sumsTable, staging.Config[laned]{Key: []string{"id"}, Merges: []staging.Merge{sumsMerge}}, 3000},
	{"replace", lanedTable, staging.Config[laned]{Key: []string{"id"}, Conflict: staging.ConflictReplace, Newer: "rank"}, 3000},
	{"replace with a roll-up", lanedTable + sumsTable, staging.Config[laned]{Key: []string{"id"}, Conflict: staging.ConflictReplace, Newer: "rank", Merges: []staging.Merge{sumsReplaced}}, 1000},
	{"fail", lanedTable + sumsTable, staging.Config[laned]{Key: []string{"id"}, Conflict: staging.ConflictFail, Merges: []staging.Merge{sumsMerge}}, 0},
	{"no key", "CREATE TABLE laned (id text, n bigint NOT NULL, rank bigint NOT NULL);" + sumsTable, staging.Config[laned]{Merges: []staging.Merge{sumsMerge}}, 0},
	{"pieces", lanedTable + sumsTable + refusingTrigger, staging.Config[laned]{Key: []string{"id"}, Merges: []staging.Merge{sumsMerge}}, 2000},
	{"constraint", lanedTable + sumsTable + "ALTER TABLE laned ADD CHECK (n >= 0);", staging.Config[laned]{Key: []string{"id"}, Merges: []staging.Merge{sumsMerge}}, 2000},
	{"constraint and pieces", lanedTable + sumsTable + refusingTrigger + "ALTER TABLE laned ADD CHECK (n > -3);", staging.Config[laned]{Key: []string{"id"}, Merges: []staging.Merge{sumsMerge}}, 500},
}

// laneRun is one run of a story.
type laneRun struct {
	*lanes
	story laneStory
	r     *rand.Rand
	loads []staging.Load[laned]
	next  atomic.Int64
	left  atomic.Int64 // batches that are not staged yet
	kills atomic.Int64
	mu    sync.Mutex
	odd   []string // unexpected errors
}

// draw makes the batches. A tenth of the rows is bad where the target can refuse them.
func (x *laneRun) draw(batches int) {
	refuses := strings.Contains(x.story.ddl, "refuse()") || strings.Contains(x.story.ddl, "CHECK")
	for b := range batches {
		rows := make([]laned, 1+x.r.IntN(80))
		for i := range rows {
			rows[i] = laned{ID: fmt.Sprintf("b%d-%d", b, i), N: x.r.Int64N(100), Rank: x.r.Int64()}
			if x.story.spread > 0 {
				rows[i].ID = fmt.Sprintf("k%d", x.r.IntN(x.story.spread))
			}
			if refuses && x.r.IntN(10) == 0 {
				rows[i].N = -1 - x.r.Int64N(5)
			}
		}
		x.loads = append(x.loads, x.loadOf(1+x.r.IntN(2), rows...))
	}
	x.left.Store(int64(batches))
}

// killed is true for errors after which a program tries again.
func killed(err error) bool {
	return errors.Is(err, staging.ErrUnknown) || strings.Contains(err.Error(), "57P01") || strings.Contains(err.Error(), "unexpected EOF") ||
		strings.Contains(err.Error(), "conn closed") || strings.Contains(err.Error(), "reset by peer") || strings.Contains(err.Error(), "broken pipe")
}

func (x *laneRun) unexpected(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.odd = append(x.odd, err.Error())
}

// work stages batches. Each second batch is delivered twice, perhaps to the two lanes.
func (x *laneRun) work(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	for {
		i := int(x.next.Add(1)) - 1
		if i >= len(x.loads) {
			return
		}
		deliveries := []*staging.Table[laned]{x.both}
		if r.IntN(2) == 0 {
			deliveries = append(deliveries, x.narrow)
		}
		for _, tab := range deliveries {
			for {
				_, err := tab.Stage(context.Background(), x.loads[i])
				if err == nil {
					break
				}
				if !killed(err) {
					x.unexpected(err)
					break
				}
			}
		}
		x.left.Add(-1)
	}
}

// promote promotes a lane, or whichever is free, until everything is.
func (x *laneRun) promote(lane int) {
	for {
		done := x.left.Load() == 0
		p, err := x.both.Promote(context.Background(), staging.PromoteOptions{Lane: lane, MaxRows: 1500})
		switch {
		case err != nil && !killed(err):
			x.unexpected(err)
			return
		case err == nil && len(p.Mismatched)+len(p.TooOld) > 0:
			x.unexpected(fmt.Errorf("batches were set aside: %+v", p))
		case err == nil && done && len(p.Batches) == 0 && !p.More:
			return
		}
	}
}

// kill is a hook that ends the backends of all transactions under way, a few times. So it kills the
// one whose point this is, and those that it meets.
func (x *laneRun) kill(string) error {
	if rand.IntN(100) > 0 || x.kills.Add(-1) < 0 {
		return nil
	}
	_, err := x.pool.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL`)
	return err
}

// check compares the stores with what was delivered. Of several rows of one key, the target holds
// the one that the policy keeps.
func (x *laneRun) check() {
	x.t.Helper()
	var ids []string
	rejects, records := 0, 0
	values, newest := map[string][]int64{}, map[string]laned{}
	for _, l := range x.loads {
		ids = append(ids, l.Batch.ID)
		records += len(l.Rows)
		for _, row := range l.Rows {
			if row.N < 0 { // bad
				rejects++
				continue
			}
			values[row.ID] = append(values[row.ID], row.N)
			if old, ok := newest[row.ID]; !ok || row.Rank > old.Rank {
				newest[row.ID] = row
			}
		}
	}
	x.allPromoted(ids)
	got := x.rowsAs()
	if x.story.cfg.Conflict == staging.ConflictReplace {
		want := map[string]int64{}
		for id, row := range newest {
			want[id] = row.N
		}
		if d := cmp.Diff(want, got); d != "" {
			x.t.Errorf("rows (-want +got):\n%s", d)
		}
	} else {
		for id, n := range got {
			found := false
			for _, v := range values[id] {
				found = found || v == n
			}
			if !found {
				x.t.Errorf("row %s is %d, want one of %v", id, n, values[id])
			}
		}
	}
	if rows := query[int](x.t, x.pool, "SELECT count(*) FROM laned"); rows != len(values) || len(got) != len(values) {
		x.t.Errorf("%d rows with %d keys, want %d", rows, len(got), len(values))
	}
	// A bad row whose key is there counts as a conflict or as a reject, as the order decides.
	if n := query[int](x.t, x.pool, "SELECT count(*) FROM laned_rejects"); n > rejects || n == 0 && rejects > 0 {
		x.t.Errorf("%d rejects, want %d at most", n, rejects)
	}
	if b := balanced(x.t, x.both); b.Records != int64(records) || b.Batches != int64(len(ids)) {
		x.t.Errorf("books: %+v, want %d records of %d batches", b, records, len(ids))
	}
	if strings.Contains(x.story.ddl, "sums") {
		x.sums()
	}
	x.noDeadlock()
}

// TestLanesPromoteExactlyOnce stages random batches into two lanes, half of them twice, while two
// programs promote and their backends are killed. HEADRACE_SEED sets the seed, HEADRACE_LANES the
// number of batches.
func TestLanesPromoteExactlyOnce(t *testing.T) {
	t.Parallel()
	batches, seed := 40, rand.Uint64()
	if s := os.Getenv("HEADRACE_LANES"); s != "" {
		batches, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("HEADRACE_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	for i, story := range laneStories {
		t.Run(story.name, func(t *testing.T) {
			t.Parallel()
			t.Logf("HEADRACE_SEED=%d", seed)
			x := &laneRun{lanes: openLanes(t, story.ddl, story.cfg), story: story, r: rand.New(rand.NewPCG(seed, uint64(i)))}
			x.draw(batches)
			parts, judge := int64(1+x.r.IntN(100)), x.r.IntN(4) > 0
			x.both.SetParts(parts, parts, judge)
			var wg sync.WaitGroup
			x.kills.Store(5)
			x.both.SetHook(x.kill)
			for w := range uint64(2) {
				wg.Go(func() { x.work(seed + w) })
			}
			for lane := range 3 { // one for each lane, and one for whichever is free
				wg.Go(func() { x.promote(lane) })
			}
			wg.Wait()
			for _, odd := range x.odd {
				t.Error(odd)
			}
			x.both.SetHook(nil)
			x.lanes.work.Reset() // a backend may have been ended while its connection was idle
			x.drain()
			x.check()
		})
	}
}
