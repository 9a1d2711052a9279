package staging_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
)

// drawn is a row of a random table.
type drawn struct {
	ID     int64   `db:"id"`
	A      *int64  `db:"a"`
	B      *string `db:"b"`
	Doc    *string `db:"doc"`
	Parent *int64  `db:"parent"`
	Other  *int64  `db:"other"`
}

// feature is a piece of a random table's definition. %s is the table. order tells that what it
// accepts depends on the order.
type feature struct {
	name, ddl string
	order     bool
}

var features = []feature{
	{"not null", "ALTER TABLE %[1]s ALTER a SET NOT NULL", false},
	{"not null text", "ALTER TABLE %[1]s ALTER b SET NOT NULL", false},
	{"check", "ALTER TABLE %[1]s ADD CHECK (a > 0)", false},
	{"check not valid", "ALTER TABLE %[1]s ADD CHECK (b <> 'x1') NOT VALID", false},
	{"check that raises", "ALTER TABLE %[1]s ADD CHECK ((doc->>'qty')::int >= 0)", false},
	{"check that divides", "ALTER TABLE %[1]s ADD CHECK (100 / a < 60)", false},
	{"check of two columns", "ALTER TABLE %[1]s ADD CHECK (a <> other)", false},
	{"foreign key", "ALTER TABLE %[1]s ADD FOREIGN KEY (other) REFERENCES others", false},
	{"deferred foreign key", "ALTER TABLE %[1]s ADD FOREIGN KEY (other) REFERENCES others DEFERRABLE INITIALLY DEFERRED", false},
	{"tree", "ALTER TABLE %[1]s ADD FOREIGN KEY (parent) REFERENCES %[1]s", false},
	{"deferred tree", "ALTER TABLE %[1]s ADD FOREIGN KEY (parent) REFERENCES %[1]s DEFERRABLE INITIALLY DEFERRED", false},
	{"unique", "CREATE UNIQUE INDEX ON %[1]s (b)", true},
	{"unique, two columns", "CREATE UNIQUE INDEX ON %[1]s (a, other)", true},
	{"unique, partial", "CREATE UNIQUE INDEX ON %[1]s (a) WHERE b IS NULL OR b > 'x3'", true},
	{"unique, expression", "CREATE UNIQUE INDEX ON %[1]s ((a %% 7), other)", true},
	{"deferred unique", "ALTER TABLE %[1]s ADD UNIQUE (other, b) DEFERRABLE INITIALLY DEFERRED", true},
	{"exclusion", "ALTER TABLE %[1]s ADD EXCLUDE USING gist (int8range(a, a + 2) WITH &&) WHERE (a > 0)", true},
	{"index that raises", "CREATE INDEX ON %[1]s ((10 / (a - 3)))", false},
	{"generated", "ALTER TABLE %[1]s ADD g bigint GENERATED ALWAYS AS (10 / (a - 4)) STORED", false},
	{"trigger before", "CREATE TRIGGER t1 BEFORE INSERT ON %[1]s FOR EACH ROW EXECUTE FUNCTION raise_plain()", false},
	{"trigger after", "CREATE TRIGGER t2 AFTER INSERT ON %[1]s FOR EACH ROW EXECUTE FUNCTION raise_any()", false},
	{"trigger that repairs", "CREATE TRIGGER a0 BEFORE INSERT ON %[1]s FOR EACH ROW EXECUTE FUNCTION repair()", false},
	{"trigger that counts", "CREATE TRIGGER t4 BEFORE INSERT ON %[1]s FOR EACH ROW EXECUTE FUNCTION at_most()", true},
	{"trigger that drops", "CREATE TRIGGER t3 BEFORE INSERT ON %[1]s FOR EACH ROW EXECUTE FUNCTION drop_some()", false},
	{"constraint trigger", "CREATE CONSTRAINT TRIGGER t5 AFTER INSERT ON %[1]s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION raise_plain()", false},
	{"policy", "ALTER TABLE %[1]s FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON %[1]s USING (true) WITH CHECK (a IS DISTINCT FROM 5)", false},
}

