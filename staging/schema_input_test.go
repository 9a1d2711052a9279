package staging_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

func TestBadInputIsNamed(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE good (id text PRIMARY KEY, n bigint, note text, at timestamptz); CREATE VIEW view AS SELECT * FROM good; CREATE MATERIALIZED VIEW mat AS SELECT * FROM good;
		CREATE TABLE types (id text, n uuid, note int, at timestamptz); CREATE TABLE lacks (id text, n bigint, at timestamptz); CREATE TABLE wants (id text, n bigint, note text, at timestamptz, x int NOT NULL);
		CREATE TABLE gen (id text, n bigint GENERATED ALWAYS AS (1) STORED, note text, at timestamptz); CREATE TABLE ident (id text, n bigint GENERATED ALWAYS AS IDENTITY, note text, at timestamptz);
		CREATE TABLE nokey (id text NOT NULL, n bigint, note text, at timestamptz)`)
	type C = staging.Config[item]
	type cfg struct {
		target string
		c      C
		is     error
		names  []string
	}
	for name, x := range map[string]cfg{
		"no target":        {"nothing", C{}, staging.ErrNoTarget, []string{"nothing", "Create"}},
		"a view":           {"view", C{}, staging.ErrNotTable, []string{"view is a view"}},
		"a matview":        {"mat", C{}, staging.ErrNotTable, []string{"materialized view"}},
		"wrong types":      {"types", C{}, staging.ErrDrift, []string{`"n"`, "int64", "uuid", `"note"`, "*string", "integer"}},
		"unknown column":   {"lacks", C{}, staging.ErrDrift, []string{`"note" is missing`}},
		"not null":         {"wants", C{}, staging.ErrConfig, []string{`"x"`, "NOT NULL"}},
		"generated":        {"gen", C{}, staging.ErrConfig, []string{`"n"`, "GENERATED"}},
		"identity":         {"ident", C{}, staging.ErrConfig, []string{`"n"`, "IDENTITY"}},
		"no unique index":  {"nokey", C{Key: []string{"id"}}, staging.ErrConfig, []string{`"id"`, "unique"}},
		"key may be null":  {"good", C{Key: []string{"n"}}, staging.ErrConfig, []string{`"n"`, "NULL"}},
		"key missing":      {"good", C{Key: []string{"zzz"}}, staging.ErrConfig, []string{`"zzz"`}},
		"bad rule":         {"good", C{Rules: []staging.Rule{{Code: "c", Where: "zzz > 1"}}}, staging.ErrConfig, []string{`rule "c"`, "zzz"}},
		"bad merge":        {"good", C{Merges: []staging.Merge{{Name: "m", SQL: "SELECT zzz FROM promoted"}}}, staging.ErrConfig, []string{"Merges", "zzz"}},
		"bad condition":    {"good", C{Key: []string{"id"}, Conflict: staging.ConflictReplace, ReplaceIf: "zzz"}, staging.ErrConfig, []string{"ReplaceIf (zzz)"}},
		"merge, replace":   {"good", C{Key: []string{"id"}, Conflict: staging.ConflictReplace, Merges: []staging.Merge{{Name: "m", SQL: "SELECT 1"}}}, staging.ErrConfig, []string{"Merge"}},
		"replace, no key":  {"good", C{Conflict: staging.ConflictReplace}, staging.ErrConfig, []string{"Key"}},
		"columns, no fill": {"good", C{Columns: []staging.Column{{Name: "id"}}}, staging.ErrConfig, []string{"Fill"}},
		"timeout":          {"good", C{LockTimeout: -1}, staging.ErrConfig, []string{"LockTimeout", "-1ns"}},
		"bad name":         {`a".b`, C{}, staging.ErrConfig, []string{"quote"}},
		"three names":      {`a.b.c`, C{}, staging.ErrConfig, []string{"a.b.c"}},
		"no name":          {``, C{}, staging.ErrConfig, []string{"1 to 63 bytes"}},
	} {
		_, err := staging.New(t.Context(), pool, x.target, x.c)
		if err == nil || x.is != nil && !errors.Is(err, x.is) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, n := range x.names {
			if !strings.Contains(err.Error(), n) {
				t.Errorf("%s: the error does not say %q: %v", name, n, err)
			}
		}
		t.Log(err)
	}
	type odd struct {
		ID string   `db:"id"`
		N  chan int `db:"n"`
	}
	if _, err := staging.New(t.Context(), pool, "good", staging.Config[odd]{}); !errors.Is(err, staging.ErrDrift) {
		t.Errorf("a channel: %v", err)
	}
	if _, err := staging.New(t.Context(), pool, "good", staging.Config[int]{}); !errors.Is(err, staging.ErrConfig) {
		t.Errorf("rows of int: %v", err)
	}
	if _, err := staging.New(t.Context(), nil, "good", C{}); !errors.Is(err, staging.ErrConfig) {
		t.Errorf("no pool: %v", err)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_staging\\_%'"); n != 0 {
		t.Errorf("%d tables were left behind by what failed", n)
	}
}

