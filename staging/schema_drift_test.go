package staging_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

type number struct {
	ID int64 `db:"id"`
	V  int64 `db:"v"`
}

func numbers(t *testing.T, pool *pgxpool.Pool) *staging.Table[number] {
	t.Helper()
	return newTable(t, pool, "nums", staging.Config[number]{Key: []string{"id"}})
}

// intact fails if the target holds anything but the numbers as they were staged, or a reject.
func intact(t *testing.T, pool *pgxpool.Pool, want string) {
	t.Helper()
	if got := query[string](t, pool, "SELECT coalesce(string_agg(id || '=' || trim_scale(v::numeric), ' ' ORDER BY id), '') FROM nums"); got != want {
		t.Errorf("the target has %q, want %q", got, want)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM nums_rejects"); n != 0 {
		t.Errorf("%d rejects, want 0", n)
	}
}

func isDrift(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if !errors.Is(err, staging.ErrDrift) {
		t.Errorf("%s: got %v, want ErrDrift", what, err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v lacks %q", what, err, w)
		}
	}
}

// A column is retyped, and a program of the new version has started. The old one's COPY would write
// the bytes of one type into the other.
func TestARetypedColumnStopsTheOldProgram(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"double precision", "integer", "numeric", "smallint", "numeric(20, 2)"} {
		t.Run(to, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint)")
			old := numbers(t, pool)
			stage(t, old, load(number{1, 41}), staging.OutcomeStaged)
			promote(t, old)
			exec(t, pool, "ALTER TABLE nums ALTER COLUMN v TYPE "+to)
			current := numbers(t, pool)
			_, err := old.Stage(t.Context(), load(number{2, 42}, number{3, 43}))
			isDrift(t, "the old program stages", err, `"v"`, "bigint", "nums_staging")
			stage(t, current, load(number{4, 44}), staging.OutcomeStaged)
			_, err = old.Promote(t.Context(), staging.PromoteOptions{})
			if to != "numeric" { // holds every bigint: the promotion converts nothing wrongly
				isDrift(t, "the old program promotes", err, `"v"`)
			} else if err != nil {
				t.Errorf("the old program promotes: %v", err)
			}
			promote(t, current)
			intact(t, pool, "1=41 4=44")
			balanced(t, current)
		})
	}
}

// The target is altered while something is staged: it is not promoted with another meaning, and can
// be given back.
func TestATargetAlteredUnderStagedRows(t *testing.T) {
	t.Parallel()
	for name, alter := range map[string]string{
		"retyped": "ALTER TABLE nums ALTER COLUMN v TYPE double precision", "narrowed": "ALTER TABLE nums ALTER COLUMN v TYPE smallint",
		"to text": "ALTER TABLE nums ALTER COLUMN v TYPE text", "dropped": "ALTER TABLE nums DROP COLUMN v",
		"renamed": "ALTER TABLE nums RENAME COLUMN v TO w", "required": "ALTER TABLE nums ADD COLUMN w int NOT NULL",
		"generated": "ALTER TABLE nums DROP COLUMN v, ADD COLUMN v bigint GENERATED ALWAYS AS (1) STORED",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint)")
			tab := numbers(t, pool)
			l := load(number{1, 41})
			stage(t, tab, l, staging.OutcomeStaged)
			exec(t, pool, alter)
			_, err := tab.Promote(t.Context(), staging.PromoteOptions{})
			isDrift(t, "promote", err)
			epoch, err := tab.Epoch(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ids, err := staging.DiscardStaged(t.Context(), pool, "nums")
			if err != nil || len(ids) != 1 || ids[0] != l.Batch.ID {
				t.Errorf("discarded %v, %v, want %s", ids, err, l.Batch.ID)
			}
			if f := fates(t, tab, l.Batch.ID); f[0] != staging.FateUnknown {
				t.Errorf("the batch is %v, want unknown: it has to be delivered again", f[0])
			}
			if again, err := tab.Epoch(t.Context()); err != nil || again == epoch {
				t.Errorf("the epoch is still %s (%v)", again, err)
			}
			if n := query[int](t, pool, "SELECT count(*) FROM nums"); n != 0 {
				t.Errorf("%d rows in the target, want 0", n)
			}
		})
	}
}

