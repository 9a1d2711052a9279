package staging_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// bouncer is a direct pool on a new database, and a function that makes pools on it through
// PgBouncer in transaction mode, with two server connections for each role.
func bouncer(t *testing.T, settings ...string) (direct *pgxpool.Pool, through func(user, password string) *pgxpool.Pool) {
	t.Helper()
	database := servertest.PostgresURL(t)
	direct = poolIn(t, database, pgx.QueryExecModeCacheStatement, 4)
	url := servertest.PgBouncer(t, database, append([]string{"default_pool_size=2"}, settings...)...)
	return direct, func(user, password string) *pgxpool.Pool {
		cfg, err := pgxpool.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			cfg.ConnConfig.User, cfg.ConnConfig.Password = user, password
		}
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return pool
	}
}

// Columns change under running programs whose server connections are PgBouncer's: an old program
// stops with ErrDrift or goes on correctly, whichever connection it gets.
func TestShapesChangeBehindPgBouncer(t *testing.T) {
	t.Parallel()
	direct, through := bouncer(t)
	pool := through("", "")
	exec(t, direct, "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint)")
	old := numbers(t, pool)
	for i := range int64(6) { // both server connections have seen the old shape
		stage(t, old, load(number{i, i}), staging.OutcomeStaged)
	}
	promoteEach(t, old)
	exec(t, direct, "ALTER TABLE nums ALTER COLUMN v TYPE double precision")
	current := numbers(t, through("", ""))
	for i := range int64(6) {
		_, err := old.Stage(t.Context(), load(number{100 + i, 42}))
		isDrift(t, "the old program stages", err, `"v"`)
		stage(t, current, load(number{10 + i, 10 + i}), staging.OutcomeStaged)
	}
	_, err := old.Promote(t.Context(), staging.PromoteOptions{})
	isDrift(t, "the old program promotes", err, `"v"`)
	promoteEach(t, current)
	exec(t, direct, "ALTER TABLE nums ADD COLUMN region text NOT NULL DEFAULT 'eu'")
	type wide struct {
		number
		Region string `db:"region"`
	}
	wider := newTable(t, pool, "nums", staging.Config[wide]{Key: []string{"id"}})
	for i := range int64(6) {
		stage(t, current, load(number{20 + i, 20 + i}), staging.OutcomeStaged)
		stage(t, wider, load(wide{number{30 + i, 30 + i}, "us"}), staging.OutcomeStaged)
	}
	promoteEach(t, wider)
	want := ""
	for _, i := range []int{0, 10, 20, 30} {
		for j := range 6 {
			want += fmt.Sprintf("%d=%[1]d ", i+j)
		}
	}
	intact(t, direct, strings.TrimSpace(want))
	if n := query[string](t, direct, "SELECT string_agg(DISTINCT region, ' ' ORDER BY region) || count(*) FILTER (WHERE region = 'us') FROM nums"); n != "eu us6" {
		t.Errorf("regions are %q, want eu us6", n)
	}
	balanced(t, wider)
}

// Worker, promoter and reader log in as roles of their own through PgBouncer, with what Grants
// lists.
func TestRolesBehindPgBouncer(t *testing.T) {
	t.Parallel()
	cfg, err := pgx.ParseConfig(servertest.PostgresURL(t))
	if err != nil {
		t.Fatal(err)
	}
	direct, through := bouncer(t, "auth_user="+cfg.User) // PgBouncer asks Postgres for the passwords of the other roles
	exec(t, direct, serialTable)
	exec(t, direct, must(staging.SQL(t.Context(), direct, "Serial", serialConfig(staging.RoleAll))))
	tabs := map[staging.Role]*staging.Table[serial]{}
	for _, role := range []staging.Role{staging.RoleWorker, staging.RolePromoter, staging.RoleReader} {
		_, name := login(t, direct)
		exec(t, direct, "ALTER ROLE "+name+" LOGIN PASSWORD 'secret'")
		exec(t, direct, must(staging.Grants(t.Context(), direct, "Serial", serialConfig(role), name)))
		tabs[role] = newTable(t, through(name, "secret"), "Serial", serialConfig(role))
	}
	work(t, 0, tabs[staging.RoleWorker], tabs[staging.RolePromoter], tabs[staging.RoleReader])
	work(t, 10, tabs[staging.RoleWorker], tabs[staging.RolePromoter], tabs[staging.RoleReader])
	if _, err := tabs[staging.RoleReader].Stage(t.Context(), load(serial{90, "x"})); !errors.Is(err, staging.ErrPrivilege) {
		t.Errorf("a reader stages: got %v, want ErrPrivilege", err)
	}
}

// promoteEach promotes until nothing is staged: hints of several connections fill both sides.
func promoteEach[T any](t *testing.T, tab *staging.Table[T]) {
	t.Helper()
	for p := promote(t, tab); len(p.Batches) > 0; p = promote(t, tab) {
	}
}
