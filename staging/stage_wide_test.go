package staging_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// A row that just fits a page of the target does not fit one of the staging table, which has a
// column more. It is rejected alone, the reason tells why, and Replay writes it.
func TestARowThatFitsThePageOfTheTargetOnly(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	const n = 1017 // bigints fill a page
	type wide struct{ from, null int64 }
	var columns []staging.Column
	var definition []string
	for i := range n {
		columns = append(columns, staging.Column{Name: fmt.Sprint("c", i)})
		definition = append(definition, fmt.Sprint("c", i, " bigint"))
	}
	exec(t, pool, "CREATE TABLE wide ("+strings.Join(definition, ", ")+")")
	tab := newTable(t, pool, "wide", staging.Config[wide]{Columns: columns, ID: "c0", Fill: func(w *wide, r *staging.Row) {
		for i := range int64(n) {
			if i >= n-w.null {
				r.Null()
			} else {
				r.Int(w.from + i)
			}
		}
	}})
	stage(t, tab, load(wide{1, 100}, wide{2, 0}, wide{3, 100}), staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 2 || p.Rejected != 1 {
		t.Errorf("promoted %d rows, rejected %d, want 2 and 1", p.Rows, p.Rejected)
	}
	rejects, err := tab.Rejects(t.Context(), staging.RejectFilter{})
	if err != nil || len(rejects) != 1 || rejects[0].Code != "sqlstate_54000" || !strings.Contains(rejects[0].Reason, "8 bytes longer") {
		t.Fatalf("got %d rejects, %v, want one with the reason", len(rejects), err)
	}
	if p, err := tab.Replay(t.Context(), []staging.Correction[wide]{{Reject: rejects[0].ID, Rows: []wide{{2, 0}}}}); err != nil || p.Rows != 1 {
		t.Errorf("replayed %d rows, %v, want 1", p.Rows, err)
	}
}
