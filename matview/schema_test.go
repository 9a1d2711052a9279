package matview_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/matview"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// as is a pool of connections that have switched to a new role, with what it may do.
func as(t testing.TB, pool *pgxpool.Pool, grants ...string) (*pgxpool.Pool, string) {
	t.Helper()
	role := one[string](t, pool, `SELECT 'hr_' || substr(md5(random()::text || clock_timestamp()), 1, 12)`)
	exec(t, pool, `CREATE ROLE `+role+` LOGIN`)
	t.Cleanup(func() { exec(t, pool, `DROP OWNED BY `+role+` CASCADE`, `DROP ROLE `+role) })
	for _, g := range grants {
		exec(t, pool, strings.ReplaceAll(g, "ROLE", role))
	}
	cfg := pool.Config()
	cfg.ConnConfig.RuntimeParams["role"] = role
	p, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, role
}

func noTemp(pool *pgxpool.Pool) string {
	return `REVOKE TEMPORARY ON DATABASE ` + pgx.Identifier{pool.Config().ConnConfig.Database}.Sanitize() + ` FROM PUBLIC`
}

// A migration tool has created everything; the role may create nothing; Postgres' concurrent
// refresh needs temporary tables.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	cfg := matview.Config{Views: twoViews()}
	schema, err := matview.SQL("dashboard", cfg)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, schema, noTemp(pool), `REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
	user, role := as(t, pool)
	_, err = matview.New(t.Context(), user, "dashboard", cfg)
	if !errors.Is(err, matview.ErrPrivilege) {
		t.Fatalf("got %v, want ErrPrivilege", err)
	}
	_, fixes, _ := strings.Cut(err.Error(), "needs: ")
	want(t, "fixes", fixes, fmt.Sprintf(`GRANT SELECT, INSERT, UPDATE ON TABLE "dashboard_views" TO "%[1]s"; ALTER MATERIALIZED VIEW "totals" OWNER TO "%[1]s"; ALTER MATERIALIZED VIEW "best" OWNER TO "%[1]s";`, role))
	exec(t, pool, `GRANT CREATE ON SCHEMA public TO `+role, fixes, `REVOKE CREATE ON SCHEMA public FROM `+role)

	// The views run as their owner now.
	_, err = matview.New(t.Context(), user, "dashboard", cfg)
	if !errors.Is(err, matview.ErrPrivilege) {
		t.Fatalf("got %v, want ErrPrivilege", err)
	}
	_, fixes, _ = strings.Cut(err.Error(), "needs: ")
	want(t, "as the owner", fixes, fmt.Sprintf(`GRANT TEMPORARY ON DATABASE %[2]s TO "%[1]s"; GRANT SELECT ON TABLE public.sales TO "%[1]s";`, role, pool.Config().ConnConfig.Database))
	exec(t, pool, fixes)
	for _, noCreate := range []bool{false, true} {
		cfg.NoCreate = noCreate
		r := newRefresher(t, user, cfg)
		if _, err := r.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
	}
	want(t, "best", one[string](t, pool, `SELECT total::text FROM best`), "5")

	// Without the right to create, the recorded query is compared.
	cfg.Views[1].SQL = `SELECT product, max(amount) AS total FROM sales GROUP BY product`
	if _, err = matview.New(t.Context(), user, "dashboard", cfg); !errors.Is(err, matview.ErrDrift) || !strings.Contains(err.Error(), "sum(amount)") || !strings.Contains(err.Error(), "max(amount)") {
		t.Errorf("got %v, want a drift from sum to max", err)
	}
	cfg.Views[1].SQL = `SELECT product, sum(amount)::bigint AS total FROM sales GROUP BY product`
	if _, err = matview.New(t.Context(), user, "dashboard", cfg); !errors.Is(err, matview.ErrDrift) || !strings.Contains(err.Error(), `column "total" is numeric`) {
		t.Errorf("got %v, want a drift of the type", err)
	}
	cfg.NoCreate = false
	cfg.Views = append(twoViews(), matview.View{Name: "more", SQL: "SELECT 1 AS one"})
	_, err = matview.New(t.Context(), user, "dashboard", cfg)
	want(t, "create", fmt.Sprint(err), fmt.Sprintf(`matview: missing privileges: role "%[1]s" needs: GRANT CREATE ON SCHEMA "public" TO "%[1]s";`, role))
}

// A schema that the role may not use, and one that does not exist.
func TestSchemaOfAView(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	exec(t, pool, `CREATE SCHEMA shop`)
	user, role := as(t, pool)
	_, err := matview.New(t.Context(), user, "shop.dashboard", matview.Config{Views: []matview.View{{Name: "shop.v", SQL: "SELECT 1 AS one"}}})
	want(t, "usage", fmt.Sprint(err), fmt.Sprintf(`matview: missing privileges: role "%[1]s" needs: GRANT USAGE ON SCHEMA "shop" TO "%[1]s";`, role))
	_, err = matview.New(t.Context(), pool, "dashboard", matview.Config{NoCreate: true, Views: []matview.View{{Name: "nosuch.v", SQL: "SELECT 1 AS one"}}})
	if !errors.Is(err, matview.ErrMissing) || !strings.Contains(err.Error(), `schema "nosuch"`) {
		t.Errorf("got %v, want a missing schema", err)
	}
}

// Programs of two layouts must not share a state table.
func TestLayoutOfAnotherVersion(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	newRefresher(t, pool, matview.Config{Views: twoViews()})
	exec(t, pool, `COMMENT ON TABLE dashboard_views IS 'headrace matview schema 9'`)
	_, err := matview.New(t.Context(), pool, "dashboard", matview.Config{Views: twoViews()})
	if !errors.Is(err, matview.ErrDrift) || !strings.Contains(err.Error(), "schema 9") || !strings.Contains(err.Error(), "schema 1") {
		t.Errorf("got %v, want both versions", err)
	}
}

// A role that only promotes: it needs three privileges on the roll-up, named in one error.
func TestRollupPrivileges(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := daily()
	r.Measures = append(r.Measures, matview.Measure{Name: "prices", Expr: "amount", Aggregate: matview.AggregateDistinct, Type: "numeric"})
	schema, err := r.SQL()
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, schema, noTemp(pool), `REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
	user, role := as(t, pool, `GRANT SELECT, INSERT ON orders TO ROLE`)
	var grants []string
	for _, table := range []string{`"odd ""Daily"`, `"odd ""Daily_prices_values"`, `"odd ""Daily_prices"`} {
		grants = append(grants, fmt.Sprintf(`GRANT SELECT, INSERT, UPDATE ON TABLE %s TO "%s";`, table, role))
	}
	grant := strings.Join(grants, " ")
	for _, f := range []func() error{
		func() error { return r.Create(t.Context(), user) },
		func() error { return r.Verify(t.Context(), user) },
	} {
		if err := f(); !errors.Is(err, matview.ErrPrivilege) || !strings.HasSuffix(err.Error(), "needs: "+grant) {
			t.Errorf("got %v, want %s", err, grant)
		}
	}
	exec(t, pool, grant)
	if err := r.Create(t.Context(), user); err != nil {
		t.Error(err)
	}
	if err := promote(t.Context(), user, r, newRand(1), 50, 3); err != nil {
		t.Error(err)
	}
	same(t, user, r)
	missing := r
	missing.Table = "elsewhere"
	if err := missing.Create(t.Context(), user); !errors.Is(err, matview.ErrPrivilege) || !strings.Contains(err.Error(), `GRANT CREATE ON SCHEMA "public"`) {
		t.Errorf("got %v, want ErrPrivilege", err)
	}
	missing.From = "nosuch"
	if err := missing.Create(t.Context(), pool); !errors.Is(err, matview.ErrMissing) || !strings.Contains(err.Error(), `table "nosuch"`) {
		t.Errorf("got %v, want ErrMissing", err)
	}
}