func TestHostileNamesDoNoHarm(t *testing.T) {
	t.Parallel()
	pool := servertest.UTF8Postgres(t)
	exec(t, pool, "CREATE TABLE victim (n int)")
	type row struct {
		A string  `db:"a\"; DROP TABLE victim; --" dbtype:"text"`
		B string  `db:"%s' OR '1'='1" dbtype:"text"`
		C float64 `db:"\\" dbtype:"double precision"`
	}
	for _, target := range []string{
		"x; DROP TABLE victim; --", `"x""; DROP TABLE victim; --"`, "x'; DROP TABLE victim; --", `\'; DROP TABLE victim; --`, "%s %d %", "SELECT", "ÄÖÜ 表",
		strings.Repeat("long", 15) + "abc", strings.Repeat("long", 15) + "abd", strings.Repeat("ä", 31), `"a.b"`, "{staging}",
	} {
		tab := newTable(t, pool, target, staging.Config[row]{Create: true, Key: []string{`a"; DROP TABLE victim; --`}, Rules: []staging.Rule{{Code: "six", Reason: `%s\'; DROP TABLE victim`, Where: `"\" > 5`}}})
		l := load(row{"1", "2", 3}, row{"2", "'; DROP TABLE victim; --", 4}, row{"3", "", 6})
		l.Batch.Worker = "'; DROP TABLE victim; --\x00"
		stage(t, tab, l, staging.OutcomeStaged)
		if p := promote(t, tab); p.Rows != 2 || p.RejectedByRule != 1 {
			t.Errorf("%s: %+v", target, p)
		}
		stage(t, tab, l, staging.OutcomeAlreadyPromoted)
		balanced(t, tab)
		if _, err := tab.Rejects(t.Context(), staging.RejectFilter{Code: "' OR 1=1"}); err != nil {
			t.Error(err)
		}
	}
	if n := query[int](t, pool, "SELECT count(*) FROM victim"); n != 0 {
		t.Error(n)
	}
}

func TestSeveralProgramsStartAtOnce(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			if _, err := staging.New(t.Context(), pool, "items", staging.Config[item]{Create: true, Key: []string{"id"}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// as returns a pool that works as another role.
func as(t *testing.T, pool *pgxpool.Pool, role string) *pgxpool.Pool {
	cfg := pool.Config()
	cfg.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, "SET ROLE "+role)
		return err
	}
	p, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	role := strings.ReplaceAll("r"+uid.New(), "-", "")
	exec(t, pool, "CREATE ROLE "+role+"; CREATE TABLE items (id text PRIMARY KEY, n bigint, note text, at timestamptz); REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role)
		if err != nil {
			t.Error(err)
		}
	})
	other := as(t, pool, role)
	open := func(want ...string) {
		t.Helper()
		_, err := staging.New(t.Context(), other, "items", staging.Config[item]{Key: []string{"id"}})
		if len(want) == 0 {
			if err != nil {
				t.Error(err)
			}
			return
		}
		if !errors.Is(err, staging.ErrPrivilege) {
			t.Errorf("%v", err)
		}
		for _, w := range want {
			if err != nil && !strings.Contains(err.Error(), w) {
				t.Errorf("the error does not say %q: %v", w, err)
			}
		}
		t.Log(err)
	}
	open("SELECT", `"items"`, role)
	exec(t, pool, "GRANT SELECT, INSERT ON items TO "+role)
	open(`GRANT CREATE ON SCHEMA "public"`)
	itemTable(t, pool) // a role with more rights makes the tables
	open("items_control")
	exec(t, pool, "GRANT ALL ON ALL TABLES IN SCHEMA public TO "+role)
	open()
}

