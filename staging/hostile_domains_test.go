package staging_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// A domain refuses a value with an error that has the SQLSTATE of a wrong statement, of a missing
// object, or of a limit of the server. It costs that record. Where something is missing, every
// record has the error: then the batch fails.
func TestDomainsThatRefuseInTheirOwnWay(t *testing.T) {
	t.Parallel()
	type doc struct {
		ID int64  `db:"id"`
		V  string `db:"v"`
	}
	deep := strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)
	for name, c := range map[string]struct{ ddl, bad, code string }{
		"a query":           {"CREATE DOMAIN d AS text CHECK (to_tsquery('simple', VALUE) IS NOT NULL)", "a & & b", "sqlstate_42601"},
		"a name":            {"CREATE DOMAIN d AS text CHECK (VALUE::regtype IS NOT NULL)", "nothing", "sqlstate_42704"},
		"a relation":        {"CREATE DOMAIN d AS text CHECK (VALUE::regclass IS NOT NULL)", "nothing", "sqlstate_42P01"},
		"a document":        {"CREATE DOMAIN d AS text CHECK (VALUE::json IS NOT NULL)", deep, "sqlstate_54001"},
		"a document itself": {"CREATE DOMAIN d AS json", deep, "sqlstate_54001"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, c.ddl+"; CREATE TABLE rows (id bigint PRIMARY KEY, v d); CREATE TABLE pairs (id bigint PRIMARY KEY, v d)")
			good := map[string]string{"a query": "a", "a name": "int4", "a relation": "pg_class"}[name]
			if good == "" {
				good = "[]"
			}
			tab := newTable(t, pool, "rows", staging.Config[doc]{Key: []string{"id"}})
			stage(t, tab, load(doc{1, good}, doc{2, c.bad}, doc{3, good}, doc{4, c.bad}), staging.OutcomeStaged)
			promote(t, tab)
			if got := idsIn(t, pool, "rows"); got != "1 3" {
				t.Errorf("promoted %s, want 1 3", got)
			}
			if diff := cmp.Diff(map[string]string{"2": c.code, "4": c.code}, codes(t, tab)); diff != "" {
				t.Errorf("codes (-want +got):\n%s", diff)
			}
			balanced(t, tab)
			pairs := newTable(t, pool, "pairs", staging.Config[doc]{Key: []string{"id"}})
			one := func(d doc) []doc { return []doc{d} }
			g := staging.Group(staging.Into(tab, one), staging.Into(pairs, one))
			if _, err := g.Stage(t.Context(), load(doc{5, good}, doc{6, c.bad})); err != nil {
				t.Fatal(err)
			}
			if _, err := g.Promote(t.Context(), staging.PromoteOptions{}); err != nil {
				t.Fatal(err)
			}
			if got := idsIn(t, pool, "pairs"); got != "5" {
				t.Errorf("the group has promoted %s, want 5", got)
			}
		})
	}
	t.Run("a missing table", func(t *testing.T) {
		t.Parallel()
		pool := servertest.Postgres(t)
		exec(t, pool, `CREATE TABLE known (v text); CREATE FUNCTION knows(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN EXISTS (SELECT FROM public.known k WHERE k.v = $1); END';
			INSERT INTO known VALUES ('yes'); CREATE DOMAIN d AS text CHECK (knows(VALUE)); CREATE TABLE rows (id bigint PRIMARY KEY, v d)`)
		tab := newTable(t, pool, "rows", staging.Config[doc]{Key: []string{"id"}})
		exec(t, pool, "ALTER TABLE known RENAME TO away")
		l := load(doc{1, "yes"}, doc{2, "no"})
		if out, err := tab.Stage(t.Context(), l); sqlStateOf(err) != "42P01" {
			t.Errorf("without the table: got %v, %v, want 42P01", out, err)
		}
		exec(t, pool, "ALTER TABLE away RENAME TO known")
		stage(t, tab, l, staging.OutcomeStaged)
		promote(t, tab)
		if diff := cmp.Diff(map[string]string{"2": "sqlstate_23514"}, codes(t, tab)); diff != "" {
			t.Errorf("codes (-want +got):\n%s", diff)
		}
		balanced(t, tab)
	})
}
