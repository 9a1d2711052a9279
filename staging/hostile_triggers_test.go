package staging_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// triggerDoes is a trigger whose function has a body.
func triggerDoes(when, body string) string {
	return "CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN " + body + " RETURN NEW; END $$; CREATE TRIGGER tr " + when + " INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr();"
}

// A trigger defers the constraints of its transaction. Postgres would check them in the commit,
// which then fails for all rows and names none.
func TestATriggerDefersConstraints(t *testing.T) {
	for name, c := range map[string]struct{ ddl, code string }{
		"a foreign key": {"CREATE TABLE kinds (n bigint PRIMARY KEY); INSERT INTO kinds VALUES (1); CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint REFERENCES kinds DEFERRABLE);", staging.CodeForeign},
		"a unique key":  {"CREATE TABLE rows (id bigint PRIMARY KEY, v text UNIQUE DEFERRABLE, n bigint); INSERT INTO rows VALUES (0, 'bad', 0);", staging.CodeUnique},
		"a constraint of another table": {"CREATE TABLE kinds (n bigint PRIMARY KEY); INSERT INTO kinds VALUES (1); CREATE TABLE log (n bigint REFERENCES kinds DEFERRABLE); CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint);" +
			"CREATE FUNCTION lg() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (NEW.n); RETURN NEW; END $$; CREATE TRIGGER lg AFTER INSERT ON rows FOR EACH ROW EXECUTE FUNCTION lg();", staging.CodeForeign},
	} {
		for _, merges := range [][]staging.Merge{nil, {{Name: "m", SQL: "SELECT count(n) FROM promoted"}}} {
			t.Run(fmt.Sprintf("%s, %d merges", name, len(merges)), func(t *testing.T) {
				judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
					exec(t, pool, c.ddl+triggerDoes("BEFORE", "SET CONSTRAINTS ALL DEFERRED;"))
					tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}, Merges: merges})
					set(tab)
					var rows []judged
					for id := range int64(20) {
						rows = append(rows, row(id+1, fmt.Sprint("v", id), 1))
					}
					*rows[7].V, *rows[7].N = "bad", 2
					stage(t, tab, load(rows[:10]...), staging.OutcomeStaged)
					stage(t, tab, load(rows[10:]...), staging.OutcomeStaged)
					if p := promote(t, tab); p.Rows != 19 || p.RejectedByRule != 1 {
						t.Errorf("%d rows and %d rejects, want 19 and 1", p.Rows, p.RejectedByRule)
					}
					if diff := cmp.Diff(map[string]string{"8": c.code}, codes(t, tab)); diff != "" {
						t.Errorf("codes (-want +got):\n%s", diff)
					}
					balanced(t, tab)
				})
			})
		}
	}
}

// A trigger turns synchronous_commit off for its transaction, because it is faster. A promotion is
// acknowledged, so its commit has to wait all the same.
func TestATriggerCommitsAsynchronously(t *testing.T) {
	t.Parallel()
	s := servertest.OwnPostgres(t, "wal_writer_delay=10s")
	pool := s.Pool(t)
	exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint);"+triggerDoes("BEFORE", "SET LOCAL synchronous_commit = off;")+"CHECKPOINT")
	tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
	first := load(row(1, "", 1))
	stage(t, tab, first, staging.OutcomeStaged)
	stage(t, tab, load(row(2, "", 1)), staging.OutcomeStaged)
	// Bounded: a promotion that truncates is flushed anyway.
	if p, err := tab.Promote(t.Context(), staging.PromoteOptions{MaxRows: 1}); err != nil || p.Rows != 1 {
		t.Fatalf("promoted %d rows, %v, want 1", p.Rows, err)
	}
	if err := errors.Join(s.Kill(), restart(s)); err != nil {
		t.Fatal(err)
	}
	pool.Reset()
	if f := fates(t, tab, first.Batch.ID); f[0] != staging.FatePromoted {
		t.Errorf("after the crash the batch is %v, want promoted", f[0])
	}
}

