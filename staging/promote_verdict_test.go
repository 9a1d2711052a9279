package staging_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// A function of a trigger meets what looks like the server's trouble, for some rows: a file that is
// missing, a sequence that is exhausted. Those rows are rejected. The same error of the insert
// itself, or for every row, fails the promotion.
func TestTheTroubleOfAFunctionIsTheRows(t *testing.T) {
	const head = "CREATE SEQUENCE few MAXVALUE 2; SELECT nextval('few'), nextval('few'); CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint"
	trigger := func(body string) string {
		return head + "); CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN " + body + "; RETURN NEW; END $$; CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()"
	}
	for name, c := range map[string]struct {
		ddl  string
		code string // of the rejects; "" if the promotion fails
	}{
		"a file":                    {trigger("IF NEW.v = 'no' THEN PERFORM pg_read_file('/does/not/exist'); END IF"), "sqlstate_58P01"},
		"a sequence":                {trigger("IF NEW.v = 'no' THEN PERFORM nextval('few'); END IF"), "sqlstate_2200H"},
		"a sequence, for every row": {trigger("PERFORM nextval('few')"), ""},
		"a sequence of the table":   {head + ", s bigint DEFAULT nextval('few'))", ""},
	} {
		t.Run(name, func(t *testing.T) {
			judges(t, func(t *testing.T, pool *pgxpool.Pool, set func(*staging.Table[judged])) {
				exec(t, pool, c.ddl)
				tab := newTable(t, pool, "rows", staging.Config[judged]{Key: []string{"id"}})
				set(tab)
				var rows []judged
				bad := map[string]string{}
				for id := range int64(24) {
					rows = append(rows, row(id, "yes", 1))
					if id%2 == 1 {
						*rows[id].V = "no"
						bad[fmt.Sprint(id)] = c.code
					}
				}
				stage(t, tab, load(rows...), staging.OutcomeStaged)
				p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
				if c.code == "" {
					if err == nil {
						t.Errorf("got %+v, want an error", p)
					}
					bad = map[string]string{}
				} else if err != nil || p.Rows != 12 {
					t.Errorf("promoted %d rows, %v, want 12", p.Rows, err)
				}
				if diff := cmp.Diff(bad, codes(t, tab)); diff != "" {
					t.Errorf("codes (-want +got):\n%s", diff)
				}
				balanced(t, tab)
			})
		})
	}
}

// A type that Postgres does not read in binary form cannot be loaded by COPY. New refuses it.
func TestATypeWithoutBinaryInput(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	for i, typ := range []string{"aclitem", "aclitem[]"} {
		table := []string{"one", "many"}[i]
		exec(t, pool, "CREATE DOMAIN d_"+table+" AS "+typ+"; CREATE TABLE "+table+" (id bigint, v text, n "+typ+"); CREATE TABLE dom_"+table+" (id bigint, v text, n d_"+table+")")
		for _, target := range []string{table, "dom_" + table} {
			cfg := staging.Config[keyOnly]{Columns: []staging.Column{{Name: "id"}, {Name: "n"}}, Fill: func(*keyOnly, *staging.Row) {}}
			if _, err := staging.New(t.Context(), pool, target, cfg); !errors.Is(err, staging.ErrConfig) {
				t.Errorf("%s: got %v, want ErrConfig", target, err)
			}
			cfg.Columns = cfg.Columns[:1]
			newTable(t, pool, target, cfg)
		}
	}
}

// A function in PL/pgSQL expects the type that a column had when the session first ran it. After an
// ALTER COLUMN the promoter's session ends, and the next one promotes. No row is rejected for it.
func TestATriggerThatKnowsAnOldType(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE rows (id bigint PRIMARY KEY, v text, n bigint, seen text);
		CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id > 1 THEN NEW.seen := NEW.n * 2; END IF; RETURN NEW; END $$;
		CREATE TRIGGER tr BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tr()`)
	promote := func(tab *staging.Table[judged], ids ...int64) {
		t.Helper()
		var rows []judged
		for _, id := range ids {
			rows = append(rows, row(id, "v", 1))
		}
		stage(t, tab, load(rows...), staging.OutcomeStaged)
		if p, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err != nil || p.Rows != len(ids) {
			t.Fatalf("promoted %d rows, %v, want %d", p.Rows, err, len(ids))
		}
	}
	cfg := pool.Config().Copy()
	cfg.MaxConns = 1 // one session
	single, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(single.Close)
	promote(newTable(t, single, "rows", staging.Config[judged]{Key: []string{"id"}}), 1, 2)
	exec(t, pool, `ALTER TABLE rows ALTER COLUMN n TYPE numeric`)
	tab := newTable(t, single, "rows", staging.Config[judged]{Key: []string{"id"}})
	promote(tab, 0, 3, 4)
	if diff := cmp.Diff(map[string]string{}, codes(t, tab)); diff != "" {
		t.Errorf("codes (-want +got):\n%s", diff)
	}
}