// orderless reports whether a table with this feature too would depend on an order that a promotion
// does not promise: rows that lack a parent are tried again later, so a count differs.
func orderless(name string, names []string) bool {
	counts, tree := "trigger that counts", []string{"tree", "deferred tree"}
	return name == counts && slices.ContainsFunc(names, func(n string) bool { return slices.Contains(tree, n) }) ||
		slices.Contains(tree, name) && slices.Contains(names, counts)
}

const drawnFunctions = `
	CREATE TABLE others (id bigint PRIMARY KEY); INSERT INTO others SELECT generate_series(1, 5);
	CREATE FUNCTION raise_plain() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.a = 6 THEN RAISE EXCEPTION 'six'; END IF; RETURN NEW; END $$;
	CREATE FUNCTION raise_any() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.a = 7 THEN RAISE EXCEPTION 'seven' USING ERRCODE = (ARRAY['40001', '57014', '42501', 'XX000', '53100', '08006', '22012', 'ZZ001', '55P03'])[1 + NEW.id % 9]; END IF; RETURN NEW; END $$;
	CREATE FUNCTION drop_some() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.a BETWEEN 8 AND 11 THEN RETURN NULL; END IF; RETURN NEW; END $$;
	CREATE FUNCTION repair() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.a := coalesce(NEW.a, 1); NEW.b := coalesce(NEW.b, 'repaired' || NEW.id); RETURN NEW; END $$;
	CREATE FUNCTION at_most() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN
		EXECUTE format('SELECT count(*) FROM %I WHERE other = $1', TG_TABLE_NAME) INTO n USING NEW.other;
		IF n > 6 THEN RAISE EXCEPTION 'too many of %', NEW.other; END IF; RETURN NEW; END $$;`

// drawRows makes rows whose values often break something.
func drawRows(r *rand.Rand, n int, order bool) []drawn {
	ids, rank := r.Perm(3 * n)[:n], r.Perm(n)
	some := func(n int64) *int64 {
		if r.IntN(10) == 0 {
			return nil
		}
		v := r.Int64N(n) - 1
		return &v
	}
	out := make([]drawn, n)
	for i := range out {
		out[i] = drawn{ID: int64(ids[i]), A: some(40), Other: some(7)}
		if r.IntN(8) > 0 {
			s := fmt.Sprintf("x%d", r.IntN(2*n))
			out[i].B = &s
		}
		if r.IntN(3) > 0 {
			s := []string{`{"qty": 1}`, `{"qty": "two"}`, `{"qty": -1}`, `{}`}[min(r.IntN(12), 3)]
			out[i].Doc = &s
		}
		// A statement may accept what row by row is refused. So a parent comes before its child where
		// the order counts, and rows are never each other's parents.
		above := r.IntN(n)
		switch p := r.IntN(4); {
		case p == 0 && order && i > 0:
			out[i].Parent = &out[r.IntN(i)].ID
		case p < 2 && !order && rank[above] <= rank[i]:
			out[i].Parent = &[]int64{int64(ids[above])}[0]
		case p == 2 && r.IntN(3) == 0:
			out[i].Parent = &[]int64{int64(1_000_000)}[0]
		}
	}
	return out
}

// rowByRow inserts rows one by one, as often as one of those that lacked a parent is accepted.
func rowByRow(t testing.TB, pool *pgxpool.Pool, table string, rows []drawn) (accepted []int64, refused map[string]string) {
	t.Helper()
	ctx := context.Background()
	refused = map[string]string{}
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, "SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL row_security = on"); err != nil {
		t.Fatal(err)
	}
	for again := true; again; {
		again = false
		var later []drawn
		for _, d := range rows {
			var inserted pgconn.CommandTag
			err := pgx.BeginFunc(ctx, tx, func(sp pgx.Tx) (err error) {
				inserted, err = sp.Exec(ctx, "INSERT INTO "+table+" (id, a, b, doc, parent, other) VALUES ($1, $2, $3, $4, $5, $6)", d.ID, d.A, d.B, d.Doc, d.Parent, d.Other)
				return err
			})
			var pg *pgconn.PgError
			switch {
			case err == nil && inserted.RowsAffected() == 0:
				refused[fmt.Sprint(d.ID)] = staging.CodeSuppressed
			case err == nil:
				accepted, again = append(accepted, d.ID), true
				delete(refused, fmt.Sprint(d.ID))
			case errors.As(err, &pg):
				refused[fmt.Sprint(d.ID)] = "sqlstate_" + pg.Code
				if pg.Code == "23503" {
					later = append(later, d)
				}
			default:
				t.Fatal(err)
			}
		}
		rows = later
	}
	slices.Sort(accepted)
	return accepted, refused
}

