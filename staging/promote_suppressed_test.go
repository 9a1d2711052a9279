package staging_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/staging"
)

// drops is a trigger that drops rows, as Postgres allows it without an error, and refuses others.
const drops = `CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.v = 'drop' THEN RETURN NULL; ELSIF NEW.v = 'bad' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
	CREATE TRIGGER tr BEFORE INSERT %s ON rows FOR EACH ROW EXECUTE FUNCTION tr();`

// A row that a trigger drops is a reject of its own: not a conflict, and no reason to fail.
func TestATriggerDropsRows(t *testing.T) {
	const keyed, keyless = "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint);", "CREATE TABLE rows (id bigint, v text, n bigint);"
	on := fmt.Sprintf(drops, "")
	for name, c := range map[string]struct {
		ddl       string
		cfg       staging.Config[judged]
		want      string // id=v of the target
		conflicts int
	}{
		"no key": {keyless + on, staging.Config[judged]{ID: "id"}, "0=there 1=a 2=b 4=c 4=d 6=e", 0},
		"skip":   {keyed + on, staging.Config[judged]{Key: []string{"id"}}, "0=there 1=a 2=b 4=c 6=e", 1},
		"replace": {keyed + fmt.Sprintf(drops, "OR UPDATE"), staging.Config[judged]{Key: []string{"id"}, Conflict: staging.ConflictReplace},
			"0=there 1=a 2=b 4=d 6=e", 0},
		"replace if": {keyed + on, staging.Config[judged]{Key: []string{"id"}, Conflict: staging.ConflictReplace, ReplaceIf: "EXCLUDED.n > old.n"},
			"0=there 1=a 2=b 4=c 6=e", 1},
		"merges": {keyed + "CREATE TABLE totals (n bigint);" + on,
			staging.Config[judged]{Key: []string{"id"}, Merges: []staging.Merge{{Name: "totals", SQL: "INSERT INTO totals SELECT count(*) FROM promoted"}}},
			"0=there 1=a 2=b 4=c 6=e", 1},
		"a partition's trigger": {"CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint) PARTITION BY RANGE (id); CREATE TABLE p PARTITION OF rows DEFAULT;" + on,
			staging.Config[judged]{Key: []string{"id"}}, "0=there 1=a 2=b 4=c 6=e", 1},
		"a trigger that stores the row itself": {keyed + `CREATE TABLE child (PRIMARY KEY (id)) INHERITS (rows);
			CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.v = 'bad' THEN RAISE EXCEPTION 'no'; ELSIF NEW.v <> 'drop' THEN INSERT INTO child VALUES (NEW.*); END IF; RETURN NULL; END $$;
			CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW WHEN (NEW.v <> 'there') EXECUTE FUNCTION tr();`,
			staging.Config[judged]{Key: []string{"id"}}, "0=there 1=a 2=b 4=c 6=e", 1},
	} {
		t.Run(name, func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
				exec(t, pool, c.ddl+"INSERT INTO rows VALUES (0, 'there', 0)")
				tab := newTable(t, pool, "rows", c.cfg)
				set(tab)
				judgeOnly(t, tab)
				stage(t, tab, load(row(1, "a", 1), row(2, "drop", 1), row(2, "b", 2)), staging.OutcomeStaged) // the second of a key, where the first was dropped
				stage(t, tab, load(row(3, "bad", 1), row(4, "c", 3), row(4, "d", 2), row(5, "drop", 1)), staging.OutcomeStaged)
				p := promote(t, tab)
				stage(t, tab, load(row(6, "e", 1), row(7, "drop", 1)), staging.OutcomeStaged) // the promotion knows the trigger by now
				again := promote(t, tab)
				got := query[string](t, pool, "SELECT string_agg(id || '=' || v, ' ' ORDER BY id, v) FROM rows")
				if got != c.want {
					t.Errorf("the target has %s, want %s", got, c.want)
				}
				want := map[string]string{"2": staging.CodeSuppressed, "3": "sqlstate_P0001", "5": staging.CodeSuppressed, "7": staging.CodeSuppressed}
				if diff := cmp.Diff(want, codes(t, tab)); diff != "" {
					t.Errorf("codes (-want +got):\n%s", diff)
				}
				if p.Conflicts != c.conflicts || p.RejectedByRule != 3 || again.Conflicts != 0 || again.Rows != 1 || again.RejectedByRule != 1 {
					t.Errorf("promotions: %+v, %+v, want %d conflicts and 3 rejects, then 1 row and 1 reject", p, again, c.conflicts)
				}
				before := rejectIDs(t, tab)
				dropped := staging.Correction[judged]{Reject: before["5"], Rows: []judged{row(5, "good", 1), row(8, "drop", 1)}}
				if _, err := tab.Replay(t.Context(), []staging.Correction[judged]{dropped}); !errors.Is(err, staging.ErrLoad) {
					t.Errorf("replaying a row that the trigger drops: got %v, want ErrLoad", err)
				}
				if after := rejectIDs(t, tab); len(after) != len(before) {
					t.Errorf("%d rejects are open, want %d", len(after), len(before))
				}
				if name == "merges" {
					if n := query[int](t, pool, "SELECT sum(n) FROM totals"); n != 4 {
						t.Errorf("the merge has counted %d rows, want 4", n)
					}
				}
				balanced(t, tab)
			})
		})
	}
}

