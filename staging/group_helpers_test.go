package staging_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// sale is a record with rows in three tables.
type sale struct {
	Heads []saleHead // one, if the sale is as it should be
	Lines []saleLine
	Notes []saleNote
}

type saleHead struct {
	ID   string `db:"id"`
	Kind string `db:"kind"`
	Cust *int64 `db:"cust"`
}

type saleLine struct {
	Head string  `db:"head"`
	No   int64   `db:"no"`
	SKU  *string `db:"sku"`
	N    int64   `db:"n"`
}

type saleNote struct {
	Head string `db:"head"`
	Text string `db:"text"`
}

// salesTables refuse rows by every means: NOT NULL, CHECK, foreign keys inside and outside the
// group, and triggers. Notes have no key: a row that comes twice stays.
const salesTables = `
	CREATE TABLE custs (id bigint PRIMARY KEY); INSERT INTO custs VALUES (1), (2), (3);
	CREATE TABLE heads (id text PRIMARY KEY, kind text CHECK (kind <> 'check'), cust bigint NOT NULL REFERENCES custs);
	CREATE TABLE lines (head text NOT NULL REFERENCES heads, no bigint, sku text NOT NULL, n bigint CHECK (n > 0), PRIMARY KEY (head, no));
	CREATE TABLE notes (head text NOT NULL, text text);
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF to_jsonb(NEW)::text LIKE '%trigger%' THEN RAISE EXCEPTION 'a trigger refuses it'; END IF; RETURN NEW; END $$;
	CREATE TRIGGER t BEFORE INSERT ON heads FOR EACH ROW EXECUTE FUNCTION refuse();
	CREATE TRIGGER t BEFORE INSERT ON lines FOR EACH ROW EXECUTE FUNCTION refuse();
	CREATE TRIGGER t AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION refuse();`

// sales is a group of three tables, and the tables.
type sales struct {
	*staging.TableGroup[sale]
	heads *staging.Table[saleHead]
	lines *staging.Table[saleLine]
	notes *staging.Table[saleNote]
}

var salesTargets = []string{"heads", "lines", "notes"}

// configs are those of the three tables.
type configs struct {
	heads staging.Config[saleHead]
	lines staging.Config[saleLine]
	notes staging.Config[saleNote]
}

func salesConfigs(role staging.Role) configs {
	ruled := func(where string) []staging.Rule {
		return []staging.Rule{{Code: "ruled", Reason: "a rule rejects it", Where: where}}
	}
	no := role != staging.RoleAll
	return configs{
		heads: staging.Config[saleHead]{Role: role, NoCreate: no, Key: []string{"id"}, Rules: ruled("kind = 'rule'")},
		lines: staging.Config[saleLine]{Role: role, NoCreate: no, Key: []string{"head", "no"}, ID: "head", Rules: ruled("n = 666")},
		notes: staging.Config[saleNote]{Role: role, NoCreate: no, ID: "head", Rules: ruled("text = 'rule'")},
	}
}

// described is the schema of the companion tables, and the grants for a role.
func described[T any](t testing.TB, pool *pgxpool.Pool, target string, cfg staging.Config[T], to string) (schema, grants string, err error) {
	t.Helper()
	if schema, err = staging.SQL(t.Context(), pool, target, cfg); err == nil {
		grants, err = staging.Grants(t.Context(), pool, target, cfg, to)
	}
	return schema, grants, err
}

func openSales(t testing.TB, pool *pgxpool.Pool) sales {
	t.Helper()
	return openSalesWith(t, pool, salesConfigs(staging.RoleAll))
}

