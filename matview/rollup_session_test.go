package matview_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/matview"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Two programs with different time zones, or orders of day and month, would make two groups of one.
// The roll-up stays with the session that has made it, where its expressions depend on one.
func TestExpressionsKeepTheirSession(t *testing.T) {
	t.Parallel()
	pool := inSession(t, servertest.Postgres(t), "Etc/UTC", "ISO, MDY")
	others := map[string]*pgxpool.Pool{"TimeZone": inSession(t, pool, "Asia/Kathmandu", "ISO, MDY"), "DateStyle": inSession(t, pool, "UTC", "SQL, DMY")}
	same := inSession(t, pool, "UTC", "German, MDY")
	exec(t, pool, `CREATE DOMAIN given AS int NOT NULL`, `CREATE TABLE visits (id int, part given, at timestamptz, day date, clock timestamp(3), noted text, seen timestamptz(0)[], "time" timestamp with time zone)`,
		`CREATE FUNCTION fails(timestamptz) RETURNS date LANGUAGE plpgsql AS $$ BEGIN IF $1 IS NOT NULL THEN RAISE 'no'; END IF; RETURN NULL; END $$`)
	for _, c := range []struct{ expr, typ, setting string }{
		{"date_trunc('minute', at)", "timestamptz", ""},
		{"date_trunc('hour', at)", "timestamptz", "TimeZone"},
		{"date_trunc('week', at)", "timestamptz", "TimeZone"},
		{"date_trunc('day', at, 'UTC')", "timestamptz", ""},
		{"at", "date", "TimeZone"},
		{"at", "timestamp", "TimeZone"},
		{"CASE WHEN part IS NULL THEN at END", "date", "TimeZone"},
		{"", "text", "TimeZone"}, // the column "time"
		{"(at AT TIME ZONE 'UTC')::date", "date", ""},
		{"extract(dow FROM at)", "numeric", "TimeZone"},
		{"extract(week FROM at)", "numeric", "TimeZone"},
		{"extract(epoch FROM at)", "numeric", ""},
		{"to_char(at, 'YYYY')", "text", "TimeZone"},
		{"day", "timestamptz", "TimeZone"},
		{"day", "date", ""},
		{"clock", "timestamptz", "TimeZone"},
		{"noted::date", "date", "DateStyle"},
		{"noted", "text", ""},
		{"fails(nullif(at, at))", "date", ""},
		{"id", "int", ""},
	} {
		r := matview.Rollup{
			Table: "v", From: "visits", GroupBy: []matview.Column{{Name: "time", Expr: c.expr, Type: c.typ}},
			Measures: []matview.Measure{{Name: "n", Aggregate: matview.AggregateCount}},
		}
		keeps := func(what string, r matview.Rollup) {
			t.Helper()
			check := func(db *pgxpool.Pool) error {
				_, err := r.Check(t.Context(), db, 0)
				return err
			}
			if err := r.Create(t.Context(), pool); err != nil {
				t.Fatalf("%s %q as %s: %v", what, c.expr, c.typ, err)
			}
			exec(t, pool, `INSERT INTO visits (id, part, at, day, clock, noted, "time") VALUES (1, 1, '2026-01-01 23:30Z', '2026-01-02', '2026-01-03', '03/04/2026', '2026-01-05')`)
			if n, err := r.Rebuild(t.Context(), pool); err != nil || n == 0 {
				t.Errorf("%s %q as %s: Rebuild: %d, %v", what, c.expr, c.typ, n, err)
			}
			for setting, db := range others {
				for call, err := range map[string]error{"Create": r.Create(t.Context(), db), "Verify": r.Verify(t.Context(), db), "Check": check(db)} {
					switch {
					case c.setting != setting && err != nil:
						t.Errorf("%s %q as %s: %s with another %s: %v", what, c.expr, c.typ, call, setting, err)
					case c.setting == setting && (!errors.Is(err, matview.ErrDrift) || !strings.Contains(err.Error(), "depend on the session's "+setting)):
						t.Errorf("%s %q as %s: %s: got %v, want a refusal that names %s", what, c.expr, c.typ, call, err, setting)
					}
				}
			}
			if err := errors.Join(r.Create(t.Context(), same), r.Verify(t.Context(), same), check(same)); err != nil {
				t.Errorf("%s %q as %s with the same settings: %v", what, c.expr, c.typ, err)
			}
			if c.setting != "" { // Rebuild makes it the roll-up of another session
				_, err := r.Rebuild(t.Context(), others[c.setting])
				if err = errors.Join(err, r.Verify(t.Context(), others[c.setting])); err != nil {
					t.Errorf("%s %q as %s after Rebuild: %v", what, c.expr, c.typ, err)
				}
				if err := r.Verify(t.Context(), pool); !errors.Is(err, matview.ErrDrift) {
					t.Errorf("%s %q as %s after Rebuild in another session: got %v, want ErrDrift", what, c.expr, c.typ, err)
				}
			}
			exec(t, pool, `DROP TABLE IF EXISTS v, v_d, v_d_values`, `TRUNCATE visits`)
		}
		keeps("key", r)
		if c.expr != "" {
			r.GroupBy = []matview.Column{{Name: "id", Type: "int"}}
			r.Measures = []matview.Measure{{Name: "d", Expr: c.expr, Type: c.typ, Aggregate: matview.AggregateDistinct}}
			keeps("values", r)
		}
	}
}

