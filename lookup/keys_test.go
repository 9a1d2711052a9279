package lookup_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// shapes are key columns that the source compares otherwise than byte by byte: a row that is stored
// as in, and is looked up as each of out.
var shapes = []struct {
	column, in string
	out        []string
	folds      bool // compares without regard to case
}{
	{"char(8)", "ab", []string{"ab", "ab  ", "ab      "}, false},
	{"character(1)", "", []string{"", " "}, false},
	{"numeric(10,2)", "1.5", []string{"1.5", "1.50", "1.500", "01.5"}, false},
	{"numeric", "700", []string{"700", "700.0", "7e2"}, false},
	{"text", "ab ", []string{"ab "}, false},
	{"varchar(9)", "ab", []string{"ab"}, false},
	{"citext", "Ab", []string{"Ab", "AB", "ab"}, true},
	{`text COLLATE ci`, "Straße", []string{"Straße", "STRASSE", "straße"}, true},
	{`lower_ci`, "Ab", []string{"AB"}, true},
	{"uuid", "6F1B6D7E-0000-4000-8000-00000000000A", []string{"6f1b6d7e-0000-4000-8000-00000000000a", "{6f1b6d7e000040008000-00000000000A}"}, false},
}

func shapesDB(t *testing.T) *pgxpool.Pool {
	t.Helper()
	db := servertest.UTF8Postgres(t)
	if _, err := db.Exec(t.Context(), `CREATE EXTENSION IF NOT EXISTS citext;
		CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
		CREATE DOMAIN lower_ci AS citext`); err != nil {
		t.Fatal(err)
	}
	return db
}

// A key finds its row however the source stores and compares it.
func TestFetchQueryKeys(t *testing.T) {
	t.Parallel()
	db := shapesDB(t)
	for i, s := range shapes {
		table := fmt.Sprint("shape", i)
		if _, err := db.Exec(t.Context(), fmt.Sprintf("CREATE TABLE %s (k %s PRIMARY KEY, v int)", table, s.column)); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(t.Context(), fmt.Sprintf("INSERT INTO %s VALUES ('%s', 7)", table, s.in)); err != nil {
			t.Fatal(err)
		}
		for _, query := range []string{
			"SELECT k, v FROM %s WHERE k = ANY($1)",
			"SELECT k, v FROM %s WHERE k = ANY($1) ORDER BY v -- the last\n ; ",
			"WITH w AS (SELECT * FROM %s) SELECT * FROM w WHERE k = ANY($1)",
		} {
			fetch := lookup.FetchQuery[string, int](db, fmt.Sprintf(query, table))
			want := map[string]int{}
			for _, k := range s.out {
				want[k] = 7
			}
			got, err := fetch(t.Context(), s.out) // all at once
			if d := cmp.Diff(want, got); err != nil || d != "" {
				t.Errorf("%s, %s: %v %s", s.column, query, err, d)
			}
			for _, k := range s.out {
				got, err := fetch(t.Context(), []string{k})
				if d := cmp.Diff(map[string]int{k: 7}, got); err != nil || d != "" {
					t.Errorf("%s, %s, key %q: %v %s", s.column, query, k, err, d)
				}
			}
		}
	}
}

// A query that cannot be matched by the source works as before: its keys are compared in Go.
func TestFetchQueryWithoutMatching(t *testing.T) {
	t.Parallel()
	db := servertest.Postgres(t)
	if _, err := db.Exec(t.Context(), "CREATE TABLE p (id int8 PRIMARY KEY, name text); INSERT INTO p VALUES (1, 'a'), (2, 'b')"); err != nil {
		t.Fatal(err)
	}
	fetch := lookup.FetchQuery[string, string](db, "SELECT id, name FROM p WHERE id::text = ANY($1)")
	for range 2 {
		got, err := fetch(t.Context(), []string{"2", "3"})
		if d := cmp.Diff(map[string]string{"2": "b"}, got); err != nil || d != "" {
			t.Error(err, d)
		}
	}
	_, err := lookup.FetchQuery[string, string](db, "SELECT id, name FROM nowhere WHERE id = ANY($1)")(t.Context(), []string{"2"})
	if err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("got %v, want the missing table", err)
	}
	twice := lookup.FetchQuery[string, string](db, "SELECT 'a' AS k, name FROM p WHERE 'a' = ANY($1::text[])")
	if _, err := twice(t.Context(), []string{"a"}); !errors.Is(err, lookup.ErrDuplicateKey) {
		t.Errorf("got %v, want ErrDuplicateKey", err)
	}
}