// openSalesWith opens the group. The children come before their parents: the foreign keys decide.
func openSalesWith(t testing.TB, pool *pgxpool.Pool, c configs) sales {
	t.Helper()
	s := sales{heads: newTable(t, pool, "heads", c.heads), lines: newTable(t, pool, "lines", c.lines), notes: newTable(t, pool, "notes", c.notes)}
	s.TableGroup = staging.Group(
		staging.Into(s.lines, func(s sale) []saleLine { return s.Lines }),
		staging.Into(s.notes, func(s sale) []saleNote { return s.Notes }),
		staging.Into(s.heads, func(s sale) []saleHead { return s.Heads }),
	)
	return s
}

func ptr[V any](v V) *V { return &v }

// goodSale is a sale with n lines and a note.
func goodSale(id string, n int) sale {
	s := sale{Heads: []saleHead{{id, "good", ptr(int64(1))}}, Notes: []saleNote{{id, "good"}}}
	for i := range n {
		s.Lines = append(s.Lines, saleLine{id, int64(i), ptr("sku"), 1})
	}
	return s
}

// drawSale draws a sale with 0 to 4 lines and 0 to 2 notes. One in four has a bad row, in any of
// its tables, for any reason.
func drawSale(r *rand.Rand, id string) (s sale, bad bool) {
	s = goodSale(id, r.IntN(5))
	s.Notes = s.Notes[:0]
	for range r.IntN(3) {
		s.Notes = append(s.Notes, saleNote{id, "good"})
	}
	if r.IntN(4) > 0 {
		return s, false
	}
	spoil := []func(){
		func() { s.Heads[0].Kind = "check" },
		func() { s.Heads[0].Kind = "rule" },
		func() { s.Heads[0].Kind = "trigger" },
		func() { s.Heads[0].Cust = nil },
		func() { s.Heads[0].Cust = ptr(int64(99)) },
		func() { s.Heads[0].ID = "nul \x00" + id },
	}
	if len(s.Lines) > 0 {
		l := &s.Lines[r.IntN(len(s.Lines))]
		spoil = append(spoil,
			func() { l.N = 0 }, func() { l.N = 666 }, func() { l.SKU = nil }, func() { l.SKU = ptr("trigger") },
			func() { l.Head = "none" + id }, func() { l.SKU = ptr("\xff") })
	}
	if len(s.Notes) > 0 {
		n := &s.Notes[r.IntN(len(s.Notes))]
		spoil = append(spoil, func() { n.Text = "rule" }, func() { n.Text = "trigger" })
	}
	spoil[r.IntN(len(spoil))]()
	return s, true
}

// rowsOf counts the rows of each sale in a target. It reads the table itself.
func rowsOf(t testing.TB, pool *pgxpool.Pool, target string) map[string]int {
	t.Helper()
	id := "head"
	if target == "heads" {
		id = "id"
	}
	rows, err := pool.Query(t.Context(), "SELECT "+id+" FROM "+target)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, id := range ids {
		out[id]++
	}
	return out
}

// rejectsAt counts the rejects of each place in a table's rejects.
func rejectsAt(t testing.TB, pool *pgxpool.Pool, target string) map[string]int {
	t.Helper()
	rows, err := pool.Query(t.Context(), "SELECT root || ' ' || place FROM "+target+"_rejects WHERE whole")
	if err != nil {
		t.Fatal(err)
	}
	places, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, p := range places {
		out[p]++
	}
	return out
}

// placed is a sale that was staged, at its place.
type placed struct {
	place string
	id    string
	sale
	bad bool
}

func (p placed) rows(target string) int {
	return map[string]int{"heads": len(p.Heads), "lines": len(p.Lines), "notes": len(p.Notes)}[target]
}

