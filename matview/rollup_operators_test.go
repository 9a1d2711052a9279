package matview_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/staging"
)

// operatorsOfTheUser makes operators that fail, and aggregates over varchar that do.
var operatorsOfTheUser = servertest.HostileOperators(
	"varchar,text,bpchar,smallint,int,bigint,numeric,float8,money,interval,date,timestamptz,bool,bit,varchar[],cidr",
	"=,<>,<,<=,>,>=,+,-,*,/,%,&,|,||,>>,<<") + `
	DO $$ DECLARE o text; BEGIN
		FOREACH o IN ARRAY '{min,max,count}'::text[] LOOP
			EXECUTE format('CREATE AGGREGATE public.%s(varchar) (SFUNC = pg_catalog.textcat, STYPE = text)', o);
		END LOOP;
	END $$`

type operand struct {
	ID     string  `db:"id" dbtype:"varchar(10)"`
	Name   *string `db:"name" dbtype:"varchar(10)"`
	Names  *string `db:"names_text"`
	Net    *string `db:"net_text"`
	N      *int32  `db:"n"`
	Amount *string `db:"amount_text"`
}

// A function or an operator of the user that fits the types better than that of Postgres is not
// taken: groups, distinct values and extremes are compared as indexes do it, and sums are those of
// Postgres.
func TestOperatorsOfTheUser(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, operatorsOfTheUser)
	for name, replaces := range map[string]bool{"skip": false, "replace": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calm := withPath(t, pool, name)
			exec(t, calm, "CREATE SCHEMA "+name, `CREATE TABLE items (id varchar(10) PRIMARY KEY, name varchar(10), names_text text, net_text text, n int, amount_text text,
				names varchar(10)[], net cidr, amount numeric(12,2), cash money, span interval)`,
				`CREATE FUNCTION typed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
					NEW.names := NEW.names_text; NEW.net := NEW.net_text; NEW.amount := NEW.amount_text; NEW.cash := NEW.n::money; NEW.span := make_interval(mins => NEW.n);
					RETURN NEW; END $$`,
				`CREATE TRIGGER typed BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION typed()`)
			wild := withPath(t, pool, name+", public")
			r := matview.Rollup{
				Table: "totals", From: "items", Replaces: replaces,
				GroupBy: []matview.Column{{Name: "name", Type: "varchar(10)"}, {Name: "names", Type: "varchar(10)[]"}, {Name: "net", Type: "cidr"}},
			}
			add := func(typ, expr string, aggregates ...matview.Aggregate) {
				for _, a := range aggregates {
					r.Measures = append(r.Measures, matview.Measure{Name: fmt.Sprintf("m%d", len(r.Measures)), Expr: expr, Type: typ, Aggregate: a})
				}
			}
			for expr, typ := range map[string]string{"id": "varchar(10)", "names": "varchar(10)[]", "net": "cidr", "amount": "numeric"} {
				add(typ, expr, matview.AggregateMin, matview.AggregateMax, matview.AggregateDistinct)
				add("", expr, matview.AggregateSketch, matview.AggregateCount)
			}
			add("", "n", matview.AggregateSum, matview.AggregateAverage)
			add("int", "n", matview.AggregateSum, matview.AggregateAverage)
			add("numeric(9,2)", "amount", matview.AggregateSum, matview.AggregateAverage)
			add("money", "cash", matview.AggregateSum, matview.AggregateAverage, matview.AggregateMin)
			add("interval", "span", matview.AggregateSum, matview.AggregateAverage, matview.AggregateMax)
			add("", "", matview.AggregateCount)
			if err := r.Create(t.Context(), wild); err != nil {
				t.Fatal(err)
			}
			promoteOperands(t, wild, calm, r)
		})
	}
}

