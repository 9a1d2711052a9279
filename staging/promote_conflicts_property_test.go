package staging_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/staging"
)

// clashing is a row of a random table. Keys come several times; N tells rows apart.
type clashing struct {
	ID    int64   `db:"id"`
	N     int64   `db:"n"`
	A     *int64  `db:"a"`
	B     *string `db:"b"`
	Doc   *string `db:"doc"`
	Other *int64  `db:"other"`
}

func (d clashing) args() []any { return []any{d.ID, d.N, d.A, d.B, d.Doc, d.Other} }

// keyFeatures are features of the tables whose rows clash, besides the others.
var keyFeatures = []feature{
	{"trigger that halves the key", "CREATE TRIGGER k1 BEFORE INSERT ON %[1]s FOR EACH ROW EXECUTE FUNCTION change_key('half')", false},
	{"trigger that folds the key", "CREATE TRIGGER k2 BEFORE INSERT ON %[1]s FOR EACH ROW EXECUTE FUNCTION change_key('fold')", false},
	{"trigger that changes some keys", "CREATE TRIGGER k3 BEFORE INSERT ON %[1]s FOR EACH ROW WHEN (NEW.n %% 3 = 0) EXECUTE FUNCTION change_key('next')", false},
	{"trigger on updates", "CREATE TRIGGER k4 BEFORE UPDATE ON %[1]s FOR EACH ROW EXECUTE FUNCTION refuse_update()", false},
	{"check of a default", "ALTER TABLE %[1]s ADD most bigint DEFAULT 30, ADD CHECK (a < most)", false},
	{"hidden rows", "ALTER TABLE %[1]s FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY; CREATE POLICY i ON %[1]s FOR INSERT WITH CHECK (true); CREATE POLICY u ON %[1]s FOR UPDATE USING (a <> 12); CREATE POLICY s ON %[1]s FOR SELECT USING (a IS DISTINCT FROM 13)", false},
}

const keyFunctions = `
	CREATE FUNCTION change_key() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		NEW.id := CASE TG_ARGV[0] WHEN 'half' THEN NEW.id / 2 WHEN 'fold' THEN NEW.id % 10 ELSE NEW.id + 1 END; RETURN NEW; END $$;
	CREATE FUNCTION refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.a = 14 THEN RAISE EXCEPTION 'fourteen'; END IF; RETURN NEW; END $$;`

// clashPolicy is a conflict policy and its clause.
type clashPolicy struct {
	name   string
	cfg    staging.Config[clashing]
	clause string
}

var clashPolicies = []clashPolicy{
	{"skip", staging.Config[clashing]{Conflict: staging.ConflictSkip}, "ON CONFLICT (id) DO NOTHING"},
	{"replace", staging.Config[clashing]{Conflict: staging.ConflictReplace},
		"ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n, a = EXCLUDED.a, b = EXCLUDED.b, doc = EXCLUDED.doc, other = EXCLUDED.other"},
	{"newer", staging.Config[clashing]{Conflict: staging.ConflictReplace, Newer: "a"},
		"ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n, a = EXCLUDED.a, b = EXCLUDED.b, doc = EXCLUDED.doc, other = EXCLUDED.other WHERE old.a IS NULL OR EXCLUDED.a > old.a"},
}

func drawClashing(r *rand.Rand, n int) []clashing {
	some := func(n int64) *int64 {
		if r.IntN(10) == 0 {
			return nil
		}
		v := r.Int64N(n) - 1
		return &v
	}
	out := make([]clashing, n)
	for i := range out {
		out[i] = clashing{ID: r.Int64N(int64(n)), N: int64(i), A: some(40), Other: some(7)}
		if r.IntN(8) > 0 {
			s := fmt.Sprintf("x%d", r.IntN(2*n))
			out[i].B = &s
		}
		if r.IntN(3) > 0 {
			s := []string{`{"qty": 1}`, `{"qty": "two"}`, `{"qty": -1}`, `{}`}[min(r.IntN(12), 3)]
			out[i].Doc = &s
		}
	}
	return out
}

// verdicts are what became of rows.
type verdicts struct {
	rows      []string
	refused   map[string]string
	conflicts int
	written   int
}

// clashRowByRow inserts rows one by one under a conflict policy.
func clashRowByRow(t testing.TB, pool *pgxpool.Pool, table string, c clashPolicy, rows []clashing) verdicts {
	t.Helper()
	ctx := context.Background()
	v := verdicts{refused: map[string]string{}}
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, "SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL row_security = on"); err != nil {
		t.Fatal(err)
	}
	insert := "INSERT INTO " + table + " AS old (id, n, a, b, doc, other) VALUES ($1, $2, $3, $4, $5, $6) "
	try := func(d clashing, clause string) (n int64, err error) {
		err = pgx.BeginFunc(ctx, tx, func(sp pgx.Tx) error {
			tag, err := sp.Exec(ctx, insert+clause, d.args()...)
			n = tag.RowsAffected()
			return err
		})
		return n, err
	}
	for _, d := range rows {
		n, err := try(d, c.clause)
		var pg *pgconn.PgError
		switch {
		case errors.As(err, &pg):
			v.refused[fmt.Sprint(d.N)] = "sqlstate_" + pg.Code
		case err != nil:
			t.Fatal(err)
		case n > 0:
			v.written++
		default: // dropped by a trigger, or a conflict
			var there bool
			same := "id = $1"
			if c.cfg.Conflict == staging.ConflictReplace && c.cfg.Newer == "" { // a trigger may leave out what changes nothing
				same = "(id, n, a, b, doc, other) IS NOT DISTINCT FROM ($1, $2, $3, $4, $5, $6)"
			}
			if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+table+" WHERE "+same+")", d.args()[:strings.Count(same, "$")]...).Scan(&there); err != nil {
				t.Fatal(err)
			}
			if _, err := try(d, ""); there || err != nil {
				v.conflicts++
			} else {
				v.refused[fmt.Sprint(d.N)] = staging.CodeSuppressed
			}
		}
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	return v
}