// A whole table is keyed as the source compares, or is refused: a map cannot ignore case.
func TestFromQueryKeys(t *testing.T) {
	t.Parallel()
	db := shapesDB(t)
	want := map[string]string{"char(8)": "ab", "character(1)": "", "numeric(10,2)": "1.5", "numeric": "700", "text": "ab ", "varchar(9)": "ab"}
	for i, s := range shapes {
		if s.column == "uuid" {
			continue // not a text: the driver reads it in its canonical form
		}
		table := fmt.Sprint("shape", i)
		if _, err := db.Exec(t.Context(), fmt.Sprintf("CREATE TABLE %s (k %s PRIMARY KEY, v int); INSERT INTO %[1]s VALUES ('%[3]s', 7); CREATE VIEW v_%[1]s AS TABLE %[1]s", table, s.column, s.in)); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{table, "v_" + table} {
			got, err := load(t, lookup.FromQuery[string, int](db, "SELECT k, v FROM "+from))
			if s.folds {
				if !errors.Is(err, lookup.ErrConfig) || !strings.Contains(err.Error(), "key column k") {
					t.Errorf("%s of %s: got %v, %v, want ErrConfig with the column", s.column, from, got, err)
				}
				// The way out that the error names.
				got, err = load(t, lookup.FromQuery[string, int](db, `SELECT lower(k::text) COLLATE "C" AS k, v FROM `+from))
				if d := cmp.Diff(map[string]int{strings.ToLower(s.in): 7}, got); err != nil || d != "" {
					t.Errorf("%s of %s in lower case: %v %s", s.column, from, err, d)
				}
				continue
			}
			if d := cmp.Diff(map[string]int{want[s.column]: 7}, got); err != nil || d != "" {
				t.Errorf("%s of %s: %v %s", s.column, from, err, d)
			}
		}
	}
	// A part of a composite key.
	got, err := load(t, lookup.FromQuery[place, int](db, "SELECT 'US'::char(4) AS country, '10001'::char(9) AS zip, 7 AS v"))
	if d := cmp.Diff(map[place]int{{"US", "10001"}: 7}, got); err != nil || d != "" {
		t.Error(err, d)
	}
}

// ALTER TABLE under a running program: no refresh and no fetch fails, directly and through a pooler
// that keeps prepared statements.
func TestAlterTable(t *testing.T) {
	t.Parallel()
	url := servertest.PostgresURL(t)
	admin := poolOf(t, url)
	exec := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for way, at := range map[string]string{"direct": url, "pooler": servertest.PgBouncer(t, url)} {
		exec("DROP TABLE IF EXISTS product; CREATE TABLE product (sku text PRIMARY KEY, weight int NOT NULL); INSERT INTO product VALUES ('a', 1), ('b', 2)")
		db := poolOf(t, at)
		all := lookup.FromQuery[string, int64](db, "SELECT sku, weight FROM product")
		star := lookup.FromQuery[string, product2](db, "SELECT * FROM product")
		some := lookup.FetchQuery[string, int64](db, "SELECT sku, weight FROM product WHERE sku = ANY($1)")
		check := func(what string, want int64, withStar bool) {
			t.Helper()
			for range 12 { // on every connection
				got, err := load(t, all)
				if err != nil || got["a"] != want {
					t.Errorf("%s, %s: FromQuery: got %v, %v, want a = %d", way, what, got, err, want)
				}
				got, err = some(t.Context(), []string{"a", "x"})
				if err != nil || got["a"] != want || len(got) != 1 {
					t.Errorf("%s, %s: FetchQuery: got %v, %v, want a = %d", way, what, got, err, want)
				}
				if !withStar {
					continue
				}
				if got, err := load(t, star); err != nil || got["a"].Weight != want {
					t.Errorf("%s, %s: FromQuery of *: got %v, %v, want a = %d", way, what, got, err, want)
				}
			}
		}
		check("before", 1, true)
		exec("ALTER TABLE product ALTER weight TYPE bigint; UPDATE product SET weight = 5000000000 WHERE sku = 'a'")
		check("a wider column", 5_000_000_000, true)
		exec("ALTER TABLE product ALTER sku TYPE char(10)")
		check("a padded key", 5_000_000_000, true)
		exec("ALTER TABLE product ADD note text")
		if _, err := load(t, star); !errors.Is(err, lookup.ErrConfig) {
			t.Errorf("%s: a new column without a field: got %v, want ErrConfig", way, err)
		}
		check("another column", 5_000_000_000, false)
		exec("ALTER TABLE product DROP note; ALTER TABLE product ALTER weight TYPE numeric(20, 3)")
		check("a numeric column", 5_000_000_000, true)
	}
}

