package staging_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// line is an order line: a record makes several rows.
type line struct {
	Doc    string  `db:"doc"`
	No     int32   `db:"no"`
	Amount *int64  `db:"amount"`
	Shop   *string `db:"shop"`
}

func amount(n int64) *int64 { return &n }

func TestRulesAndConstraints(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE shops (name text PRIMARY KEY); INSERT INTO shops VALUES ('north'), ('south');
		CREATE TABLE lines (doc text, no int, amount bigint NOT NULL CONSTRAINT positive CHECK (amount > 0), shop text REFERENCES shops DEFERRABLE INITIALLY DEFERRED, PRIMARY KEY (doc, no));
		CREATE TABLE sums (doc text PRIMARY KEY, total bigint)`)
	tab := newTable(t, pool, "lines", staging.Config[line]{Key: []string{"doc", "no"}, ID: "doc",
		Rules:  []staging.Rule{{Code: "odd", Reason: "it's 100% odd \\", Where: "amount % 2 = 1"}, {Code: "unlucky", Where: "s.no = 13"}},
		Merges: []staging.Merge{{Name: "sums", SQL: `INSERT INTO sums SELECT doc, sum(amount) FROM promoted GROUP BY doc ORDER BY doc ON CONFLICT (doc) DO UPDATE SET total = sums.total + EXCLUDED.total`}},
	})
	west, north := "west", "north"
	l := staging.Load[line]{Batch: load[line](line{}).Batch, Rows: []line{
		{"a", 1, amount(2), nil}, {"a", 2, amount(4), &north}, // record 0: good
		{"b", 1, amount(3), nil}, {"b", 2, amount(4), nil}, // record 1: one row odd, one good
		{"c", 1, nil, nil}, {"c", 2, amount(-2), nil}, // record 2: all rejected, each for its own reason
		{"d", 1, amount(2), &west},  // record 3: no such shop
		{"e", 13, amount(2), nil},   // record 4: unlucky
		{"f", 13, amount(101), nil}, // record 5: odd comes first
	}, Pos: []int32{0, 0, 1, 1, 2, 2, 3, 4, 5}}
	l.Batch.Records, l.Batch.Offset = 6, 10
	stage(t, tab, l, staging.OutcomeStaged)
	p := promote(t, tab)
	if p.Rows != 3 || p.RejectedByRule != 6 || p.Kept != 6 || p.Conflicts != 0 {
		t.Errorf("promotion: %+v", p)
	}
	r, err := tab.RejectsByBatch(t.Context(), []string{l.Batch.ID})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, x := range r[l.Batch.ID] {
		got[x.Key] = x.Code
		if x.Place != 10+int(x.Pos) || x.Root != l.Batch.ID {
			t.Errorf("place: %+v", x)
		}
	}
	// b is not among them: one of its rows went through, so its claim stays.
	want := map[string]string{"c": staging.CodeNotNull, "d": staging.CodeForeign, "e": "unlucky", "f": "odd"}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("record %s: %q, want %q", k, got[k], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("rejected: %v", got)
	}
	if s := query[string](t, pool, "SELECT string_agg(doc || total, ' ' ORDER BY doc) FROM sums"); s != "a6 b4" {
		t.Errorf("roll-up: %s", s)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM lines_rejects WHERE code = 'odd' AND reason = $1 AND row->>'doc' = 'b' AND NOT whole", "it's 100% odd \\"); n != 1 {
		t.Error("the odd row of b is not in the rejects table")
	}
	balanced(t, tab)
}

// A refusal that no rule foresees (a trigger, a second unique index) costs the record, not the
// batch, and roll-ups stay right.
func TestTheTargetRefusesARow(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE items (id text PRIMARY KEY, n bigint, note text UNIQUE, at timestamptz); CREATE TABLE total (one int PRIMARY KEY, n bigint);
		CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.n = 77 THEN RAISE EXCEPTION 'no 77' USING ERRCODE = '22023'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER no BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION no()`)
	tab := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}, Merges: []staging.Merge{{Name: "m",
		SQL: "INSERT INTO total SELECT 1, count(*) FROM promoted ON CONFLICT (one) DO UPDATE SET n = total.n + EXCLUDED.n"}}})
	a, b := load(items("a", 100)...), load(items("b", 100)...)
	note := "same"
	a.Rows[5].Note, b.Rows[6].Note = &note, &note
	stage(t, tab, a, staging.OutcomeStaged)
	stage(t, tab, b, staging.OutcomeStaged)
	p := promote(t, tab)
	if p.Rows != 197 || p.RejectedByRule != 3 || p.Conflicts != 0 || len(p.Batches) != 2 {
		t.Errorf("promotion: %+v", p)
	}
	r := map[string][]staging.StoredReject{}
	for _, id := range []string{a.Batch.ID, b.Batch.ID} {
		list, err := tab.Rejects(t.Context(), staging.RejectFilter{Batch: id})
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(list, func(x, y staging.StoredReject) int { return int(x.Pos - y.Pos) })
		r[id] = list
	}
	for _, id := range []string{a.Batch.ID, b.Batch.ID} {
		last := len(r[id]) - 1
		if last < 0 || r[id][last].Pos != 77 || r[id][last].Code != "sqlstate_22023" || r[id][last].Reason != "no 77" {
			t.Errorf("rejects: %+v", r[id])
		}
	}
	if x := r[b.Batch.ID]; len(x) != 2 || x[0].Pos != 6 || x[0].Code != staging.CodeUnique || !strings.Contains(x[0].Reason, "items_note_key") ||
		!strings.Contains(string(x[0].Payload), `"note":"same"`) {
		t.Errorf("the row of another's note: %+v", x)
	}
	if n := query[int](t, pool, "SELECT n FROM total"); n != 197 {
		t.Errorf("roll-up: %d", n)
	}
	balanced(t, tab)
}