// drawer returns the pool of a superuser, and that of a role that owns the random tables.
func drawer(t *testing.T) (admin, pool *pgxpool.Pool) {
	t.Helper()
	admin = servertest.Postgres(t)
	role := strings.ReplaceAll("r"+uid.New(), "-", "")
	exec(t, admin, "CREATE ROLE "+role+"; GRANT CREATE, USAGE ON SCHEMA public TO "+role)
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	pool = as(t, admin, role)
	exec(t, pool, drawnFunctions)
	return admin, pool
}

// draws returns how many tables to draw, and the seed.
func draws(tables int) (int, uint64) {
	seed := rand.Uint64()
	if s := os.Getenv("HEADRACE_TABLES"); s != "" {
		tables, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("HEADRACE_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	return tables, seed
}

// TestTheSameRowsAsRowByRow draws tables and rows. A promotion accepts and rejects the same rows as
// row-by-row INSERT does. HEADRACE_TABLES sets the number of tables, HEADRACE_SEED the seed.
func TestTheSameRowsAsRowByRow(t *testing.T) {
	t.Parallel()
	admin, pool := drawer(t)
	tables, seed := draws(40)
	for i := range tables {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		var names []string
		order, ddl := false, ""
		for range 1 + r.IntN(5) {
			f := features[r.IntN(len(features))]
			if slices.Contains(names, f.name) || orderless(f.name, names) {
				continue
			}
			names, order = append(names, f.name), order || f.order
			ddl += f.ddl + ";"
		}
		rows := drawRows(r, 1+r.IntN(120), order)
		table, reference := fmt.Sprintf("t%d", i), fmt.Sprintf("r%d", i)
		for _, name := range []string{table, reference} {
			exec(t, pool, "BEGIN; SET LOCAL row_security = on; CREATE TABLE "+name+" (id bigint PRIMARY KEY, a bigint, b text, doc jsonb, parent bigint, other bigint);"+fmt.Sprintf(ddl, name)+"COMMIT")
		}
		tab := newTable(t, pool, table, staging.Config[drawn]{Key: []string{"id"}})
		tab.SetParts(int64(1+r.IntN(50)), int64(1+r.IntN(50)), r.IntN(4) > 0)
		for rest := rows; len(rest) > 0; {
			n := 1 + r.IntN(len(rest))
			stage(t, tab, load(rest[:n]...), staging.OutcomeStaged)
			rest = rest[n:]
		}
		what := fmt.Sprintf("seed %d, table %d (%s), %d rows", seed, i, strings.Join(names, "; "), len(rows))
		p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		accepted, refused := rowByRow(t, pool, reference, rows)
		promoted := query[[]int64](t, admin, "SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM "+table)
		if diff := cmp.Diff(accepted, promoted); diff != "" && len(accepted)+len(promoted) > 0 {
			t.Errorf("%s: promoted (-row by row +promotion):\n%s", what, diff)
		}
		rejected := codes(t, tab)
		if order { // of several reasons to refuse a row, the order of the tries decides which is met
			for id := range refused {
				if rejected[id] != "" {
					rejected[id] = refused[id]
				}
			}
		}
		if diff := cmp.Diff(refused, rejected); diff != "" {
			t.Errorf("%s: rejected (-row by row +promotion):\n%s", what, diff)
		}
		if p.Conflicts != 0 || p.Rows != len(accepted) || p.RejectedByRule != len(refused) {
			t.Errorf("%s: got %+v", what, p)
		}
		balanced(t, tab)
	}
}