type product2 struct {
	SKU    string
	Weight int64
}

func poolOf(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	db, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// In a transaction, the try to let the source match keys does not end what follows.
func TestFetchQueryInATransaction(t *testing.T) {
	t.Parallel()
	db := servertest.Postgres(t)
	if _, err := db.Exec(t.Context(), "CREATE TABLE p (id int8 PRIMARY KEY, name text); INSERT INTO p VALUES (1, 'a'), (2, 'b')"); err != nil {
		t.Fatal(err)
	}
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // the test has ended
	for _, query := range []string{
		"SELECT id, name FROM p WHERE id::text = ANY($1)", // the source cannot match it: bigint = text
		"SELECT id::text, name FROM p WHERE id::text = ANY($1)",
	} {
		fetch := lookup.FetchQuery[string, string](tx, query)
		for range 2 {
			got, err := fetch(t.Context(), []string{"2", "3"})
			if d := cmp.Diff(map[string]string{"2": "b"}, got); err != nil || d != "" {
				t.Errorf("%s: %v %s", query, err, d)
			}
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Errorf("the caller's transaction: got %v, want a commit", err)
	}
}

// A key that the source's column cannot hold is missing, and the others of the call are found.
func TestFetchQueryKeysThatNoRowHas(t *testing.T) {
	t.Parallel()
	db := servertest.UTF8Postgres(t)
	if _, err := db.Exec(t.Context(), `CREATE TABLE p (a text, b int4, c uuid, d numeric(3, 1), e text);
		INSERT INTO p VALUES ('k', 1, '6f1b6d7e-0000-4000-8000-00000000000a', '1.5', 'x'), ('l', 2, '6f1b6d7e-0000-4000-8000-00000000000b', '2', '9')`); err != nil {
		t.Fatal(err)
	}
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // the test has ended
	junk := []string{"a\x00b", "\xff", "", "12345678901234567890", "0x", "27.11.26 \xc3", "k\x00"}
	for column, keys := range map[string][]string{
		"a": {"k", "l"}, "b": {"1", "2"}, "b + 0": {"1", "2"}, "c": {"6f1b6d7e-0000-4000-8000-00000000000a", "6f1b6d7e-0000-4000-8000-00000000000b"},
		"d": {"1.5", "2"},
	} {
		asked := append(append([]string{keys[0]}, junk...), keys[1])
		want := map[string]int{keys[0]: 1, keys[1]: 2}
		for way, querier := range map[string]lookup.Querier{"pool": db, "transaction": tx} {
			fetch := lookup.FetchQuery[string, int](querier, fmt.Sprintf("SELECT %s, b AS n FROM p WHERE %[1]s = ANY($1) -- all", column))
			got, err := fetch(t.Context(), asked)
			if d := cmp.Diff(want, got); err != nil || d != "" {
				t.Errorf("%s, %s: %v %s", column, way, err, d)
			}
			if got, err := fetch(t.Context(), junk[:2]); err != nil || len(got) != 0 {
				t.Errorf("%s, %s: got %v, %v for keys that no row has, want none", column, way, got, err)
			}
		}
	}
	big, err := lookup.FetchQuery[int64, string](db, "SELECT b, a FROM p WHERE b = ANY($1)")(t.Context(), []int64{1 << 40, 2, -1 << 63})
	if d := cmp.Diff(map[int64]string{2: "l"}, big); err != nil || d != "" {
		t.Errorf("numbers that the column cannot hold: %v %s", err, d)
	}
	// The same errors of a row's own stay errors.
	for _, value := range []string{"e::int", "to_date(e, 'YYYY-MM')", "2147483647 + b"} {
		_, err := lookup.FetchQuery[string, string](db, "SELECT a, ("+value+")::text FROM p WHERE a = ANY($1)")(t.Context(), []string{"k", "l"})
		if err == nil || !strings.Contains(err.Error(), "SQLSTATE 22") {
			t.Errorf("%s: got %v, want the error of the row", value, err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Errorf("the caller's transaction: got %v, want a commit", err)
	}
}

// A type that the source's column cannot hold is an error: its keys are not reported as missing,
// also on a connection that has encoded other keys before.
func TestFetchQueryTypeThatNoRowHas(t *testing.T) {
	t.Parallel()
	db := servertest.UTF8Postgres(t)
	if _, err := db.Exec(t.Context(), `CREATE TABLE p (a text, b int4, c uuid, d timestamptz, e date, f bool, g numeric, h varchar(9));
		INSERT INTO p VALUES ('k', 1, gen_random_uuid(), now(), now(), true, 1, 'k')`); err != nil {
		t.Fatal(err)
	}
	for _, column := range []string{"a", "b", "h"} { // what pgx remembers of it changes its errors
		if _, err := lookup.FetchQuery[label, int](db, "SELECT "+column+", 1 AS n FROM p WHERE "+column+" = ANY($1)")(t.Context(), []label{"k"}); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)
	fetchFails(t, db, "b = ANY($1)", true, "integer")
	fetchFails(t, db, "b = ANY($1)", [16]byte{1}, "integer")
	fetchFails(t, db, "b = ANY($1)", ticket{1}, "integer")
	fetchFails(t, db, "b = ANY($1)", now, "integer")
	fetchFails(t, db, "b = ANY($1)", netip.MustParseAddr("10.0.0.1"), "integer")
	fetchFails(t, db, "c = ANY($1)", 1, "uuid")
	fetchFails(t, db, "c = ANY($1)", ticket{1}, "uuid")
	fetchFails(t, db, "d = ANY($1)", ticket{1}, "timestamp with time zone")
	fetchFails(t, db, "e = ANY($1)", time.Second, "date")
	fetchFails(t, db, "f = ANY($1)", ticket{1}, "boolean")
	fetchFails(t, db, "g = ANY($1)", netip.MustParseAddr("::1"), "numeric")
	fetchFails(t, db, "a = ANY($1)", 1, "text")
	fetchFails(t, db, "a = ANY($1)", true, "text")
	fetchFails(t, db, "a = ANY($1)", 1.5, "text")
	fetchFails(t, db, "a = ANY($1)", now, "text")
	fetchFails(t, db, "h = ANY($1)", now, "character varying")
	fetchFails(t, db, "h = ANY($1)", uint8(1), "character varying")
	for _, where := range []string{"a = $1", "b = $1"} {
		fetchFails(t, db, where, "1", "must be an array")
	}
	fetchFails(t, db, "b = $1", 1, "must be an array")
}

// label is a text, and ticket is one only when it is printed.
type (
	label  string
	ticket struct{ N int }
)

func (n ticket) String() string { return fmt.Sprint("ticket ", n.N) }

func fetchFails[K comparable](t *testing.T, db *pgxpool.Pool, where string, key K, want string) {
	t.Helper()
	column, _, _ := strings.Cut(where, " ")
	fetch := lookup.FetchQuery[K, int](db, "SELECT "+column+", 1 AS n FROM p WHERE "+where)
	for range 2 {
		got, err := fetch(t.Context(), []K{key})
		if !errors.Is(err, lookup.ErrConfig) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), reflect.TypeFor[K]().String()) ||
			!strings.Contains(where, "ANY") != !strings.Contains(err.Error(), "the key column "+column+" of type ") {
			t.Errorf("%s with a key of type %T: got %v, %v, want ErrConfig with the column, its type %q and the key type", where, key, got, err, want)
		}
	}
}

// A type whose texts fit the column is no wrong type: a text that does not is a missing key.
func TestFetchQueryTypeThatIsPrinted(t *testing.T) {
	t.Parallel()
	db := servertest.Postgres(t)
	if _, err := db.Exec(t.Context(), `CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE TABLE p (a numeric, m mood, n text); INSERT INTO p VALUES (7, 'ok', 'printed')`); err != nil {
		t.Fatal(err)
	}
	for _, column := range []string{"a", "m", "n"} {
		fetch := lookup.FetchQuery[pgtype.Text, int](db, "SELECT "+column+", 1 AS n FROM p WHERE "+column+"::text = ANY($1)")
		for range 2 {
			got, err := fetch(t.Context(), []pgtype.Text{{String: "-", Valid: true}, {String: "\xff", Valid: true}})
			if err != nil || len(got) != 0 {
				t.Errorf("%s: got %v, %v, want no row and no error", column, got, err)
			}
		}
	}
	fetch := lookup.FetchQuery[number, int](db, "SELECT a, 1 AS n FROM p WHERE a = ANY($1)")
	for range 2 {
		got, err := fetch(t.Context(), []number{{""}, {"7"}, {"seven"}, {"7.5"}})
		if d := cmp.Diff(map[number]int{{"7"}: 1}, got); err != nil || d != "" {
			t.Errorf("%v %s", err, d)
		}
		if got, err := fetch(t.Context(), []number{{"seven"}}); err != nil || len(got) != 0 {
			t.Errorf("got %v, %v, want no row and no error", got, err)
		}
	}
}

// number is a number that is printed.
type number struct{ text string }

func (n number) String() string { return n.text }

func (n *number) Scan(v any) error {
	n.text = fmt.Sprint(v)
	return nil
}

// A number or a time that pgx would change on its way to the column finds no other row, and costs
// no other key.
func TestFetchQueryValuesThatNoRowHas(t *testing.T) {
	t.Parallel()
	for mode, protocol := range map[string]pgx.QueryExecMode{"prepared": pgx.QueryExecModeCacheStatement, "exec": pgx.QueryExecModeExec, "simple": pgx.QueryExecModeSimpleProtocol} {
		cfg := servertest.UTF8Postgres(t).Config()
		cfg.ConnConfig.DefaultQueryExecMode = protocol
		db, err := pgxpool.NewWithConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		late := time.Date(600_000, 1, 1, 0, 0, 0, 0, time.UTC)
		wrapped := time.UnixMicro(late.Unix() * 1_000_000).UTC() // overflows
		if _, err := db.Exec(t.Context(), fmt.Sprintf(`CREATE DOMAIN positive AS int CHECK (value > 0);
			CREATE TABLE p (i int4, b int8, f float8, n numeric, d positive, at timestamptz, day date, text text);
			INSERT INTO p VALUES (1, -9223372036854775808, 'NaN', 1, 1, '%s', '2020-01-01', 'k')`, wrapped.Format(time.RFC3339Nano))); err != nil {
			t.Fatal(err)
		}
		inf, nan := math.Inf(1), math.NaN()
		for column, want := range map[string]map[float64]int{"i": {1: 7}, "d": {1: 7}, "n": {1: 7}, "b": {}, "f": {}} {
			got, err := lookup.FetchQuery[float64, int](db, "SELECT "+column+", 7 AS v FROM p WHERE "+column+" = ANY($1)")(t.Context(),
				[]float64{1, 1.5, nan, inf, -inf, 1e300, -1, 1 << 62})
			if d := cmp.Diff(want, got); err != nil || d != "" {
				t.Errorf("%s, column %s: %v %s", mode, column, err, d)
			}
		}
		small, err := lookup.FetchQuery[uint8, int](db, "SELECT i, 7 AS v FROM p WHERE i = ANY($1)")(t.Context(), []uint8{1, 0, 255})
		if d := cmp.Diff(map[uint8]int{1: 7}, small); err != nil || d != "" {
			t.Errorf("%s, bytes: %v %s", mode, err, d)
		}
		cast, err := lookup.FetchQuery[int, int](db, "SELECT d, 7 AS v FROM p WHERE d = ANY($1::positive[])")(t.Context(), []int{1, -1, 0, 1 << 40})
		if d := cmp.Diff(map[int]int{1: 7}, cast); err != nil || d != "" {
			t.Errorf("%s, a domain: %v %s", mode, err, d)
		}
		for column, want := range map[string]map[time.Time]int{"at": {wrapped: 7}, "day": {time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC): 7}} {
			keys := []time.Time{late, {}, time.Date(300_000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-290_000, 1, 1, 0, 0, 0, 0, time.UTC)}
			for k := range want {
				keys = append(keys, k)
			}
			got, err := lookup.FetchQuery[time.Time, int](db, "SELECT "+column+", 7 AS v FROM p WHERE "+column+" = ANY($1)")(t.Context(), keys)
			found := map[time.Time]int{}
			for k, v := range got { // the driver may return it as local time
				found[k.UTC()] = v
			}
			if d := cmp.Diff(want, found); err != nil || d != "" {
				t.Errorf("%s, column %s: %v %s", mode, column, err, d)
			}
		}
		got, err := lookup.FetchQuery[string, int](db, "SELECT text, 7 AS v FROM p WHERE text = ANY($1)")(t.Context(), []string{"\x00", "k", "k\x00", "\xff"})
		if d := cmp.Diff(map[string]int{"k": 7}, got); err != nil || d != "" {
			t.Errorf("%s, texts: %v %s", mode, err, d)
		}
	}
}