// A timestamp becomes a timestamptz: the same digits would be another instant.
func TestATimestampThatGetsAZone(t *testing.T) {
	t.Parallel()
	type at struct {
		ID int64     `db:"id"`
		T  time.Time `db:"t"`
	}
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE times (id bigint PRIMARY KEY, t timestamp)")
	cfg := staging.Config[at]{Key: []string{"id"}}
	old := newTable(t, pool, "times", cfg)
	when := time.Date(2026, 1, 2, 12, 0, 0, 0, time.FixedZone("", 5*3600))
	stage(t, old, load(at{1, when}), staging.OutcomeStaged)
	exec(t, pool, "ALTER TABLE times ALTER COLUMN t TYPE timestamptz")
	_, err := staging.New(t.Context(), pool, "times", cfg)
	isDrift(t, "a new program", err, "DiscardStaged", "timestamp without time zone")
	if _, err := staging.DiscardStaged(t.Context(), pool, "times"); err != nil {
		t.Fatal(err)
	}
	current := newTable(t, pool, "times", cfg)
	_, err = old.Stage(t.Context(), load(at{2, when}))
	isDrift(t, "the old program", err)
	stage(t, current, load(at{1, when}), staging.OutcomeStaged)
	promote(t, current)
	if got := query[time.Time](t, pool, "SELECT t FROM times"); !got.Equal(when) {
		t.Errorf("%v became %v", when, got)
	}
}

// A column with a default is added. A rolling deploy: old workers go on, and their rows get the
// default, those that are staged already and those that come; an old promoter stops, because it
// would lose the new column.
func TestRollingDeployOfANewColumn(t *testing.T) {
	t.Parallel()
	type wide struct {
		number
		Region string `db:"region"`
	}
	for _, def := range []string{"text NOT NULL DEFAULT 'eu'", "text DEFAULT 'eu'", "varchar(5) COLLATE \"C\" DEFAULT lower('EU')"} {
		t.Run(def, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint)")
			old := numbers(t, pool)
			stage(t, old, load(number{1, 1}), staging.OutcomeStaged)
			exec(t, pool, "ALTER TABLE nums ADD COLUMN region "+def) // step 1: the target
			stage(t, old, load(number{2, 2}), staging.OutcomeStaged)
			promote(t, old) // it leaves the column out, and Postgres fills it in
			stage(t, old, load(number{3, 3}), staging.OutcomeStaged)
			wider := newTable(t, pool, "nums", staging.Config[wide]{Key: []string{"id"}}) // step 2: the new version, with the old one running
			stage(t, old, load(number{4, 4}), staging.OutcomeStaged)
			stage(t, wider, load(wide{number{5, 5}, "us"}), staging.OutcomeStaged)
			_, err := old.Promote(t.Context(), staging.PromoteOptions{})
			isDrift(t, "the old promoter", err, `"region"`)
			if p := promote(t, wider); p.Rows != 3 || p.RejectedByRule != 0 {
				t.Errorf("promoted %d rows, rejected %d, want 3 and 0", p.Rows, p.RejectedByRule)
			}
			exec(t, pool, "ALTER TABLE nums ALTER COLUMN region SET DEFAULT 'uk'") // and the default changes
			newTable(t, pool, "nums", staging.Config[wide]{Key: []string{"id"}})
			stage(t, old, load(number{6, 6}), staging.OutcomeStaged)
			promote(t, wider)
			got := query[string](t, pool, "SELECT string_agg(id || region, ' ' ORDER BY id) FROM nums")
			if want := "1eu 2eu 3eu 4eu 5us 6uk"; got != want {
				t.Errorf("the target has %q, want %q", got, want)
			}
			intact(t, pool, "1=1 2=2 3=3 4=4 5=5 6=6")
			balanced(t, wider)
		})
	}
}

