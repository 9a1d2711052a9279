package staging_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/headrace/headrace/staging"
)

// A batch that is lost is found out while another lane is promoted, and a batch of that promotion
// is not taken for a lost one: Fates waits for the promotion to end.
func TestFatesWaitForAnotherLane(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	staged, moving, lost := x.loadOf(1, laned{ID: "a"}), x.loadOf(2, laned{ID: "b"}), x.loadOf(2, laned{ID: "c"})
	stage(t, x.both, staged, staging.OutcomeStaged)
	stage(t, x.both, moving, staging.OutcomeStaged)
	atCommit, goOn := stopAt(t, x.both, "before commit")
	promoting := x.promoting(2)
	<-atCommit
	passes := 0
	x.narrow.SetHook(func(point string) error {
		if point == "between registries and ledger" {
			if passes++; passes == 1 {
				goOn()
			}
		}
		return nil
	})
	got := fates(t, x.narrow, staged.Batch.ID, moving.Batch.ID, lost.Batch.ID)
	if want := []staging.Fate{staging.FateStaged, staging.FatePromoted, staging.FateUnknown}; !slices.Equal(got, want) || passes != 2 {
		t.Errorf("fates %v in %d passes, want %v in 2", got, passes, want)
	}
	if p := (<-promoting).must(t); p.Rows != 1 {
		t.Errorf("got %+v, want a row", p)
	}
}

// Batches that are found need no wait for another lane. One that is not found may be there, so
// without that lane there is no answer.
func TestFatesOfALaneThatStaysHeld(t *testing.T) {
	t.Parallel()
	x := openLanes(t, lanedTable, staging.Config[laned]{Key: []string{"id"}})
	staged, promoted, lost := x.loadOf(1, laned{ID: "a"}), x.loadOf(1, laned{ID: "b"}), x.loadOf(1, laned{ID: "c"})
	stage(t, x.both, promoted, staging.OutcomeStaged)
	promoteLanes(t, x.both)
	stage(t, x.both, staged, staging.OutcomeStaged)
	hasty := newTable(t, x.work, "laned", staging.Config[laned]{Key: []string{"id"}, LockTimeout: 10 * time.Millisecond})
	defer x.hold("LOCK TABLE laned_registry_a2 IN ACCESS EXCLUSIVE MODE")()
	got := fates(t, hasty, staged.Batch.ID, promoted.Batch.ID)
	if want := []staging.Fate{staging.FateStaged, staging.FatePromoted}; !slices.Equal(got, want) {
		t.Errorf("fates %v, want %v", got, want)
	}
	if got, err := hasty.Fates(t.Context(), []string{staged.Batch.ID, lost.Batch.ID}); !errors.Is(err, staging.ErrBusy) {
		t.Errorf("got %v, %v, want ErrBusy", got, err)
	}
}