// checkSales compares the stores with what was staged, row by row: each sale is in all its tables
// with all its rows, or in none, and then it is rejected. The books balance in each table and in
// sum.
func checkSales(t testing.TB, pool *pgxpool.Pool, g sales, all []placed) {
	t.Helper()
	var sum staging.Books
	ids := map[string]bool{}
	for _, target := range salesTargets {
		rows, rejects := rowsOf(t, pool, target), rejectsAt(t, pool, target)
		for _, p := range all {
			ids[p.id] = true
			want := p.rows(target)
			if p.bad {
				want = 0
			}
			if rows[p.id] != want {
				t.Errorf("%s has %d rows of sale %s (bad: %v), want %d", target, rows[p.id], p.id, p.bad, want)
			}
			if got := rejects[p.place]; !p.bad && got > 0 {
				t.Errorf("%s_rejects has %d entries of the good sale %s", target, got, p.id)
			}
		}
		for id := range rows {
			if !ids[id] {
				t.Errorf("%s has rows of %q, which no sale has made", target, id)
			}
		}
		if n := query[int](t, pool, "SELECT count(*) FROM "+target+"_rejects WHERE NOT whole"); n > 0 {
			t.Errorf("%s_rejects has %d entries of sales that are kept in part", target, n)
		}
		b := query[[]int64](t, pool, `SELECT ARRAY[coalesce(sum(staged), 0), coalesce(sum(promoted), 0), coalesce(sum(conflicts), 0), coalesce(sum(ruled), 0)]::int8[] FROM `+target+`_ledger`)
		if b[0] != b[1]+b[2]+b[3] || int(b[1]) != query[int](t, pool, "SELECT count(*) FROM "+target) {
			t.Errorf("the ledger of %s has staged %d = %d + %d + %d", target, b[0], b[1], b[2], b[3])
		}
		sum.Staged, sum.Rows, sum.Conflicts, sum.RejectedByRule = sum.Staged+b[0], sum.Rows+b[1], sum.Conflicts+b[2], sum.RejectedByRule+b[3]
	}
	everywhere := map[string]bool{}
	for _, target := range salesTargets {
		for place := range rejectsAt(t, pool, target) {
			everywhere[place] = true
		}
	}
	for _, p := range all {
		if p.bad && !everywhere[p.place] {
			t.Errorf("the bad sale %s is not among the rejects", p.id)
		}
	}
	books, err := g.Books(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := books.Balanced(); err != nil {
		t.Error(err)
	}
	if books.Records != int64(len(all)) || books.Staged != sum.Staged || books.Rows != sum.Rows || books.RejectedByRule != sum.RejectedByRule {
		t.Errorf("books %+v, want %d records and the sums %+v", books, len(all), sum)
	}
	each, err := g.BooksByTable(t.Context(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range each {
		if err := b.Balanced(); err != nil {
			t.Errorf("%s: %v", b.Table, err)
		}
	}
}

// salesLoad stages sales as one batch, and returns the place of each.
func salesLoad(all ...sale) staging.Load[sale] { return load(all...) }

func promoteGroup(t testing.TB, g *staging.TableGroup[sale]) staging.PromoteResult {
	t.Helper()
	p, err := g.Promote(t.Context(), staging.PromoteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func stageGroup(t testing.TB, g *staging.TableGroup[sale], l staging.Load[sale], want staging.Outcome) {
	t.Helper()
	got, err := g.Stage(t.Context(), l)
	if err != nil || got != want {
		t.Fatalf("batch %s: %v, %v, want %v", l.Batch.ID, got, err, want)
	}
}

func groupFate(t testing.TB, g *staging.TableGroup[sale], id string, want staging.Fate) {
	t.Helper()
	if f, err := g.Fates(t.Context(), []string{id}); err != nil || f[0] != want {
		t.Errorf("fate of batch %s: %v, %v, want %v", id, f, err, want)
	}
}

// groupRejects lists the rejects of a batch in the group: table, source, code, key.
func groupRejects(t testing.TB, g *staging.TableGroup[sale], batch string) []string {
	t.Helper()
	list, err := g.Rejects(t.Context(), staging.RejectFilter{Batch: batch})
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, r := range list {
		counts[strings.Join([]string{strings.Trim(strings.TrimPrefix(r.Table, `"public".`), `"`), r.Source, r.Code, r.Key}, " ")]++
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%s ×%d", k, counts[k]))
	}
	return out
}
