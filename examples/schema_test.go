package examples_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/staging"
)

// item is a row of a pipeline that headrace knows by its name alone.
type item struct {
	ID string `db:"id"`
	N  int64  `db:"n"`
}

// itemsSQL has columns that no program fills, and a name that is quoted.
const itemsSQL = `CREATE SCHEMA shop; CREATE TABLE shop."Items" (
	id text PRIMARY KEY, n bigint NOT NULL, note text DEFAULT 'none', place bigserial,
	no bigint GENERATED ALWAYS AS IDENTITY, twice bigint GENERATED ALWAYS AS (n * 2) STORED)`

// loadItem stages a row as one role and promotes it as another; both create nothing.
func loadItem(t *testing.T, worker, promoter *pgxpool.Pool, id string) {
	t.Helper()
	open := func(pool *pgxpool.Pool, role staging.Role) *staging.Table[item] {
		t.Helper()
		table, err := staging.New(t.Context(), pool, `shop."Items"`,
			staging.Config[item]{NoCreate: true, Role: role, Key: []string{"id"}, Conflict: staging.ConflictReplace})
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	load := staging.Load[item]{Batch: staging.Batch{ID: staging.NewBatchID(), Records: 1, Sealed: time.Now()}, Rows: []item{{id, 7}}}
	if _, err := open(worker, staging.RoleWorker).Stage(t.Context(), load); err != nil {
		t.Fatal(err)
	}
	if got, err := open(promoter, staging.RolePromoter).Promote(t.Context(), staging.PromoteOptions{}); err != nil || got.Rows != 1 {
		t.Fatalf("promote: got %+v, %v; want 1 row", got, err)
	}
}

// The schema and the privileges that headrace prints for a table that it knows by its name are all
// that programs need which may not run DDL, and schema check finds what has changed since.
func TestSchemaOfAnyTable(t *testing.T) {
	t.Parallel()
	s := own(t)
	c := cli{t, append(s.env(), "HEADRACE_QUEUE=items", `HEADRACE_TABLE=shop."Items"`, "HEADRACE_VIEWS=shop.items")}
	pool := s.pg.Pool(t)
	c.fails("schema print", `has no table "shop"."Items"`)
	c.fails("schema check", `has no table "shop"."Items"`)
	c.fails("grants print app", `has no table "shop"."Items"`)
	execute(t, pool, itemsSQL+`; REVOKE CREATE, TEMPORARY ON DATABASE postgres FROM PUBLIC`)
	c.fails("schema check", "Items_ledger")
	wide := c.ok("schema print")
	for column, want := range map[string]bool{"note": true, "place": true, "no": false, "twice": false} {
		if strings.Contains(wide, `"`+column+`"`) != want {
			t.Errorf("schema print without staging tables has the column %s: %v, want %v", column, !want, want)
		}
	}
	tables := c.ok("schema print --columns id,n")
	execute(t, pool, tables)
	if again := c.ok("schema print"); again != tables {
		t.Errorf("schema print with the staging tables differs from what created them:\n%s\nwant\n%s", again, tables)
	}
	views := matview.Config{Views: []matview.View{
		{Name: "shop.a_total", SQL: `SELECT sum(total) AS total FROM shop.b_each`, UniqueIndex: []string{"total"}, DependsOn: []string{"shop.b_each"}},
		{Name: "shop.b_each", SQL: `SELECT id, sum(n) AS total FROM shop."Items" GROUP BY id`, UniqueIndex: []string{"id"}},
	}}
	c.shows("schema check", "as this program expects it", "there is no set of views shop.items")
	if _, err := matview.New(t.Context(), pool, "shop.items", views); err != nil {
		t.Fatal(err)
	}
	printed := c.ok("schema print")
	total, each := strings.Index(printed, `VIEW "shop"."a_total"`), strings.Index(printed, `VIEW "shop"."b_each"`)
	if each < 0 || total < each {
		t.Errorf("schema print lacks a view, or has them in an order in which they cannot be created:\n%s", printed)
	}
	if strings.Contains(c.ok("schema print --companions"), "VIEW") {
		t.Error("schema print --companions prints views")
	}

	u, err := url.Parse(s.pg.URL)
	if err != nil {
		t.Fatal("unreadable URL")
	}
	as := func(role string) *pgxpool.Pool {
		t.Helper()
		execute(t, pool, "CREATE ROLE "+role+" LOGIN PASSWORD 'app'")
		u.User = url.UserPassword(role, "app")
		p, err := pgxpool.New(context.Background(), u.String())
		if err != nil {
			t.Fatal("cannot connect as " + role)
		}
		t.Cleanup(p.Close)
		return p
	}
	worker, promoter, reader := as("app_worker"), as("app_promoter"), as("app_reader")
	check := func(p *pgxpool.Pool, role, want string) {
		t.Helper()
		own := cli{t, append(env(s.redis.URL, p.Config().ConnString()), c.env[2:]...)}
		if want == "" {
			own.shows("schema check --role "+role, "as this program expects it")
		} else {
			own.fails("schema check --role "+role, want)
		}
	}
	check(worker, "worker", "permission denied for schema shop")
	execute(t, pool, c.ok("grants print app_worker --role worker"))
	execute(t, pool, c.ok("grants print app_promoter --role promoter --replace"))
	execute(t, pool, c.ok("grants print app_reader --role reader"))
	check(worker, "worker", "")
	check(promoter, "promoter", "")
	check(reader, "reader", "")
	check(worker, "promoter", `"app_worker" needs`)
	check(reader, "worker", `"app_reader" needs`)
	loadItem(t, worker, promoter, "first")
	set, err := matview.Open(t.Context(), promoter, "shop.items", matview.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Refresh(t.Context()); err != nil {
		t.Errorf("the promoter refreshes the views: %v", err)
	}

	// Programs with another lane.
	c.fails("schema check --lanes 2", "Items_staging_a2")
	execute(t, pool, c.ok("schema print --companions --lanes 2"))
	c.shows("schema check --lanes 2", "as this program expects it")
	check(worker, "worker", `"app_worker" needs`)
	execute(t, pool, c.ok("grants print app_worker --role worker --lanes 2"))
	check(worker, "worker --lanes 2", "")

	// What has changed since.
	layout := one[string](t, pool, `SELECT obj_description('shop."Items_control"'::regclass, 'pg_class')`)
	for _, d := range []struct{ change, back, want string }{
		{`ALTER TABLE shop."Items" RENAME n TO m`, `ALTER TABLE shop."Items" RENAME m TO n`, `n`},
		{`ALTER TABLE shop."Items" ADD late text NOT NULL DEFAULT ''; ALTER TABLE shop."Items" ALTER late DROP DEFAULT`, `ALTER TABLE shop."Items" DROP late`, `"late"`},
		{`ALTER TABLE shop."Items_staging_b" ALTER n TYPE text`, `ALTER TABLE shop."Items_staging_b" ALTER n TYPE bigint USING n::bigint`, `Items_staging_b`},
		{`COMMENT ON TABLE shop."Items_control" IS 'headrace staging schema 99'`, `COMMENT ON TABLE shop."Items_control" IS '` + layout + `'`, `schema 99`},
		{`ALTER TABLE shop."Items_rejects" RENAME TO other`, `ALTER TABLE shop.other RENAME TO "Items_rejects"`, `Items_rejects`},
		{`DROP MATERIALIZED VIEW shop.a_total`, ``, `shop.a_total`},
	} {
		execute(t, pool, d.change)
		c.fails("schema check", d.want)
		if d.back != "" {
			execute(t, pool, d.back)
			c.shows("schema check", "as this program expects it")
		}
	}
}