// judgeOnly fails a test of the judge statement if the rows are inserted without it.
func judgeOnly[T any](t *testing.T, tab *staging.Table[T]) {
	if strings.HasSuffix(t.Name(), "/judge") {
		tab.SetHook(func(point string) error {
			if point == "row by row" {
				t.Error("the judge statement did not run")
			}
			return nil
		})
	}
}

// rejectIDs are the ids of the open rejects, by key.
func rejectIDs[T any](t *testing.T, tab *staging.Table[T]) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	for _, r := range must(tab.Rejects(t.Context(), staging.RejectFilter{})) {
		out[r.Key] = r.ID
	}
	return out
}

// A record of several rows is rejected as a whole only if a trigger drops all of them.
func TestATriggerDropsRowsOfARecord(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		exec(t, pool, "CREATE TABLE rows (id bigint, v text, n bigint);"+fmt.Sprintf(drops, ""))
		tab := newTable(t, pool, "rows", staging.Config[judged]{ID: "id"})
		set(tab)
		judgeOnly(t, tab)
		l := load(row(1, "a", 1), row(2, "drop", 1), row(3, "drop", 2), row(4, "drop", 2), row(5, "drop", 3), row(6, "bad", 3), row(7, "b", 4))
		l.Pos, l.Batch.Records = []int32{0, 0, 1, 1, 2, 2, 3}, 4
		stage(t, tab, l, staging.OutcomeStaged)
		promote(t, tab)
		want := map[string]string{"2": staging.CodeSuppressed, "3": staging.CodeSuppressed, "4": staging.CodeSuppressed, "5": "sqlstate_P0001", "6": "sqlstate_P0001"}
		if diff := cmp.Diff(want, codes(t, tab)); diff != "" {
			t.Errorf("codes (-want +got):\n%s", diff)
		}
		var whole []int32
		for _, r := range must(tab.RejectsByBatch(t.Context(), []string{l.Batch.ID}))[l.Batch.ID] {
			whole = append(whole, r.Pos)
		}
		if !cmp.Equal(whole, []int32{1, 2}) {
			t.Errorf("whole records %v, want 1 and 2", whole)
		}
		if got := idsIn(t, pool, "rows"); got != "1 7" {
			t.Errorf("promoted %s, want 1 7", got)
		}
		balanced(t, tab)
	})
}

// PL/pgSQL does not catch a cancelled query with OTHERS, so the judge statement cannot judge a
// trigger that raises its SQLSTATE: also where it has judged a part of the rows before.
func TestATriggerRaisesWhatNoHandlerCatches(t *testing.T) {
	judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
		exec(t, pool, `CREATE TABLE rows (id bigint, v text, n bigint);
			CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.v = 'drop' THEN RETURN NULL; END IF;
				IF NEW.v = 'conflict' THEN RAISE 'refused' USING ERRCODE = '40001'; END IF;
				IF NEW.v = 'cancel' THEN RAISE 'refused' USING ERRCODE = '57014'; END IF;
				RETURN NEW; END $$;
			CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()`)
		tab := newTable(t, pool, "rows", staging.Config[judged]{ID: "id"})
		set(tab)
		stage(t, tab, load(row(1, "a", 1), row(2, "conflict", 2), row(3, "drop", 3), row(4, "b", 4), row(5, "cancel", 5), row(6, "c", 6)), staging.OutcomeStaged)
		promote(t, tab)
		want := map[string]string{"2": "sqlstate_40001", "3": staging.CodeSuppressed, "5": "sqlstate_57014"}
		if diff := cmp.Diff(want, codes(t, tab)); diff != "" {
			t.Errorf("codes (-want +got):\n%s", diff)
		}
		if got := idsIn(t, pool, "rows"); got != "1 4 6" {
			t.Errorf("promoted %s, want 1 4 6", got)
		}
		balanced(t, tab)
	})
}