// Every default that would change what happens: isolation, read-only transactions, short time
// limits.
func TestHostileDefaults(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	exec(t, pool, `CREATE TABLE sales (product text, amount numeric)`, `INSERT INTO sales VALUES ('pen', 2), ('ink', 5)`)
	cfg := pool.Config()
	for k, v := range map[string]string{
		"default_transaction_isolation": "serializable", "default_transaction_read_only": "on", "statement_timeout": "200ms", "lock_timeout": "1ms",
		"idle_in_transaction_session_timeout": "200ms", "standard_conforming_strings": "off", "quote_all_identifiers": "on", "DateStyle": "German, YMD", "TimeZone": "Asia/Kolkata",
		"IntervalStyle": "sql_standard", "extra_float_digits": "-15", "bytea_output": "escape",
	} {
		cfg.ConnConfig.RuntimeParams[k] = v
	}
	hostile, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer hostile.Close()
	slow := append(twoViews(), matview.View{Name: "slow", SQL: `SELECT 1 AS one FROM pg_sleep(0.3)`})
	for range 2 {
		if _, err := newRefresher(t, hostile, matview.Config{Views: slow}).Refresh(t.Context()); err != nil {
			t.Error(err)
		}
	}
	r := daily()
	for range 2 {
		if err := r.Create(t.Context(), hostile); err != nil {
			t.Fatal(err)
		}
	}
	rnd := newRand(1)
	for _, p := range []*pgxpool.Pool{pool, pool} {
		if err := promote(t.Context(), p, r, rnd, 300, 9); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := r.Rebuild(t.Context(), hostile); n != 0 || err != nil {
		t.Errorf("rebuild changed %d groups (%v), want 0", n, err)
	}
	same(t, hostile, r)
}

// In a transaction that does not see what was committed while it waited, a rebuild would lose a
// promotion.
func TestRebuildRefusesAnOldSnapshot(t *testing.T) {
	t.Parallel()
	pool := newTarget(t)
	r := daily()
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	err := pgx.BeginTxFunc(t.Context(), pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		_, err := r.Rebuild(t.Context(), tx)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "REPEATABLE READ") {
		t.Errorf("got %v, want an error that names the isolation", err)
	}
}

// A privilege that is revoked while a program runs is named with the GRANT that helps.
func TestRevokedWhileRunning(t *testing.T) {
	t.Parallel()
	pool := newSales(t)
	user, role := as(t, pool, `GRANT CREATE ON SCHEMA public TO ROLE`, `GRANT SELECT ON sales TO ROLE`)
	cfg := matview.Config{Views: twoViews()}
	r := newRefresher(t, user, cfg)
	for revoked, fix := range map[string]string{
		`SELECT ON sales`:           `GRANT SELECT ON TABLE public.sales TO "%[1]s";`,
		`UPDATE ON dashboard_views`: `GRANT UPDATE ON TABLE "dashboard_views" TO "%[1]s";`,
	} {
		exec(t, pool, `REVOKE `+revoked+` FROM PUBLIC, `+role)
		_, err := r.Refresh(t.Context())
		fix := fmt.Sprintf(fix, role)
		if !errors.Is(err, matview.ErrPrivilege) || !strings.Contains(err.Error(), fix) {
			t.Errorf("without %s: got %v, want ErrPrivilege with %s", revoked, err, fix)
		}
		exec(t, pool, fix)
		if _, err := r.Refresh(t.Context()); err != nil {
			t.Errorf("after %s: %v", fix, err)
		}
	}
}
