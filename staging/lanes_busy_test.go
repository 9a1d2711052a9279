package staging_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// Two promoters choose the same lane, and the second finds it empty. It goes on with the other
// lane.
func TestALaneThatIsEmptyMeanwhile(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	for lane := 1; lane <= 2; lane++ {
		stage(t, x.both, x.loadOf(lane, laned{ID: string(rune('a' + lane))}), staging.OutcomeStaged)
	}
	flips := 0
	x.both.SetHook(func(point string) error {
		if point != "after flip" {
			return nil
		}
		if flips++; flips > 1 {
			return nil
		}
		open := query[string](t, x.pool, "SELECT open FROM laned_control")
		p, err := x.narrow.Promote(t.Context(), staging.PromoteOptions{Lane: 1 + strings.IndexByte(open, 'b')})
		if err == nil && p.Rows != 1 {
			t.Errorf("the other promoter got %+v, want a row", p)
		}
		return err
	})
	if p := promote(t, x.both); p.Rows != 1 || flips != 2 {
		t.Errorf("got %+v after %d flips, want the row of the other lane after 2", p, flips)
	}
	count := query[int](t, x.pool, "SELECT count(*) FROM laned")
	if count != 2 {
		t.Errorf("%d rows, want 2", count)
	}
}

// A promotion that ends while it waits for those of other lanes is not too slow: the next one takes
// as many rows, and the error does not name holders of the staging tables.
func TestWaitingForAnotherLaneIsNotSlow(t *testing.T) {
	t.Parallel()
	for name, ddl := range map[string]string{
		"a share of the turn": lanedTable,
		"the turn alone":      lanedTable + "CREATE UNIQUE INDEX ON laned (rank)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := openLanes(t, ddl, staging.Config[laned]{Key: []string{"id"}})
			stage(t, x.both, x.loadOf(1, keys(10, false)...), staging.OutcomeStaged)
			release := x.hold("SELECT pg_advisory_xact_lock(hashtext('headrace.staging.turn'), 'laned'::regclass::oid::int8::bit(32)::int4)")
			promoting := x.promoting(1)
			x.untilWaiting(1)
			exec(t, x.pool, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
			r := <-promoting
			if !errors.Is(r.err, staging.ErrBusy) || strings.Contains(r.err.Error(), "staging tables are held") || x.both.Bound() != 0 {
				t.Errorf("got %+v, %v, bound %d, want ErrBusy for another lane and no bound", r.v, r.err, x.both.Bound())
			}
			release()
			if p := promote(t, x.both); p.Rows != 10 {
				t.Errorf("got %+v, want 10 rows", p)
			}
		})
	}
}

// So it is with a promotion that spends its timeout waiting for what another lane has written.
func TestWaitingForRowsOfAnotherLaneIsNotSlow(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]string{
		"batch ids": "INSERT INTO laned_ledger (id, kind, root, root_offset, records, sealed_at) VALUES ($1, 'void', $1, 0, 1, now())",
		"keys":      "INSERT INTO laned SELECT 'k0004', 0, 0 WHERE $1::text <> ''",
		"groups":    "INSERT INTO sums SELECT 3, 0, 0 WHERE $1::text <> ''",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := staging.Config[laned]{Key: []string{"id"}, Merges: []staging.Merge{sumsMerge}}
			x := openLanes(t, lanedTable+sumsTable, cfg)
			l := x.loadOf(1, keys(10, false)...)
			stage(t, x.both, l, staging.OutcomeStaged)
			defer x.hold(hold, l.Batch.ID)()
			cfg.LockTimeout = time.Minute
			// A machine that is busy may need more time until the promotion waits.
			for timeout := time.Second; ; timeout *= 2 {
				tab := newTable(t, x.work, "laned", cfg)
				begun := time.Now()
				promoting := background(func() (staging.PromoteResult, error) {
					return tab.Promote(t.Context(), staging.PromoteOptions{Lane: 1, Timeout: timeout})
				})
				var r result[staging.PromoteResult]
				ended := false
				for waits := false; !waits && !ended; {
					select {
					case r = <-promoting:
						ended = true
					case <-time.After(2 * time.Millisecond):
						waits = query[bool](t, x.pool, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')")
					}
				}
				early := !ended && time.Since(begun) < timeout/4
				if !ended {
					r = <-promoting
				}
				if !early && timeout < time.Minute {
					continue
				}
				if !errors.Is(r.err, staging.ErrBusy) || tab.Bound() != 0 {
					t.Errorf("got %+v, %v, bound %d, want ErrBusy and no bound", r.v, r.err, tab.Bound())
				}
				return
			}
		})
	}
}