// inSession connects with a time zone and a date style.
func inSession(t *testing.T, pool *pgxpool.Pool, zone, style string) *pgxpool.Pool {
	t.Helper()
	cfg := pool.Config()
	cfg.ConnConfig.RuntimeParams["TimeZone"], cfg.ConnConfig.RuntimeParams["DateStyle"] = zone, style
	p, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// A promotion of package staging prints dates and floating-point numbers in Postgres' default
// formats. So do Check and Rebuild, and a transaction of the caller's gets its own formats back.
func TestTextsAreThoseOfAPromotion(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE visits (day date, ratio float8, span interval, raw bytea)`, `INSERT INTO visits VALUES ('2026-02-03', 0.1, '1 day 02:00', decode('00ff', 'hex'))`)
	r := matview.Rollup{
		Table: "v", From: "visits", GroupBy: []matview.Column{{Name: "k", Expr: "concat_ws('/', day, ratio, span, raw)", Type: "text"}},
		Measures: []matview.Measure{{Name: "n", Aggregate: matview.AggregateCount}},
	}
	if err := r.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	cfg := pool.Config()
	for k, v := range map[string]string{"DateStyle": "German, DMY", "IntervalStyle": "iso_8601", "extra_float_digits": "-15", "bytea_output": "escape"} {
		cfg.ConnConfig.RuntimeParams[k] = v
	}
	odd, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer odd.Close()
	if n, err := r.Rebuild(t.Context(), odd); n != 1 || err != nil {
		t.Fatalf("Rebuild wrote %d groups, %v; want 1", n, err)
	}
	want(t, "key", one[string](t, pool, `SELECT k FROM v`), `2026-02-03/0.1/1 day 02:00:00/\x00ff`)
	same(t, pool, r)
	err = pgx.BeginFunc(t.Context(), odd, func(tx pgx.Tx) error {
		if diffs, err := r.Check(t.Context(), tx, 0); err != nil || len(diffs) > 0 {
			t.Errorf("Check in a transaction: %v, %v", diffs, err)
		}
		var style string
		err := tx.QueryRow(t.Context(), `SELECT concat_ws('/', current_setting('DateStyle'), current_setting('IntervalStyle'))`).Scan(&style)
		want(t, "formats afterwards", style, "German, DMY/iso_8601")
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A role that sees a part of the table would take the other groups out of the roll-up.
func TestRowsThatAPolicyHides(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"orders", "by_product", "by_product_amounts"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			pool := newTarget(t)
			r := byProduct()
			if err := r.Create(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			if err := promote(t.Context(), pool, r, newRand(1), 30, 3); err != nil {
				t.Fatal(err)
			}
			user, _ := as(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ROLE`, `GRANT CREATE ON SCHEMA public TO ROLE`)
			exec(t, pool, `ALTER TABLE `+table+` ENABLE ROW LEVEL SECURITY`, `CREATE POLICY part ON `+table+` USING (product = 'p0')`)
			refused := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, matview.ErrPrivilege) || !strings.Contains(err.Error(), `"`+table+`" may hide rows`) {
					t.Errorf("%s: got %v, want a refusal that names the table", what, err)
				}
			}
			_, err := r.Rebuild(t.Context(), user)
			refused("Rebuild", err)
			_, err = r.Check(t.Context(), user, 0)
			refused("Check", err)
			if table == "orders" {
				replaces := r
				replaces.Table, replaces.Replaces = "elsewhere", true
				refused("Create", replaces.Create(t.Context(), user))
			}
			exec(t, pool, `CREATE POLICY every ON `+table+` USING (true)`)
			if n, err := r.Rebuild(t.Context(), user); n != 0 || err != nil {
				t.Errorf("Rebuild with a policy that shows all rows: %d, %v", n, err)
			}
			exec(t, pool, `CREATE POLICY fewer ON `+table+` AS RESTRICTIVE USING (product = 'p0')`)
			_, err = r.Rebuild(t.Context(), user)
			refused("Rebuild with a restrictive policy", err)
			same(t, pool, r)
		})
	}
}