const clashColumns = "row(id, n, a, b, doc, other)::text"

// TestTheSameRowsAsRowByRowWithConflicts draws tables and rows of which many have the same key. A
// promotion keeps, rejects and leaves out the rows that row-by-row INSERT … ON CONFLICT does,
// however the batches are divided into promotions.
func TestTheSameRowsAsRowByRowWithConflicts(t *testing.T) {
	t.Parallel()
	admin, pool := drawer(t)
	exec(t, pool, keyFunctions)
	tables, seed := draws(12)
	all := slices.Concat(keyFeatures, keyFeatures, features)
	all = slices.DeleteFunc(all, func(f feature) bool { return strings.HasSuffix(f.name, "tree") })
	for i := range tables {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		c := clashPolicies[r.IntN(len(clashPolicies))]
		var names []string
		ddl := ""
		for range r.IntN(4) {
			f := all[r.IntN(len(all))]
			if slices.Contains(names, f.name) || f.name == "policy" && slices.Contains(names, "hidden rows") || f.name == "hidden rows" && slices.Contains(names, "policy") {
				continue
			}
			if f.name == "deferred unique" && c.cfg.Conflict == staging.ConflictReplace { // checked at the end of a statement: a later row may make room
				continue
			}
			names = append(names, f.name)
			ddl += f.ddl + ";"
		}
		order := slices.ContainsFunc(features, func(f feature) bool { return f.order && slices.Contains(names, f.name) })
		rows := drawClashing(r, 1+r.IntN(60))
		there := r.IntN(len(rows))
		var batches [][]clashing
		for rest := rows[there:]; len(rest) > 0; {
			n := 1 + r.IntN(min(len(rest), 20))
			batches, rest = append(batches, rest[:n]), rest[n:]
		}
		least, judged, judge := int64(1+r.IntN(30)), int64(1+r.IntN(30)), r.IntN(4) > 0
		setup := func(name string) verdicts {
			exec(t, pool, "BEGIN; SET LOCAL row_security = on; CREATE TABLE "+name+" (id bigint PRIMARY KEY, n bigint, a bigint, b text, doc jsonb, other bigint);"+strings.ReplaceAll(strings.ReplaceAll(ddl, "%[1]s", name), "%%", "%")+"COMMIT")
			return clashRowByRow(t, pool, name, c, rows[:there])
		}
		reference := fmt.Sprintf("r%d", i)
		setup(reference)
		want := clashRowByRow(t, pool, reference, c, rows[there:])
		want.rows = query[[]string](t, admin, "SELECT coalesce(array_agg("+clashColumns+" ORDER BY id), '{}') FROM "+reference)
		for _, extent := range []string{"one by one", "at once"} {
			table := fmt.Sprintf("t%d%s", i, map[string]string{"one by one": "o", "at once": "a"}[extent])
			setup(table)
			cfg := c.cfg
			cfg.Key, cfg.ID = []string{"id"}, "n"
			tab := newTable(t, pool, table, cfg)
			tab.SetParts(least, judged, judge)
			what := fmt.Sprintf("seed %d, table %d (%s; %s), %d rows on %d in %d batches, %s, judge %v", seed, i, c.name, strings.Join(names, "; "), len(rows)-there, there, len(batches), extent, judge)
			got := verdicts{refused: map[string]string{}}
			failed := false
			promote := func() {
				p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
				if err != nil {
					t.Errorf("%s: %v", what, err)
					failed = true
				}
				got.conflicts, got.written = got.conflicts+p.Conflicts, got.written+p.Rows
			}
			for _, b := range batches {
				stage(t, tab, load(b...), staging.OutcomeStaged)
				if extent == "one by one" {
					promote()
				}
			}
			if extent == "at once" {
				promote()
			}
			if failed {
				continue
			}
			got.rows = query[[]string](t, admin, "SELECT coalesce(array_agg("+clashColumns+" ORDER BY id), '{}') FROM "+table)
			got.refused = codes(t, tab)
			if diff := cmp.Diff(want.rows, got.rows); diff != "" {
				t.Errorf("%s: target (-row by row +promotion):\n%s", what, diff)
			}
			if order { // of several reasons to refuse a row, the order of the tries decides which is met
				for id := range want.refused {
					if got.refused[id] != "" {
						got.refused[id] = want.refused[id]
					}
				}
			}
			if diff := cmp.Diff(want.refused, got.refused); diff != "" {
				t.Errorf("%s: rejected (-row by row +promotion):\n%s", what, diff)
			}
			if c.name == "skip" && (got.conflicts != want.conflicts || got.written != want.written) || got.conflicts+got.written != want.conflicts+want.written {
				t.Errorf("%s: %d conflicts and %d written, want %d and %d", what, got.conflicts, got.written, want.conflicts, want.written)
			}
			balanced(t, tab)
		}
	}
}