// promoteOperands promotes random rows, compares the roll-up after each promotion, and repairs it
// at last.
func promoteOperands(t *testing.T, wild, calm *pgxpool.Pool, r matview.Rollup) {
	t.Helper()
	merges, err := r.Merges()
	if err != nil {
		t.Fatal(err)
	}
	conf := staging.Config[operand]{Key: []string{"id"}}
	if r.Replaces {
		conf.Conflict = staging.ConflictReplace
	}
	for _, m := range merges {
		conf.Merges = append(conf.Merges, staging.Merge(m))
	}
	tab, err := staging.New(t.Context(), wild, "items", conf)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	draw := func(of ...string) *string {
		if i := rnd.IntN(len(of) + 1); i < len(of) {
			return &of[i]
		}
		return nil
	}
	for range 5 {
		var rows []operand
		for range 30 {
			n := int32(rnd.IntN(9)) - 4
			rows = append(rows, operand{
				ID: fmt.Sprint(rnd.IntN(60)), Name: draw("a", "b"), Names: draw("{}", "{a,b}"), Net: draw("10.0.0.0/8", "::/0"),
				N: &n, Amount: draw("1.50", "-2", "9"),
			})
		}
		if _, err := tab.Stage(t.Context(), staging.Load[operand]{Batch: staging.Batch{ID: uid.New(), Records: len(rows)}, Rows: rows}); err != nil {
			t.Fatal(err)
		}
		if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err != nil {
			t.Fatal(err)
		}
		same(t, calm, r)
	}
	same(t, wild, r)
	exec(t, calm, "UPDATE items SET n = 4 - n WHERE n > 1", "DELETE FROM items WHERE n < 0")
	if n, err := r.Rebuild(t.Context(), wild); n == 0 || err != nil {
		t.Errorf("Rebuild wrote %d groups, %v", n, err)
	}
	same(t, calm, r)
	if err := r.Verify(t.Context(), wild); err != nil {
		t.Error(err)
	}
}

// withPath is a pool on the same database with another search path.
func withPath(t *testing.T, pool *pgxpool.Pool, path string) *pgxpool.Pool {
	t.Helper()
	cfg := pool.Config()
	cfg.ConnConfig.RuntimeParams["search_path"] = path
	p, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// For an enum or a domain an operator of the user is taken, and a roll-up cannot tell which one is
// meant.
func TestOperatorsOfTheUserOnTheirOwnTypes(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TYPE mood AS ENUM ('sad', 'glad')`, `CREATE DOMAIN code AS varchar(5) NOT NULL`, `CREATE DOMAIN amount AS numeric`,
		`CREATE FUNCTION unlike(mood, mood) RETURNS bool LANGUAGE sql AS 'SELECT $1 > $2'`, `CREATE FUNCTION smaller(mood, mood) RETURNS mood LANGUAGE sql AS 'SELECT $1'`,
		`CREATE FUNCTION unlike(varchar, varchar) RETURNS bool LANGUAGE sql AS 'SELECT $1 > $2'`, `CREATE FUNCTION less(amount, numeric) RETURNS numeric LANGUAGE sql AS 'SELECT $2'`, `CREATE FUNCTION less(numeric, amount) RETURNS numeric LANGUAGE sql AS 'SELECT $1'`,
		`CREATE TABLE things (mood mood, code code, amount amount)`, `INSERT INTO things VALUES ('sad', 'a', 1)`)
	build := func(typ, expr string, a matview.Aggregate) matview.Rollup {
		r := matview.Rollup{
			Table: "t", From: "things", Replaces: true, GroupBy: []matview.Column{{Name: "k", Expr: "1", Type: "int"}},
			Measures: []matview.Measure{{Name: "m", Expr: expr, Type: typ, Aggregate: a}},
		}
		if a == 0 {
			r.GroupBy[0], r.Measures[0] = matview.Column{Name: "k", Expr: expr, Type: typ}, matview.Measure{Name: "m", Aggregate: matview.AggregateCount}
		}
		return r
	}
	cases := []struct {
		r       matview.Rollup
		hostile string
	}{
		{build("mood", "mood", 0), `OPERATOR = (LEFTARG = mood, RIGHTARG = mood, FUNCTION = unlike)`},
		{build("code", "code", 0), `OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = unlike)`},
		{build("amount", "amount", matview.AggregateSum), `OPERATOR + (LEFTARG = amount, RIGHTARG = numeric, FUNCTION = less)`},
		{build("amount", "amount", matview.AggregateAverage), `AGGREGATE sum(amount) (SFUNC = less, STYPE = numeric)`},
		{build("mood", "mood", matview.AggregateMax), `AGGREGATE max(mood) (SFUNC = smaller, STYPE = mood)`},
	}
	for _, c := range cases {
		if err := c.r.Create(t.Context(), pool); err != nil {
			t.Errorf("before %s: %v", c.hostile, err)
		}
		exec(t, pool, "DROP TABLE IF EXISTS t")
	}
	for _, c := range cases {
		exec(t, pool, "CREATE "+c.hostile)
		err := c.r.Create(t.Context(), pool)
		if !errors.Is(err, matview.ErrConfig) || !strings.Contains(fmt.Sprint(err), "would be taken instead of that of Postgres") {
			t.Errorf("with %s, Create is %v, want an ErrConfig", c.hostile, err)
		}
	}
}
