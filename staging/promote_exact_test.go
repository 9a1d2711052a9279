package staging_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
)

// extents promote batches one by one, all at once, and two at a time.
func extents(t *testing.T, f func(t *testing.T, pool *pgxpool.Pool, promoteAll func(tab *staging.Table[judged], batches ...[]judged) staging.PromoteResult)) {
	for _, n := range []int{1, 2, 1000} {
		t.Run(fmt.Sprintf("%d batches", n), func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
				f(t, pool, func(tab *staging.Table[judged], batches ...[]judged) (sum staging.PromoteResult) {
					set(tab)
					for i, rows := range batches {
						stage(t, tab, load(rows...), staging.OutcomeStaged)
						if (i+1)%n == 0 || i == len(batches)-1 {
							p := promote(t, tab)
							sum.Rows, sum.Conflicts, sum.RejectedByRule = sum.Rows+p.Rows, sum.Conflicts+p.Conflicts, sum.RejectedByRule+p.RejectedByRule
						}
					}
					balanced(t, tab)
					return sum
				})
			})
		})
	}
}

// A bad row whose key is there, or came before it, has one verdict, however the batches are divided
// into promotions: a check refuses it, and a foreign key does not.
func TestABadRowWhoseKeyIsThere(t *testing.T) {
	extents(t, func(t *testing.T, pool *pgxpool.Pool, promoteAll func(*staging.Table[judged], ...[]judged) staging.PromoteResult) {
		exec(t, pool, "CREATE TABLE parents (id bigint PRIMARY KEY); INSERT INTO parents VALUES (1); "+
			"CREATE TABLE rows (id bigint PRIMARY KEY, v text CHECK (v <> 'bad'), n bigint REFERENCES parents); INSERT INTO rows VALUES (1, 'there', 1)")
		tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
		p := promoteAll(tab,
			[]judged{row(1, "bad", 1), row(2, "a", 1), row(2, "bad", 1)},
			[]judged{row(1, "orphan", 9), row(2, "bad", 9), row(3, "orphan", 9)},
			[]judged{row(3, "b", 1), row(3, "orphan", 9), row(2, "orphan", 9)})
		if got := query[string](t, pool, "SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM rows"); got != "1=there 2=a 3=b" {
			t.Errorf("the target has %s", got)
		}
		if p.Rows != 2 || p.Conflicts != 3 || p.RejectedByRule != 4 {
			t.Errorf("%d rows, %d conflicts, %d rejects, want 2, 3, 4", p.Rows, p.Conflicts, p.RejectedByRule)
		}
		var got []string
		for _, r := range must(tab.Rejects(t.Context(), staging.RejectFilter{})) {
			got = append(got, r.Key+" "+r.Code)
		}
		slices.Sort(got)
		if diff := cmp.Diff([]string{"1 " + staging.CodeCheck, "2 " + staging.CodeCheck, "2 " + staging.CodeCheck, "3 " + staging.CodeForeign}, got); diff != "" {
			t.Errorf("rejects (-want +got):\n%s", diff)
		}
	})
}

const foldsKeys = "CREATE FUNCTION fold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := NEW.id % 100; RETURN NEW; END $$; " +
	"CREATE TRIGGER fold BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION fold();"

// A trigger may change the key: what it makes of it meets the index. Each record is counted once,
// roll-ups are exact, and the row is found under the key that the target has.
func TestATriggerChangesTheKey(t *testing.T) {
	merges := []staging.Merge{{Name: "sums", Replaced: true, SQL: "INSERT INTO sums SELECT sum(n) FROM (SELECT n FROM promoted UNION ALL SELECT -n FROM replaced) x"}}
	for name, c := range map[string]struct {
		cfg       staging.Config[judged]
		want      string
		conflicts int
	}{
		"skip":          {staging.Config[judged]{}, "1=there 2=a 3=d 5=f", 4},
		"skip, merges":  {staging.Config[judged]{Merges: merges}, "1=there 2=a 3=d 5=f", 4},
		"replace":       {staging.Config[judged]{Conflict: staging.ConflictReplace}, "1=e 2=b 3=g 5=f", -1},
		"newer":         {staging.Config[judged]{Conflict: staging.ConflictReplace, Newer: "n"}, "1=c 2=b 3=g 5=f", -1},
		"newer, merges": {staging.Config[judged]{Conflict: staging.ConflictReplace, Newer: "n", Merges: merges}, "1=c 2=b 3=g 5=f", -1},
	} {
		t.Run(name, func(t *testing.T) {
			extents(t, func(t *testing.T, pool *pgxpool.Pool, promoteAll func(*staging.Table[judged], ...[]judged) staging.PromoteResult) {
				exec(t, pool, "CREATE TABLE sums (n bigint); INSERT INTO sums VALUES (1); CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); INSERT INTO rows VALUES (1, 'there', 1);"+foldsKeys)
				cfg := c.cfg
				cfg.Key = []string{"id"}
				tab := newTable(t, pool, "rows", cfg)
				p := promoteAll(tab, []judged{row(102, "a", 2), row(202, "b", 3)}, []judged{row(101, "c", 4), row(303, "d", 5), row(1, "e", 3)}, []judged{row(5, "f", 6), row(203, "g", 7)})
				if got := query[string](t, pool, "SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM rows"); got != c.want {
					t.Errorf("the target has %s, want %s", got, c.want)
				}
				if p.RejectedByRule != 0 || p.Rows+p.Conflicts != 7 || c.conflicts >= 0 && p.Conflicts != c.conflicts {
					t.Errorf("%d rows, %d conflicts, %d rejects", p.Rows, p.Conflicts, p.RejectedByRule)
				}
				if len(cfg.Merges) > 0 && !query[bool](t, pool, "SELECT (SELECT sum(n) FROM sums) = (SELECT sum(n) FROM rows)") {
					t.Error("the roll-up is not the sum of the rows")
				}
				if f := must(tab.FindKey(t.Context(), "3")); len(f.Rows) != 1 {
					t.Errorf("found %+v", f)
				}
			})
		})
	}
}

