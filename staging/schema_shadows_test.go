package staging_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// With pg_catalog behind another schema, what that schema has under a name of Postgres would be
// meant by every statement. It is refused, and the search path is otherwise as good as another.
// A hostile database quotes every name.
func TestShadowedNames(t *testing.T) {
	t.Parallel()
	type item struct {
		ID string `db:"id" dbtype:"text"`
		N  int64  `db:"n"`
	}
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE items (id text PRIMARY KEY, n bigint);
		CREATE FUNCTION never(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
		CREATE FUNCTION now() RETURNS int LANGUAGE sql AS 'SELECT 1'`)
	behind := withParameter(t, pool, "search_path", "public, pg_catalog")
	cfg := staging.Config[item]{Key: []string{"id"}, Conflict: staging.ConflictReplace}
	tab := newTable(t, behind, "items", cfg)
	for _, rows := range [][]item{{{"a", 1}, {"b", 2}}, {{"a", 3}}} {
		stage(t, tab, load(rows...), staging.OutcomeStaged)
		promote(t, tab)
	}
	balanced(t, tab)
	if got := query[string](t, pool, "SELECT string_agg(id || n, ',' ORDER BY id) FROM items"); got != "a3,b2" {
		t.Errorf("got rows %s, want a3,b2", got)
	}
	for create, shadow := range map[string]string{
		`CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = never)`: "operator public.=(text,text)",
		`CREATE FUNCTION hashtext(text) RETURNS int LANGUAGE sql AS 'SELECT 1'`:        "function public.hashtext(text)",
		`CREATE VIEW pg_inherits AS SELECT * FROM pg_catalog.pg_inherits`:              "relation public.pg_inherits",
		`CREATE DOMAIN public.int8 AS pg_catalog.int8`:                                 "type public.int8",
	} {
		exec(t, pool, create)
		_, err := staging.New(t.Context(), behind, "items", cfg)
		_, err2 := staging.OpenLedger(t.Context(), behind, "items")
		for call, err := range map[string]error{"New": err, "OpenLedger": err2} {
			if !errors.Is(err, staging.ErrConfig) || !strings.Contains(strings.ReplaceAll(fmt.Sprint(err), `"`, ""), "behind the schema of "+shadow+",") {
				t.Errorf("after %s, %s is %v, want an ErrConfig that names %s", create, call, err, shadow)
			}
		}
		exec(t, pool, map[string]string{
			"operator": `DROP OPERATOR public.=(text, text)`, "function": `DROP FUNCTION public.hashtext(text)`,
			"relation": `DROP VIEW public.pg_inherits`, "type": `DROP DOMAIN public.int8`,
		}[strings.Fields(shadow)[0]])
	}
	newTable(t, behind, "items", cfg)
}