// A promotion whose wait for such a row times out does not blame those who hold the staging tables.
func TestWhoHoldsARow(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, lanedTable)
	tab := newTable(t, pool, "laned", staging.Config[laned]{Key: []string{"id"}, LockTimeout: 100 * time.Millisecond})
	stage(t, tab, load(keys(3, false)...), staging.OutcomeStaged)
	x := &lanes{t: t, pool: pool}
	defer x.hold("INSERT INTO laned VALUES ('k0001', 0, 0)")()
	defer x.hold("LOCK TABLE laned_registry_b IN ACCESS SHARE MODE")()
	_, err := tab.Promote(t.Context(), staging.PromoteOptions{})
	if !errors.Is(err, staging.ErrBusy) || strings.Contains(err.Error(), "staging tables are held") || !strings.Contains(err.Error(), "another transaction has written") {
		t.Errorf("got %v, want ErrBusy for another transaction", err)
	}
}

// Promotions that lock the target wait for each other within their timeout only.
func TestLanesThatLockTheTarget(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable+sumsTable, staging.Config[laned]{
		Key: []string{"id"}, Conflict: staging.ConflictReplace, Newer: "rank", Merges: []staging.Merge{sumsReplaced},
	})
	stage(t, x.both, x.loadOf(1, laned{ID: "a"}), staging.OutcomeStaged)
	stage(t, x.both, x.loadOf(2, laned{ID: "b"}), staging.OutcomeStaged)
	locked, goOn := stopAt(t, x.both, "after lock")
	first := x.promoting(1)
	<-locked
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if p, err := x.both.Promote(ctx, staging.PromoteOptions{Lane: 2, Timeout: time.Millisecond}); !errors.Is(err, staging.ErrBusy) {
		t.Errorf("got %+v, %v, want ErrBusy", p, err)
	}
	goOn()
	if p := (<-first).must(t); p.Rows != 1 {
		t.Errorf("got %+v, want a row", p)
	}
	if rows := promoteLanes(t, x.both); rows != 1 {
		t.Errorf("%d rows, want 1", rows)
	}
	x.sums()
}

// While a lane keeps failing, another one fails once and then succeeds. The target has been failing
// since the first failure.
func TestStuckSinceTheFirstFailure(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}, Conflict: staging.ConflictFail})
	exec(t, x.pool, "INSERT INTO laned VALUES ('a', 0, 0), ('b', 0, 0)")
	stage(t, x.both, x.loadOf(1, laned{ID: "a"}), staging.OutcomeStaged)
	stage(t, x.both, x.loadOf(2, laned{ID: "b"}), staging.OutcomeStaged)
	var since time.Time
	for _, lane := range []int{1, 2} {
		if _, err := x.both.Promote(t.Context(), staging.PromoteOptions{Lane: lane}); !errors.Is(err, staging.ErrConflict) {
			t.Fatalf("lane %d: got %v, want ErrConflict", lane, err)
		}
		if lane == 1 {
			since = must(x.both.Stats(t.Context())).FailingSince
		}
	}
	exec(t, x.pool, "DELETE FROM laned WHERE id = 'b'")
	if p, err := x.both.Promote(t.Context(), staging.PromoteOptions{Lane: 2}); err != nil || p.Rows != 1 {
		t.Fatalf("got %+v, %v, want a row", p, err)
	}
	if s := must(x.both.Stats(t.Context())); s.Failures != 2 || !s.FailingSince.Equal(since) || since.IsZero() {
		t.Errorf("got %d failures since %v, want 2 since %v", s.Failures, s.FailingSince, since)
	}
	exec(t, x.pool, "DELETE FROM laned WHERE id = 'a'")
	if rows := promoteLanes(t, x.both); rows != 1 {
		t.Errorf("%d rows, want 1", rows)
	}
	if s := must(x.both.Stats(t.Context())); s.Stuck() != nil {
		t.Errorf("got %v, want nil", s.Stuck())
	}
}