// A trigger refuses a row with an error that a missing table has too, and the row is alone in its
// promotion. It is rejected as soon as the target accepts another one. Until then the promotion
// fails, and nothing is lost.
func TestABadRowAlone(t *testing.T) {
	const head = "CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint); CREATE TABLE log_good (id bigint);"
	for name, c := range map[string]struct {
		body  string
		lanes int
		good  bool // a good row follows
	}{
		"then a good one":                 {"EXECUTE format('INSERT INTO log_%s VALUES ($1)', NEW.v) USING NEW.id;", 1, true},
		"then a good one in another lane": {"EXECUTE format('INSERT INTO log_%s VALUES ($1)', NEW.v) USING NEW.id;", 2, true},
		"then a bad one":                  {"EXECUTE format('INSERT INTO log_%s VALUES ($1)', NEW.v) USING NEW.id;", 1, false},
		"the table is missing":            {"INSERT INTO none VALUES (NEW.id);", 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
				exec(t, pool, head+triggerDoes("AFTER", c.body))
				tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}, Lanes: c.lanes})
				set(tab)
				stage(t, tab, inLane(t, tab, 1, row(1, "bad", 1)), staging.OutcomeStaged)
				failing := func() {
					t.Helper()
					if p, err := tab.Promote(t.Context(), staging.PromoteOptions{Lane: 1}); sqlStateOf(err) != "42P01" {
						t.Fatalf("promoted %+v, %v, want 42P01", p, err)
					}
					if diff := cmp.Diff(map[string]string{}, codes(t, tab)); diff != "" {
						t.Errorf("codes (-want +got):\n%s", diff)
					}
				}
				failing()
				kind := map[bool]string{true: "good", false: "bad"}[c.good]
				stage(t, tab, inLane(t, tab, c.lanes, row(2, kind, 1), row(3, kind, 1)), staging.OutcomeStaged)
				want := map[string]string{"1": "sqlstate_42P01"}
				if !c.good {
					failing()
					return
				}
				for _, lane := range []int{1, c.lanes} {
					if _, err := tab.Promote(t.Context(), staging.PromoteOptions{Lane: lane}); err != nil {
						t.Fatal(err)
					}
				}
				if got := idsIn(t, pool, "rows"); got != "2 3" {
					t.Errorf("promoted %s, want 2 3", got)
				}
				if got := idsIn(t, pool, "log_good"); got != "2 3" {
					t.Errorf("the trigger has logged %s, want 2 3", got)
				}
				if diff := cmp.Diff(want, codes(t, tab)); diff != "" {
					t.Errorf("codes (-want +got):\n%s", diff)
				}
				balanced(t, tab)
			})
		})
	}
}

// A trigger writes into another server. That it is away, or that it lacks a privilege there, is no
// fault of the rows.
func TestATriggerOfAnotherServer(t *testing.T) {
	t.Parallel()
	for code, fails := range map[string]bool{"HV00N": true, "HV00L": true, "2F003": true, "54001": true, "22012": false} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, "CREATE EXTENSION dblink; CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint);"+
				triggerDoes("AFTER", fmt.Sprintf("PERFORM dblink_exec('%s', $x$DO 'BEGIN RAISE SQLSTATE ''%s''; END'$x$);", loopback(t, pool), code)))
			tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
			stage(t, tab, load(row(1, "", 1), row(2, "", 1)), staging.OutcomeStaged)
			p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
			if fails != (sqlStateOf(err) == code) || fails == (p.RejectedByRule == 2) {
				t.Errorf("got %d rejects, %v, want failure %v", p.RejectedByRule, err, fails)
			}
		})
	}
}

// loopback is how a server connects to a database of its own.
func loopback(t *testing.T, pool *pgxpool.Pool) string {
	c := pool.Config().ConnConfig
	at := query[string](t, pool, "SELECT format('host=%s port=%s', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'))")
	return fmt.Sprintf("%s user=%s password=%s dbname=%s", at, c.User, c.Password, c.Database)
}

func sqlStateOf(err error) string {
	var pg *pgconn.PgError
	errors.As(err, &pg)
	if pg == nil {
		return ""
	}
	return pg.Code
}