// Two shapes on one target: the first program gets an error, and no wrong value.
func TestTwoShapesOnOneTarget(t *testing.T) {
	t.Parallel()
	type a struct {
		ID int64  `db:"id"`
		A  string `db:"a"`
	}
	type b struct {
		ID int64  `db:"id"`
		B  string `db:"b"`
	}
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE items (id bigint PRIMARY KEY, a text, b text)")
	first := newTable(t, pool, "items", staging.Config[a]{Key: []string{"id"}})
	second := newTable(t, pool, "items", staging.Config[b]{Key: []string{"id"}})
	_, err := first.Stage(t.Context(), load(a{1, "x"}))
	isDrift(t, "stage", err, `"a" is missing`)
	stage(t, second, load(b{1, "y"}), staging.OutcomeStaged)
	_, err = first.Promote(t.Context(), staging.PromoteOptions{})
	isDrift(t, "promote", err)
	promote(t, second)
	if got := query[string](t, pool, "SELECT concat_ws(' ', id, coalesce(a, 'none'), b) FROM items"); got != "1 none y" {
		t.Errorf("the row is %q", got)
	}
}

// The target changes while a promotion waits for its side's lock.
func TestTheTargetChangesDuringAPromotion(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint)")
	tab, slow := numbers(t, pool), numbers(t, pool)
	stage(t, tab, load(number{1, 1}), staging.OutcomeStaged)
	reached, goOn := stopAt(t, slow, "before commit")
	staged := background(func() (staging.Outcome, error) { return slow.Stage(t.Context(), load(number{2, 2})) })
	<-reached
	promoted := background(func() (staging.PromoteResult, error) { return tab.Promote(t.Context(), staging.PromoteOptions{}) })
	untilWaiting(t, pool)
	exec(t, pool, "ALTER TABLE nums ALTER COLUMN v TYPE integer")
	goOn()
	(<-staged).must(t)
	isDrift(t, "the promotion that waited", (<-promoted).err, `"v"`)
	intact(t, pool, "")
}

// Names of batches that were discarded are those of both sides.
func TestDiscardStaged(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	want := map[string]bool{}
	for i := range 3 {
		l := load(items(fmt.Sprint(i), 2)...)
		stage(t, tab, l, staging.OutcomeStaged)
		want[l.Batch.ID] = true
		if i == 0 { // the other side is the open one from here on
			exec(t, pool, "UPDATE items_control SET open = 'b'")
		}
	}
	ids, err := staging.DiscardStaged(t.Context(), pool, "items")
	if err != nil || len(ids) != 3 {
		t.Fatalf("discarded %v, %v, want 3", ids, err)
	}
	for _, id := range ids {
		if !want[id] {
			t.Errorf("discarded %s, which was not staged", id)
		}
	}
	if p := promote(t, tab); len(p.Batches) != 0 {
		t.Errorf("promoted %v, want nothing", p.Batches)
	}
	stage(t, tab, load(items("again", 2)...), staging.OutcomeStaged)
	promote(t, tab)
	count(t, pool, 2)
	if _, err := staging.DiscardStaged(t.Context(), pool, "nosuch"); !errors.Is(err, staging.ErrNoTarget) {
		t.Errorf("got %v, want ErrNoTarget", err)
	}
}