// A trigger drops rows of a table that refers to itself: also where all rows of a promotion lack
// their parent, and where it drops a row for its parent, which came after it.
func TestATriggerDropsRowsOfATree(t *testing.T) {
	for name, cfg := range map[string]staging.Config[judged]{"key": {Key: []string{"id"}}, "no key": {ID: "id"}} {
		t.Run(name, func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
				exec(t, pool, `CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint REFERENCES rows);
					CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
						IF NEW.v = 'drop' OR (SELECT v FROM rows WHERE id = NEW.n) = 'closed' THEN RETURN NULL; END IF; RETURN NEW; END $$;
					CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()`)
				tab := newTable(t, pool, "rows", cfg)
				set(tab)
				for _, rows := range [][]judged{
					{row(1, "drop", 1)}, // the promotions after it try row by row
					{row(2, "orphan", 99)},
					{row(3, "child", 4), row(4, "closed", 4), row(5, "child", 6), row(6, "open", 6)},
				} {
					stage(t, tab, load(rows...), staging.OutcomeStaged)
					if p := promote(t, tab); p.Conflicts != 0 {
						t.Errorf("%d conflicts, want none", p.Conflicts)
					}
				}
				want := map[string]string{"1": staging.CodeSuppressed, "2": staging.CodeForeign, "3": staging.CodeSuppressed}
				if diff := cmp.Diff(want, codes(t, tab)); diff != "" {
					t.Errorf("codes (-want +got):\n%s", diff)
				}
				if got := idsIn(t, pool, "rows"); got != "4 5 6" {
					t.Errorf("promoted %s, want 4 5 6", got)
				}
				balanced(t, tab)
			})
		})
	}
}

// boxed is a row with a type that has no equality.
type boxed struct {
	ID  int64   `db:"id"`
	V   string  `db:"v"`
	Doc *string `db:"doc"`
}

// A row that the target has already, or that a trigger writes itself, is not dropped.
func TestATriggerKeepsARowThatIsThere(t *testing.T) {
	const table = "CREATE TABLE rows (id bigint PRIMARY KEY, v text, doc json); INSERT INTO rows SELECT i, 'old', '[1]' FROM generate_series(1, 3) i;"
	for name, ddl := range map[string]string{
		"redundant updates": "CREATE TRIGGER tr BEFORE UPDATE ON rows FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();" +
			"CREATE FUNCTION dr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 'drop' THEN RETURN NULL; END IF; RETURN NEW; END $$;" +
			"CREATE TRIGGER dr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION dr()",
		"an upsert": `CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.v <> 'drop' AND pg_trigger_depth() = 1 THEN
					INSERT INTO rows VALUES (NEW.*) ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v, doc = EXCLUDED.doc;
				END IF;
				RETURN CASE WHEN pg_trigger_depth() > 1 THEN NEW END; END $$;
			CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()`,
	} {
		t.Run(name, func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, _ func(*staging.Table[judged])) {
				exec(t, pool, table+ddl)
				tab := newTable(t, pool, "rows", staging.Config[boxed]{Key: []string{"id"}, Conflict: staging.ConflictReplace})
				tab.SetParts(4, 4, strings.HasSuffix(t.Name(), "/judge"))
				judgeOnly(t, tab)
				doc := "[1]"
				stage(t, tab, load(boxed{1, "old", &doc}, boxed{2, "new", nil}), staging.OutcomeStaged)
				promote(t, tab)
				if got := codes(t, tab); len(got) > 0 {
					t.Errorf("rejected %v, want none", got)
				}
				stage(t, tab, load(boxed{1, "old", &doc}, boxed{2, "newer", &doc}, boxed{3, "drop", nil}, boxed{4, "drop", nil}, boxed{5, "e", nil}), staging.OutcomeStaged)
				promote(t, tab)
				if diff := cmp.Diff(map[string]string{"3": staging.CodeSuppressed, "4": staging.CodeSuppressed}, codes(t, tab)); diff != "" {
					t.Errorf("codes (-want +got):\n%s", diff)
				}
				if got := query[string](t, pool, "SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM rows"); got != "1=old 2=newer 3=old 5=e" {
					t.Errorf("the target has %s", got)
				}
				fix := []staging.Correction[boxed]{{Reject: rejectIDs(t, tab)["3"], Rows: []boxed{{1, "old", &doc}}}}
				if _, err := tab.Replay(t.Context(), fix); err != nil {
					t.Errorf("replaying a row that is there: %v", err)
				}
				balanced(t, tab)
			})
		})
	}
}