// The target's columns may have any name, also one that our statements might use.
func TestRulesOnColumnsWithOurNames(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	cols := []string{"id", "v", "x", "n", "no", "pos", "s", "j", "w", "e", "t", "r", "tid", "whole", "ours", "batch", "root", "place", "code", "old"}
	ddl := "CREATE TABLE keyed (" + strings.Join(cols, " bigint, ") + " bigint, PRIMARY KEY (v, id))"
	exec(t, pool, ddl+`; CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 2 THEN RAISE EXCEPTION 'two' USING ERRCODE = '22023'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER no BEFORE INSERT ON keyed FOR EACH ROW EXECUTE FUNCTION no()`)
	cfg := staging.Config[keyed]{Key: []string{"v", "id"}, ID: "id", Rules: []staging.Rule{{Code: "one", Reason: "one", Where: "s = 1 AND s.x = 1"}}, Fill: func(v *keyed, r *staging.Row) {
		for range cols {
			r.Value(v.k)
		}
	}}
	for _, c := range cols {
		cfg.Columns = append(cfg.Columns, staging.Column{Name: c})
	}
	tab := newTable(t, pool, "keyed", cfg)
	l := load(keyed{int64(0)}, keyed{int64(1)}, keyed{int64(2)}, keyed{int64(3)}, keyed{int64(3)}, keyed{int64(1)})
	l.Pos, l.Batch.Records = []int32{0, 1, 2, 3, 3, 3}, 4 // record 3 has three rows
	stage(t, tab, l, staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 2 || p.Conflicts != 1 || p.RejectedByRule != 3 {
		t.Errorf("%+v", p)
	}
	if got := query[string](t, pool, `SELECT string_agg(pos || code || whole || ("row"->>'x') || ("row"->>'old'), ' ' ORDER BY pos) FROM keyed_rejects`); got != "1onetrue11 2sqlstate_22023true22 3onefalse11" {
		t.Error(got)
	}
	balanced(t, tab)
}

// Every row of many large batches is rejected, as with an empty lookup table. It takes seconds;
// with records that hash badly it took minutes.
func TestEveryRowOfManyBatchesIsRejected(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := newTable(t, pool, "pairs", staging.Config[pair]{Create: true, Key: []string{"id"}, Rules: []staging.Rule{{Code: "no", Reason: "none", Where: "id >= 0"}}})
	const batches, size = 100, 5000
	rows := make([]pair, size)
	for b := range batches {
		for i := range rows {
			rows[i].ID = int64(b*size + i)
		}
		stage(t, tab, load(rows...), staging.OutcomeStaged)
	}
	p, err := tab.Promote(t.Context(), staging.PromoteOptions{Timeout: 90 * time.Second})
	if err != nil || p.Rows != 0 || p.RejectedByRule != batches*size {
		t.Fatalf("%d rows, %d rejected, %v", p.Rows, p.RejectedByRule, err)
	}
	balanced(t, tab)
}

// A batch may have 2^30 records, and a reject has the position of its record.
func TestRejectsAtEveryPosition(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE items (id text PRIMARY KEY, n bigint, note text, at timestamptz);
		CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.n % 2 = 0 THEN RAISE EXCEPTION 'even' USING ERRCODE = '22023'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER no BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION no()`)
	tab := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}, Rules: []staging.Rule{{Code: "three", Reason: "a multiple of three", Where: "n % 3 = 0"}}})
	stage(t, tab, load(items("a", 2)...), staging.OutcomeStaged) // so that the other is not the first of its side
	l := load(items("b", 6)...)
	l.Pos = []int32{0, 255, 256, 65_536, 1<<30 - 2, 1<<30 - 1}
	l.Batch.Records, l.Batch.Offset = 1<<30, 1<<29
	l.Filtered = l.Batch.Records - len(l.Rows)
	stage(t, tab, l, staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 3 || p.RejectedByRule != 5 || len(p.Batches) != 2 {
		t.Errorf("%+v", p)
	}
	got, err := tab.RejectsByBatch(t.Context(), []string{l.Batch.ID})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, r := range got[l.Batch.ID] {
		found = append(found, fmt.Sprint(r.Pos, " ", r.Place, " ", r.Code))
	}
	want := []string{"0 536870912 three", "256 536871168 sqlstate_22023", "65536 536936448 three", "1073741822 1610612734 sqlstate_22023"}
	if !slices.Equal(found, want) {
		t.Errorf("found %q, want %q", found, want)
	}
	balanced(t, tab)
}

func TestConflictReplace(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}, Conflict: staging.ConflictReplace, Newer: "n"})
	stage(t, tab, load(items("a", 10)...), staging.OutcomeStaged)
	promote(t, tab)
	older, newer := items("a", 10), items("a", 10)
	for i := range newer {
		older[i].N -= 5
		newer[i].N += 5
	}
	stage(t, tab, load(append(newer, older...)...), staging.OutcomeStaged) // the newer come first and win all the same
	if p := promote(t, tab); p.Rows != 10 || p.Conflicts != 10 {
		t.Errorf("%+v", p)
	}
	stage(t, tab, load(older...), staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 0 || p.Conflicts != 10 {
		t.Errorf("%+v", p)
	}
	if n := query[int](t, pool, "SELECT sum(n)::int FROM items"); n != 45+50 {
		t.Errorf("sum: %d", n)
	}
	last := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}, Conflict: staging.ConflictReplace})
	stage(t, last, load(append(newer, older...)...), staging.OutcomeStaged) // without Newer the last one wins
	if p := promote(t, last); p.Rows != 10 || p.Conflicts != 10 {
		t.Errorf("%+v", p)
	}
	if n := query[int](t, pool, "SELECT sum(n)::int FROM items"); n != 45-50 {
		t.Errorf("sum: %d", n)
	}
	balanced(t, last)
}

// Of rows that are equal by Newer the first one stays, and of those without a value the last one,
// however they are divided into promotions.
func TestRowsThatAreEqualByNewer(t *testing.T) {
	t.Parallel()
	type ranked struct {
		ID   int64  `db:"id"`
		Rank *int64 `db:"rank"`
		V    string `db:"v"`
	}
	one, two := int64(1), int64(2)
	rows := []ranked{{1, &one, "a"}, {1, &one, "b"}, {2, nil, "a"}, {2, nil, "b"}, {3, nil, "a"}, {3, &one, "b"}, {3, &two, "c"}, {3, &two, "d"}, {3, nil, "e"}}
	pool := servertest.Postgres(t)
	for i, size := range []int{1, 2, 3, len(rows)} {
		table := fmt.Sprintf("rows%d", i)
		exec(t, pool, "CREATE TABLE "+table+" (id bigint PRIMARY KEY, rank bigint, v text)")
		tab := newTable(t, pool, table, staging.Config[ranked]{Key: []string{"id"}, Conflict: staging.ConflictReplace, Newer: "rank"})
		for part := range slices.Chunk(rows, size) {
			stage(t, tab, load(part...), staging.OutcomeStaged)
			promote(t, tab)
		}
		if got := query[string](t, pool, "SELECT string_agg(id || v, ' ' ORDER BY id) FROM "+table); got != "1a 2b 3c" {
			t.Errorf("%d rows in each promotion: the target has %s, want 1a 2b 3c", size, got)
		}
		balanced(t, tab)
	}
}

func TestReplaceIf(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}, Conflict: staging.ConflictReplace, Newer: "n",
		ReplaceIf: "old.note IS DISTINCT FROM 'final' OR EXCLUDED.note = 'reopened'"})
	final, reopened := "final", "reopened"
	for i, step := range []struct {
		n    int64
		note *string
		want bool
	}{{1, nil, true}, {3, &final, true}, {4, nil, false}, {2, &reopened, false}, {5, &reopened, true}, {6, nil, true}} {
		stage(t, tab, load(item{ID: "a", N: step.n, Note: step.note, At: noon}), staging.OutcomeStaged)
		if p := promote(t, tab); (p.Rows == 1) != step.want || p.Rows+p.Conflicts != 1 {
			t.Errorf("step %d: %+v", i, p)
		}
	}
	if n := query[int](t, pool, "SELECT n FROM items"); n != 6 {
		t.Errorf("n is %d", n)
	}
	balanced(t, tab)
	_, err := staging.New(t.Context(), pool, "items", staging.Config[item]{Key: []string{"id"}, Conflict: staging.ConflictReplace, ReplaceIf: "old.nothing > 1"})
	if err == nil || !strings.Contains(err.Error(), "Config.ReplaceIf (old.nothing > 1)") {
		t.Errorf("a condition that cannot be planned: %v", err)
	}
	if _, err := staging.New(t.Context(), pool, "items", staging.Config[item]{Key: []string{"id"}, ReplaceIf: "true"}); !errors.Is(err, staging.ErrConfig) {
		t.Errorf("without Replace: %v", err)
	}
	exec(t, pool, "CREATE TABLE keyed (k text PRIMARY KEY)")
	_, err = staging.New(t.Context(), pool, "keyed", staging.Config[keyed]{Key: []string{"k"}, Columns: []staging.Column{{Name: "k"}}, Fill: func(*keyed, *staging.Row) {},
		Conflict: staging.ConflictReplace, ReplaceIf: "true"})
	if !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), "nothing is left to replace") {
		t.Errorf("all columns are the key: %v", err)
	}
}

func TestConflictFail(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}, Conflict: staging.ConflictFail})
	for name, second := range map[string][]item{
		"there": items("a", 10), "alone": items("a", 1), "within": append(items("b", 3), items("b", 1)...),
	} {
		exec(t, pool, "TRUNCATE items")
		stage(t, tab, load(items("a", 10)...), staging.OutcomeStaged)
		promote(t, tab)
		stage(t, tab, load(items("fresh", 2)...), staging.OutcomeStaged)
		l := load(second...)
		l.Batch.Root, l.Batch.Offset = staging.NewBatchID(), 40
		stage(t, tab, l, staging.OutcomeStaged)
		_, err := tab.Promote(t.Context(), staging.PromoteOptions{})
		first := map[string]int{"there": 0, "alone": 0, "within": 3}[name]
		want := &staging.ConflictError{Table: `"public"."items"`, Rows: map[string]int{"there": 10, "alone": 1, "within": 1}[name], Batch: l.Batch.ID, Pos: int32(first),
			Key: fmt.Sprintf(`{"id":%q}`, second[first].ID), Root: l.Batch.Root, Place: 40 + first}
		var got *staging.ConflictError
		if !errors.Is(err, staging.ErrConflict) || !errors.As(err, &got) || *got != *want {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
		if f := fates(t, tab, l.Batch.ID); f[0] != staging.FateStaged {
			t.Errorf("%s: %v", name, f)
		}
		count(t, pool, 10)
		if f, err := tab.Void(t.Context(), l.Batch); err != nil || f != staging.FateVoid { // the way out
			t.Error(f, err)
		}
		promote(t, tab)
	}
}

// The plan for keys that are in the target finds them at either end of what is staged, whatever
// their type. If it missed one, the insert would fail and be repeated row by row.
func TestKeysOfEveryTypeAreFound(t *testing.T) {
	t.Parallel()
	type keyed struct {
		K any   `db:"k"`
		N int64 `db:"n"`
	}
	for i, typ := range []string{"text", "text COLLATE \"C\"", "varchar(9)", "char(9)", "bigint", "smallint", "numeric(20,3)", "uuid", "timestamptz", "timestamp", "date", "double precision", "bytea"} {
		pool := servertest.Postgres(t)
		exec(t, pool, "CREATE TABLE items (n bigint, k "+typ+", PRIMARY KEY (k, n))")
		exec(t, pool, fmt.Sprintf("ALTER DATABASE %s SET DateStyle = 'German'", pool.Config().ConnConfig.Database))
		pool.Reset()
		tab := newTable(t, pool, "items", staging.Config[keyed]{Key: []string{"n", "k"}})
		rows := make([]keyed, 100)
		for j := range rows {
			rows[j].N = int64(j % 7)
			switch {
			case typ == "uuid":
				rows[j].K = [16]byte{byte(j), 0xa9}
			case typ == "bytea":
				rows[j].K = []byte{byte(j), 0, '\''}
			case i < 4:
				rows[j].K = fmt.Sprintf("'\\%02d", j)
			case i < 7:
				rows[j].K = int64(j - 50)
			case typ == "double precision":
				rows[j].K = 1 / float64(j-50)
			default:
				rows[j].K = noon.AddDate(0, 0, j-50)
			}
		}
		stage(t, tab, load(rows[0], rows[50], rows[99]), staging.OutcomeStaged)
		promote(t, tab)
		tab.SetHook(func(p string) error {
			if p == "carefully" {
				t.Errorf("%s: a key was overlooked", typ)
			}
			return nil
		})
		stage(t, tab, load(rows[:40]...), staging.OutcomeStaged)
		stage(t, tab, load(rows[40:]...), staging.OutcomeStaged)
		if p := promote(t, tab); p.Rows != 97 || p.Conflicts != 3 {
			t.Errorf("%s: %+v", typ, p)
		}
		balanced(t, tab)
	}
}

// Another writer inserts a key between the promotion's statements: the promotion starts again and
// counts a conflict.
func TestAWriterOutside(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	stage(t, tab, load(items("a", 10)...), staging.OutcomeStaged)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO items VALUES ('a-0003', 1, '', now())"); err != nil {
		t.Fatal(err)
	}
	p := background(func() (staging.PromoteResult, error) { return tab.Promote(t.Context(), staging.PromoteOptions{}) })
	untilWaiting(t, pool)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := (<-p).must(t); got.Rows != 9 || got.Conflicts != 1 {
		t.Errorf("%+v", got)
	}
	count(t, pool, 10)
	balanced(t, tab)
}

func TestRejectsAreRowsToWorkWith(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := newTable(t, pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}, Rules: []staging.Rule{{Code: "low", Reason: "too low", Where: "n < 3"}}})
	l := load(items("a", 10)...)
	l.Rejects, l.Batch.Records = []staging.Reject{{Pos: 10, Key: "raw", Code: "parse", Reason: "no JSON", Payload: []byte("{")}}, 11
	stage(t, tab, l, staging.OutcomeStaged)
	promote(t, tab)
	list := func(f staging.RejectFilter) []staging.StoredReject {
		t.Helper()
		r, err := tab.Rejects(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := list(staging.RejectFilter{}); len(r) != 4 || r[3].Place != 2 && r[0].Place != 10 {
		t.Errorf("all: %+v", r)
	}
	if r := list(staging.RejectFilter{Code: "parse"}); len(r) != 1 || r[0].Key != "raw" || string(r[0].Payload) != "{" || r[0].Batch != l.Batch.ID || r[0].Source != "stage" {
		t.Errorf("by code: %+v", r)
	}
	low := list(staging.RejectFilter{Code: "low", Limit: 2})
	if next := list(staging.RejectFilter{Code: "low", After: low[1].ID}); len(low) != 2 || len(next) != 1 {
		t.Errorf("pages: %+v, %+v", low, next)
	}
	// Correct two, and give up one.
	var fixed []staging.Correction[item]
	for _, r := range low {
		fixed = append(fixed, staging.Correction[item]{Reject: r.ID, Rows: []item{{ID: r.Key, N: 100, At: noon}}})
	}
	got, err := tab.Replay(t.Context(), fixed)
	if err != nil || got.Rows != 2 {
		t.Fatal(got, err)
	}
	if again, err := tab.Replay(t.Context(), fixed); err != nil || again.Rows != 0 || again.Records != 0 {
		t.Errorf("a second replay: %+v, %v", again, err)
	}
	n, err := tab.Resolve(t.Context(), list(staging.RejectFilter{Code: "parse"})[0].ID)
	if err != nil || n != 1 {
		t.Error(n, err)
	}
	if r := list(staging.RejectFilter{}); len(r) != 1 {
		t.Errorf("left: %+v", r)
	}
	if r := list(staging.RejectFilter{Resolved: true}); len(r) != 4 {
		t.Errorf("with the resolved: %+v", r)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM items WHERE n = 100"); n != 2 {
		t.Errorf("%d corrected rows", n)
	}
	if b := balanced(t, tab); b.Records != 13 || b.Rows != 9 {
		t.Errorf("%+v", b)
	}
}