// A transaction of the caller's may have any isolation, and a snapshot from before a column was
// retyped. StageTx compares the columns that its COPY meets.
func TestStageTxComparesTheColumnsOfNow(t *testing.T) {
	t.Parallel()
	for _, isolation := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		for what, alter := range map[string]string{
			"retyped": "ALTER TABLE %s ALTER COLUMN v TYPE double precision", "dropped": "ALTER TABLE %s DROP COLUMN v",
		} {
			t.Run(string(isolation)+"/"+what, func(t *testing.T) {
				t.Parallel()
				pool := servertest.Postgres(t)
				exec(t, pool, "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint)")
				tab := numbers(t, pool)
				tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: isolation})
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Rollback(context.Background()) //nolint:errcheck // nothing is kept
				if _, err := tx.Exec(t.Context(), "SELECT count(*) FROM nums"); err != nil {
					t.Fatal(err)
				}
				for _, side := range []string{"nums_staging_a", "nums_staging_b"} {
					exec(t, pool, fmt.Sprintf(alter, side))
				}
				_, err = tab.StageTx(t.Context(), tx, load(number{1, 41}))
				isDrift(t, "StageTx", err, `"v"`, "nums_staging_a")
			})
		}
	}
}

// A column is being retyped while Stage begins. Stage compares the columns after it has waited.
func TestStageWaitsForAColumnThatIsRetyped(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint)")
	tab := numbers(t, pool)
	stage(t, tab, load(number{1, 41}), staging.OutcomeStaged) // it knows the columns
	promote(t, tab)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // committed below
	for _, side := range []string{"nums_staging_a", "nums_staging_b"} {
		if _, err := tx.Exec(t.Context(), "ALTER TABLE "+side+" ALTER COLUMN v TYPE double precision"); err != nil {
			t.Fatal(err)
		}
	}
	staged := background(func() (staging.Outcome, error) { return tab.Stage(t.Context(), load(number{2, 42})) })
	untilWaiting(t, pool)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	isDrift(t, "Stage", (<-staged).err, `"v"`, "double precision")
}

// A caller's session may print identifiers, numbers and times in any way and have any search path:
// the columns are the same.
func TestStageTxUnderAnySettings(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('glad'); CREATE DOMAIN app.small AS numeric(6, 2); CREATE COLLATION app.plain FROM "C";
		CREATE TABLE app.days (id bigint PRIMARY KEY, mood app.mood, sum app.small, ratio float8, at timestamptz, raw bytea, note text COLLATE app.plain, moods app.mood[])`)
	type day struct {
		ID    int64     `db:"id"`
		Mood  string    `db:"mood"`
		Sum   string    `db:"sum"`
		Ratio float64   `db:"ratio"`
		At    time.Time `db:"at"`
		Raw   []byte    `db:"raw"`
		Note  string    `db:"note"`
		Moods []string  `db:"moods"`
	}
	tab := newTable(t, pool, "app.days", staging.Config[day]{Key: []string{"id"}})
	for i, isolation := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		err := pgx.BeginTxFunc(t.Context(), pool, pgx.TxOptions{IsoLevel: isolation}, func(tx pgx.Tx) error {
			for _, set := range []string{"quote_all_identifiers = on", `search_path = ''`, "extra_float_digits = -15", "bytea_output = escape", "DateStyle = 'SQL, DMY'",
				"IntervalStyle = sql_standard", "TimeZone = 'Asia/Kolkata'", "standard_conforming_strings = off", "lc_numeric = 'C'"} {
				if _, err := tx.Exec(t.Context(), "SET LOCAL "+set); err != nil {
					return err
				}
			}
			out, err := tab.StageTx(t.Context(), tx, load(day{int64(i), "glad", "1.25", 0.1, noon, []byte{0, 0xff}, `a\b`, []string{"glad"}}))
			if out != staging.OutcomeStaged {
				t.Errorf("%s: got %v, want %v", isolation, out, staging.OutcomeStaged)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	promote(t, tab)
	const want = `SELECT count(*) FROM app.days WHERE mood = 'glad' AND sum = 1.25 AND ratio = float8 '0.1' AND at = $1 AND raw = decode('00ff', 'hex') AND note = $2 AND moods = '{glad}'`
	if n := query[int](t, pool, want, noon, `a\b`); n != 3 {
		t.Errorf("%d rows are as they were staged, want 3", n)
	}
	balanced(t, tab)
}