// The target has the key as it was staged, and lacks the changed one. A second unique index refuses
// the row: that is no conflict.
func TestAChangedKeyMeetsAnotherIndex(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text UNIQUE, n bigint); INSERT INTO rows VALUES (105, 'old', 1), (7, 'taken', 1);"+foldsKeys)
		tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
		set(tab)
		stage(t, tab, load(row(105, "taken", 2), row(7, "new", 3), row(8, "newer", 4)), staging.OutcomeStaged)
		if p := promote(t, tab); p.Rows != 1 || p.Conflicts != 1 || p.RejectedByRule != 1 {
			t.Errorf("got %+v, want one row, one conflict and one reject", p)
		}
		if diff := cmp.Diff(map[string]string{"105": staging.CodeUnique}, codes(t, tab)); diff != "" {
			t.Errorf("rejected (-want +got):\n%s", diff)
		}
		balanced(t, tab)
	})
}

// With ConflictFail a changed key that is there fails the promotion. The error names its record.
func TestATriggerChangesAKeyThatMustBeNew(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); INSERT INTO rows VALUES (1, 'there', 1);"+foldsKeys)
		tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}, Conflict: staging.ConflictFail})
		set(tab)
		stage(t, tab, load(row(102, "a", 1), row(103, "b", 1)), staging.OutcomeStaged)
		l := load(row(104, "c", 1), row(203, "d", 1), row(101, "e", 1))
		stage(t, tab, l, staging.OutcomeStaged)
		_, err := tab.Promote(t.Context(), staging.PromoteOptions{})
		var got *staging.ConflictError
		if !errors.As(err, &got) || got.Batch != l.Batch.ID || got.Pos != 1 || got.Rows != 2 || got.Key != `{"id":203}` {
			t.Errorf("got %+v (%v), want the record 1 of the second batch", got, err)
		}
		if _, err := tab.Void(t.Context(), l.Batch); err != nil {
			t.Error(err)
		}
		if p := promote(t, tab); p.Rows != 2 || p.Conflicts != 0 {
			t.Errorf("%+v", p)
		}
		balanced(t, tab)
	})
}

// A row whose key another row has, which row-level security hides from the role, is a conflict, as
// for INSERT … ON CONFLICT DO NOTHING.
func TestAHiddenRowHasTheKey(t *testing.T) {
	extents(t, func(t *testing.T, admin *pgxpool.Pool, promoteAll func(*staging.Table[judged], ...[]judged) staging.PromoteResult) {
		role := strings.ReplaceAll("r"+uid.New(), "-", "")
		t.Cleanup(func() {
			if _, err := admin.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
				t.Error(err)
			}
		})
		exec(t, admin, "CREATE ROLE "+role+"; GRANT CREATE, USAGE ON SCHEMA public TO "+role+"; CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); INSERT INTO rows VALUES (1, 'hidden', 1), (2, 'seen', 1); ALTER TABLE rows ENABLE ROW LEVEL SECURITY;"+
			"CREATE POLICY s ON rows FOR SELECT USING (v <> 'hidden'); CREATE POLICY i ON rows FOR INSERT WITH CHECK (n < 9); GRANT SELECT, INSERT, UPDATE ON rows TO "+role)
		tab := newTable(t, as(t, admin, role), "rows", staging.Config[judged]{Key: []string{"id"}})
		p := promoteAll(tab, []judged{row(1, "a", 1), row(2, "b", 1), row(3, "c", 1)}, []judged{row(3, "d", 1), row(1, "bad", 9), row(4, "bad", 9), row(5, "e", 1)})
		if got := query[string](t, admin, "SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM rows"); got != "1=hidden 2=seen 3=c 5=e" {
			t.Errorf("the target has %s", got)
		}
		if p.Rows != 2 || p.Conflicts != 3 || p.RejectedByRule != 2 {
			t.Errorf("%d rows, %d conflicts, %d rejects, want 2, 3, 2", p.Rows, p.Conflicts, p.RejectedByRule)
		}
	})
}