func TestDriftIsExplained(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	type wider struct {
		item
		Extra string `db:"extra"`
	}
	exec(t, pool, "ALTER TABLE items ADD COLUMN extra text")
	stage(t, tab, load(items("a", 3)...), staging.OutcomeStaged)
	// A new version with one more column starts while the old one runs: the column is added, and the
	// rows that are staged stay.
	wide := newTable(t, pool, "items", staging.Config[wider]{Key: []string{"id"}})
	stage(t, tab, load(items("b", 3)...), staging.OutcomeStaged)
	stage(t, wide, load(wider{items("c", 1)[0], "more"}), staging.OutcomeStaged)
	// The old one would lose the column.
	if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); !errors.Is(err, staging.ErrDrift) || !strings.Contains(err.Error(), `"extra"`) {
		t.Errorf("the old version promotes what it does not know: %v", err)
	}
	if p := promote(t, wide); p.Rows != 7 {
		t.Errorf("%+v", p)
	}
	// Back to the old one: what is staged decides.
	stage(t, wide, load(wider{items("d", 1)[0], "more"}), staging.OutcomeStaged)
	var drift *staging.DriftError
	_, err := staging.New(t.Context(), pool, "items", staging.Config[item]{Key: []string{"id"}})
	if !errors.As(err, &drift) || drift.Drifts[0].Column != "extra" || drift.Drifts[0].Found != "text" {
		t.Errorf("%v", err)
	}
	promote(t, wide)
	newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}})
	// A type that changes.
	exec(t, pool, "ALTER TABLE items ALTER COLUMN n TYPE numeric(20,2)")
	newer := newTable(t, pool, "items", staging.Config[item]{Key: []string{"id"}})
	stage(t, newer, load(items("e", 3)...), staging.OutcomeStaged)
	if p := promote(t, newer); p.Rows != 3 {
		t.Errorf("%+v", p)
	}
	type typed struct {
		ID string `db:"id" dbtype:"varchar(5)"`
	}
	_, err = staging.New(t.Context(), pool, "items", staging.Config[typed]{})
	if !errors.As(err, &drift) || drift.Drifts[0].Expected != "varchar(5)" || drift.Drifts[0].Found != "text" {
		t.Errorf("%v", err)
	}
	// A Go type that has no binary form for the column.
	exec(t, pool, "ALTER TABLE items ADD COLUMN ip inet")
	type textual struct {
		ID string  `db:"id"`
		IP *string `db:"ip" dbtype:"inet"`
	}
	_, err = staging.New(t.Context(), pool, "items", staging.Config[textual]{})
	if !errors.As(err, &drift) || drift.Drifts[0].Found != "inet" || !strings.Contains(err.Error(), "netip.Addr") {
		t.Errorf("got %v, want an error that names a type for inet", err)
	}
	exec(t, pool, "ALTER TABLE items DROP COLUMN ip")
	// The staging tables' own column.
	for _, change := range []string{"ALTER COLUMN hr_record TYPE integer", "DROP COLUMN hr_record"} {
		exec(t, pool, "ALTER TABLE items_staging_b "+change)
		_, err = staging.New(t.Context(), pool, "items", staging.Config[item]{Key: []string{"id"}})
		if !errors.As(err, &drift) || drift.Drifts[0].Column != "hr_record" || drift.Drifts[0].Expected != "bigint" {
			t.Errorf("%s: %v", change, err)
		}
	}
}

// A row that this package did not write stops a promotion, with its reason, and nothing is lost.
func TestARowOfAnotherProgramIsNamed(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	stage(t, tab, load(items("a", 3)...), staging.OutcomeStaged)
	exec(t, pool, "INSERT INTO items_staging_a (id) VALUES ('foreign')")
	if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); err == nil || !strings.Contains(err.Error(), "hr_record") || !strings.Contains(err.Error(), "another program") {
		t.Errorf("%v", err)
	}
	exec(t, pool, "DELETE FROM items_staging_a WHERE id = 'foreign'")
	if p := promote(t, tab); p.Rows != 3 {
		t.Errorf("%+v", p)
	}
	balanced(t, tab)
}

