package staging_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
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
			isDrift(t, "the old program promotes", err, `"v"`)
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
			wider := newTable(t, pool, "nums", staging.Config[wide]{Key: []string{"id"}}) // step 2: the new version, beside the old
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