// The floor: what is older than the ledger remembers is set aside, whenever the pruning happens.
func TestRetention(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	pruner, tab := ledgerOnly(t, pool, staging.Config[item]{}), ledgerOnly(t, pool, staging.Config[item]{})
	old, fresh := load(items("a", 5)...), load(items("b", 5)...)
	old.Batch.Sealed, fresh.Batch.Sealed = time.Now().Add(-50*time.Hour), time.Now().Add(time.Minute)
	stage(t, tab, old, staging.OutcomeStaged)
	promote(t, tab)
	exec(t, pool, "UPDATE items_ledger SET committed_at = now() - interval '49 hours'")
	// It comes once more, is staged while the ledger does not look, and the ledger forgets it before
	// the promotion inserts it.
	exec(t, pool, "CREATE TABLE hidden AS SELECT * FROM items_ledger; TRUNCATE items_ledger")
	stage(t, tab, old, staging.OutcomeStaged)
	stage(t, tab, fresh, staging.OutcomeStaged)
	exec(t, pool, "INSERT INTO items_ledger SELECT * FROM hidden")
	tab.SetHook(func(p string) error {
		if p == "after lock" {
			if n, err := pruner.Prune(context.Background(), time.Now()); err != nil || n != 1 {
				t.Error(n, err)
			}
		}
		return nil
	})
	p := promote(t, tab)
	if len(p.TooOld) != 1 || p.TooOld[0] != old.Batch.ID || p.Rows != 5 || len(p.Batches) != 1 {
		t.Errorf("%+v", p)
	}
	if _, err := pruner.Stage(t.Context(), old); !errors.Is(err, staging.ErrTooOld) {
		t.Errorf("staging an old batch: %v", err)
	}
	count(t, pool, 10)
	balanced(t, tab)
}

// A target that is created gets the types that the rows have in Postgres, whatever Go type carries
// them. What has no such type, and rows whose columns would be lost, are refused by name.
func TestCreatedTargetHasTheTypesOfTheRows(t *testing.T) {
	t.Parallel()
	type row struct {
		ID      int64                    `db:"id"`
		Name    sql.NullString           `db:"name"`
		Seen    sql.NullTime             `db:"seen"`
		Count   sql.Null[int32]          `db:"count"`
		Price   pgtype.Numeric           `db:"price"`
		Tag     pgtype.UUID              `db:"tag"`
		From    netip.Addr               `db:"from"`
		Doc     struct{ A int }          `db:"doc"`
		Details map[string]any           `db:"details"`
		Tags    pgtype.FlatArray[string] `db:"tags"`
	}
	pool := servertest.Postgres(t)
	if _, err := staging.New(t.Context(), pool, "rows", staging.Config[row]{Create: true, Key: []string{"id"}}); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := pool.QueryRow(t.Context(), `SELECT replace(string_agg(format_type(atttypid, atttypmod), ', ' ORDER BY attnum), '"', '') -- quote_all_identifiers
		FROM pg_attribute WHERE attrelid = 'rows'::regclass AND attnum > 0`).Scan(&got); err != nil {
		t.Fatal(err)
	}
	if want := "bigint, text, timestamp with time zone, integer, numeric, uuid, inet, jsonb, jsonb, text[]"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}

	type Base struct {
		ID int64 `db:"id"`
	}
	type deep struct{ *Base }
	refused := func(name string, err error, part string) {
		if !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: got %v, want an ErrConfig with %q", name, err, part)
		}
	}
	_, err := staging.New(t.Context(), pool, "none", staging.Config[struct {
		*Base
		Name string `db:"name"`
	}]{Create: true})
	refused("an embedded pointer", err, "*staging_test.Base")
	_, err = staging.New(t.Context(), pool, "none", staging.Config[struct {
		*deep
		Name string `db:"name"`
	}]{Create: true})
	refused("an embedded pointer further in", err, "*staging_test.deep")
	_, err = staging.New(t.Context(), pool, "none", staging.Config[Base]{Create: true, Key: []string{"ID"}})
	refused("a key that is no column", err, `Key[0] is "ID"`)
	_, err = staging.New(t.Context(), pool, "none", staging.Config[Base]{
		Create: true, Columns: []staging.Column{{Name: strings.Repeat("x", 64), Type: "int"}}, Fill: func(b *Base, r *staging.Row) { r.Int(b.ID) },
	})
	refused("a long name", err, "64 bytes")
	_, err = staging.New(t.Context(), pool, "none", staging.Config[struct {
		V driverValue `db:"v"`
	}]{Create: true})
	refused("a Valuer", err, `column "v"`)
	var there bool
	if err := pool.QueryRow(t.Context(), `SELECT to_regclass('none') IS NOT NULL`).Scan(&there); err != nil || there {
		t.Errorf("a refused configuration has created the target: %t, %v", there, err)
	}
}

// driverValue is a type of the program's own.
type driverValue struct{ n int64 }

func (v driverValue) Value() (driver.Value, error) { return v.n, nil }
