package staging_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// A target that a crash empties, and a ledger that a crash keeps, lose rows together.
func TestAnUnloggedTargetIsRefused(t *testing.T) {
	t.Parallel()
	for name, ddl := range map[string]string{
		"table":     "CREATE UNLOGGED TABLE nums (id bigint PRIMARY KEY, v bigint)",
		"partition": "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint) PARTITION BY RANGE (id); CREATE TABLE n1 PARTITION OF nums FOR VALUES FROM (0) TO (9); CREATE UNLOGGED TABLE n2 PARTITION OF nums DEFAULT",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, ddl)
			_, err := staging.New(t.Context(), pool, "nums", staging.Config[number]{Key: []string{"id"}})
			if !errors.Is(err, staging.ErrUnlogged) {
				t.Errorf("New: got %v, want ErrUnlogged", err)
			}
			if n := query[int](t, pool, "SELECT count(*) FROM pg_class WHERE relname LIKE 'nums\\_%' AND relkind = 'r'"); n != 0 {
				t.Errorf("%d tables were created, want 0", n)
			}
			tab := newTable(t, pool, "nums", staging.Config[number]{Key: []string{"id"}, AllowUnlogged: true})
			stage(t, tab, load(number{1, 1}), staging.OutcomeStaged)
			if p := promote(t, tab); p.Rows != 1 {
				t.Errorf("promoted %d rows, want 1", p.Rows)
			}
		})
	}
}

// The target becomes UNLOGGED under a running program.
func TestATargetThatBecomesUnlogged(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint)")
	tab := numbers(t, pool)
	stage(t, tab, load(number{1, 1}), staging.OutcomeStaged)
	exec(t, pool, "ALTER TABLE nums SET UNLOGGED")
	if _, err := tab.Promote(t.Context(), staging.PromoteOptions{}); !errors.Is(err, staging.ErrUnlogged) {
		t.Errorf("Promote: got %v, want ErrUnlogged", err)
	}
	exec(t, pool, "ALTER TABLE nums SET LOGGED")
	promote(t, tab)
	intact(t, pool, "1=1")
}

// The key's index must be able to decide about a row, whatever else it has.
func TestWhichIndexDecides(t *testing.T) {
	t.Parallel()
	pool := servertest.UTF8Postgres(t) // ICU has no SQL_ASCII
	exec(t, pool, "CREATE COLLATION whatever (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
	ops := ""
	for i, op := range []string{"<", "<=", "=", ">=", ">"} {
		exec(t, pool, fmt.Sprintf(`CREATE FUNCTION last%[1]d(bigint, bigint) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 %% 10 %[2]s $2 %% 10';
			CREATE OPERATOR #%[2]s (FUNCTION = last%[1]d, LEFTARG = bigint, RIGHTARG = bigint)`, i, op))
		ops += fmt.Sprintf("OPERATOR %d #%s, ", i+1, op)
	}
	exec(t, pool, `CREATE FUNCTION last_compared(bigint, bigint) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT ($1 % 10 - $2 % 10)::int';
		CREATE OPERATOR CLASS last_digit FOR TYPE bigint USING btree AS `+ops+`FUNCTION 1 last_compared(bigint, bigint)`)
	notNull := "ALTER TABLE %[1]s ALTER id SET NOT NULL, ALTER v SET NOT NULL;"
	for i, c := range []struct {
		what, ddl string
		key       []string
		good      bool
	}{
		{"INCLUDE", "ALTER TABLE %[1]s ADD PRIMARY KEY (id) INCLUDE (v, w)", []string{"id"}, true},
		{"INCLUDE, as part of the key", "ALTER TABLE %[1]s ADD PRIMARY KEY (id) INCLUDE (v)", []string{"id", "v"}, false},
		{"two columns and INCLUDE", "CREATE UNIQUE INDEX ON %[1]s (v, id) INCLUDE (w)", []string{"id", "v"}, true},
		{"NULLS NOT DISTINCT", "CREATE UNIQUE INDEX ON %[1]s (id) NULLS NOT DISTINCT", []string{"id"}, true},
		{"partial", "CREATE UNIQUE INDEX ON %[1]s (id) WHERE v > ''", []string{"id"}, false},
		{"partial, always true", "CREATE UNIQUE INDEX ON %[1]s (id) WHERE true", []string{"id"}, true},
		{"expression", "CREATE UNIQUE INDEX ON %[1]s ((id + 0))", []string{"id"}, false},
		{"expression and column", "CREATE UNIQUE INDEX ON %[1]s (id, lower(v))", []string{"id", "v"}, false},
		{"deferrable", "ALTER TABLE %[1]s ADD PRIMARY KEY (id) DEFERRABLE", []string{"id"}, false},
		{"next to a deferrable one", "CREATE UNIQUE INDEX ON %[1]s (v, id); ALTER TABLE %[1]s ADD UNIQUE (id, v) DEFERRABLE", []string{"id", "v"}, false},
		{"next to a deferrable one of other columns", "CREATE UNIQUE INDEX ON %[1]s (id); ALTER TABLE %[1]s ADD UNIQUE (id, v) DEFERRABLE", []string{"id"}, true},
		{"an operator class with the same duplicates", "CREATE UNIQUE INDEX ON %[1]s (v text_pattern_ops)", []string{"v"}, true},
		{"an operator class with other duplicates", "CREATE UNIQUE INDEX ON %[1]s (id last_digit)", []string{"id"}, false},
		{"exclusion", "ALTER TABLE %[1]s ADD EXCLUDE (id WITH =)", []string{"id"}, false},
		{"not unique", "CREATE INDEX ON %[1]s (id)", []string{"id"}, false},
		{"descending", "CREATE UNIQUE INDEX ON %[1]s (id DESC NULLS LAST)", []string{"id"}, true},
		{"another collation with the same duplicates", `CREATE UNIQUE INDEX ON %[1]s (v COLLATE "C")`, []string{"v"}, true},
		{"a collation with other duplicates", `CREATE UNIQUE INDEX ON %[1]s (v COLLATE whatever)`, []string{"v"}, false},
		{"not valid", "INSERT INTO %[1]s VALUES (1, '', ''), (1, '', ''); CREATE UNIQUE INDEX CONCURRENTLY ON %[1]s (id)", []string{"id"}, false},
		{"only of the parent", "DROP TABLE %[1]s; CREATE TABLE %[1]s (id bigint NOT NULL, v text, w text) PARTITION BY LIST (id); CREATE TABLE %[1]s_1 PARTITION OF %[1]s DEFAULT; CREATE UNIQUE INDEX ON ONLY %[1]s (id)", []string{"id"}, false},
		{"of a partitioned table", "DROP TABLE %[1]s; CREATE TABLE %[1]s (id bigint NOT NULL, v text, w text) PARTITION BY LIST (id); CREATE TABLE %[1]s_1 PARTITION OF %[1]s DEFAULT; CREATE UNIQUE INDEX ON %[1]s (id)", []string{"id"}, true},
		{"next to one that is not valid", "CREATE UNIQUE INDEX ON %[1]s (id); CREATE UNIQUE INDEX ON %[1]s (id) WHERE w > ''", []string{"id"}, true},
	} {
		table := fmt.Sprintf("t%d", i)
		for _, sql := range strings.Split(fmt.Sprintf("CREATE TABLE %[1]s (id bigint, v text, w text);"+notNull+c.ddl, table), ";") {
			_, err := pool.Exec(t.Context(), sql) // one by one: CONCURRENTLY runs in no transaction, and fails on purpose
			if err != nil && !strings.Contains(sql, "CONCURRENTLY") {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		exec(t, pool, "TRUNCATE "+table)
		tab, err := staging.New(t.Context(), pool, table, staging.Config[three]{Key: c.key})
		if !c.good {
			if !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), "no unique index") {
				t.Errorf("%s: got %v, want ErrConfig", c.what, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		for range 2 {
			stage(t, tab, load(three{1, "a", ""}, three{2, "b", ""}, three{1, "a", "again"}), staging.OutcomeStaged)
			promote(t, tab)
		}
		if n := query[int](t, pool, "SELECT count(*) FROM "+table); n != 2 {
			t.Errorf("%s: %d rows, want 2", c.what, n)
		}
		balanced(t, tab)
	}
}

type three struct {
	ID int64  `db:"id"`
	V  string `db:"v"`
	W  string `db:"w"`
}

// The key's index goes while the program runs. Without it a key could be written twice.
func TestTheKeyLosesItsIndex(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint)")
	tab := numbers(t, pool)
	stage(t, tab, load(number{1, 1}), staging.OutcomeStaged)
	exec(t, pool, "ALTER TABLE nums DROP CONSTRAINT nums_pkey")
	_, err := tab.Promote(t.Context(), staging.PromoteOptions{})
	isDrift(t, "promote", err, "unique index")
	exec(t, pool, "ALTER TABLE nums ADD PRIMARY KEY (id) INCLUDE (v)")
	promote(t, tab)
	intact(t, pool, "1=1")
}

// More reports what waits beyond MaxRows, and what waits on the other side.
func TestMoreOfTheOtherSide(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	for _, p := range []string{"a", "b", "c"} {
		stage(t, tab, load(items(p, 2)...), staging.OutcomeStaged)
	}
	promoteUpTo := func(rows int) staging.PromoteResult {
		t.Helper()
		p, err := tab.Promote(t.Context(), staging.PromoteOptions{MaxRows: rows})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := promoteUpTo(4); p.Rows != 4 || !p.More {
		t.Errorf("with a batch left on the side: %d rows, more %v, want 4 and true", p.Rows, p.More)
	}
	stage(t, tab, load(items("d", 2)...), staging.OutcomeStaged) // into the open side
	if p := promoteUpTo(4); p.Rows != 2 || !p.More {
		t.Errorf("with a batch on the other side: %d rows, more %v, want 2 and true", p.Rows, p.More)
	}
	if p := promoteUpTo(4); p.Rows != 2 || p.More {
		t.Errorf("the last one: %d rows, more %v, want 2 and false", p.Rows, p.More)
	}
	count(t, pool, 8)
}

// A database with tables of an older layout gets an error that names both, and the statements that
// bring them up to date.
func TestAnOlderLayout(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	l := load(append(items("a", 3), item{ID: "c\x00"}, item{ID: "d\xff"})...)
	stage(t, tab, l, staging.OutcomeStaged)
	promote(t, tab)
	exec(t, pool, `DROP TABLE items_reject_counts; ALTER TABLE items_rejects DROP COLUMN bytes; ALTER TABLE items_refused_a DROP COLUMN bytes;
		ALTER TABLE items_control DROP COLUMN failures, DROP COLUMN pruned; ALTER TABLE items_registry_b DROP COLUMN tables;
		ALTER TABLE items_rejects DROP CONSTRAINT items_rejects_source_check, ADD CONSTRAINT "from ""old""" CHECK (source IN ('stage', 'rule', 'insert')); COMMENT ON TABLE items_control IS 'headrace staging schema 1'`)
	_, err := staging.New(t.Context(), pool, "items", staging.Config[item]{Key: []string{"id"}})
	isDrift(t, "New", err, `"headrace staging schema 1"`, `"headrace staging schema 6"`, "BEGIN;")
	if err == nil {
		return
	}
	_, sql, _ := strings.Cut(err.Error(), "run\n")
	exec(t, pool, sql)
	tab = itemTable(t, pool)
	if b, err := tab.Books(t.Context()); err != nil || b.Pruned || b.Batches != 1 {
		t.Errorf("books %+v, %v, want one batch and none pruned", b, err)
	}
	stage(t, tab, load(append(items("b", 3), item{ID: "e\xff"})...), staging.OutcomeStaged)
	promote(t, tab)
	counted(t, pool, tab)
	exec(t, pool, "COMMENT ON TABLE items_control IS 'headrace staging schema 9'")
	_, err = staging.New(t.Context(), pool, "items", staging.Config[item]{Key: []string{"id"}})
	isDrift(t, "New of an older program", err, `"headrace staging schema 9"`, `"headrace staging schema 6"`)
}

// A target whose sequence fills a column that the program writes can be dropped: the defaults of
// the staging tables do not depend on the sequence. They use it all the same.
func TestATargetWithASequenceIsDropped(t *testing.T) {
	t.Parallel()
	for name, ddl := range map[string]string{
		"serial":              "CREATE TABLE nums (id bigserial PRIMARY KEY, v bigint)",
		"identity":            "CREATE TABLE nums (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v bigint)",
		"odd names":           `CREATE TABLE nums (id bigint PRIMARY KEY, v bigint); CREATE SEQUENCE "It's ""odd""" OWNED BY nums.id; ALTER TABLE nums ALTER id SET DEFAULT nextval('"It''s ""odd"""')`,
		"out of search paths": "CREATE SCHEMA far; CREATE TABLE nums (id bigint PRIMARY KEY, v bigint); CREATE SEQUENCE far.ids; ALTER TABLE nums ALTER id SET DEFAULT nextval('far.ids')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, ddl)
			cfg := staging.Config[number]{Key: []string{"id"}}
			tab := newTable(t, pool, "nums", cfg)
			stage(t, tab, load(number{100, 1}), staging.OutcomeStaged)
			if p := promote(t, tab); p.Rows != 1 {
				t.Errorf("got %+v, want a row", p)
			}
			if id := query[int](t, pool, "INSERT INTO nums_staging_a (v) VALUES (1) RETURNING id"); id != 1 {
				t.Errorf("the staging table's default is %d, want 1", id)
			}
			cfg.NoCreate = true
			newTable(t, pool, "nums", cfg) // it finds no difference
			exec(t, pool, "DROP TABLE nums")
			exec(t, pool, ddlAgain(ddl))
			newTable(t, pool, "nums", cfg)
		})
	}
}

// ddlAgain creates the target again, without what was not dropped with it.
func ddlAgain(ddl string) string {
	return strings.NewReplacer("CREATE SCHEMA far;", "", "CREATE SEQUENCE far.ids;", "").Replace(ddl)
}

// What cannot be a target is refused with its reason, at the start or when it becomes so.
func TestAnUnfitTarget(t *testing.T) {
	t.Parallel()
	const plain = "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint);"
	const server = "CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;"
	for name, c := range map[string]struct {
		before, later string // later: what happens to the target while a program runs
		is            error
		reason        string
		cfg           staging.Config[number]
	}{
		"a rule that does nothing": {plain, "CREATE RULE off AS ON INSERT TO nums DO INSTEAD NOTHING", staging.ErrUnfit, "rule off", staging.Config[number]{}},
		"a rule that does more":    {plain, "CREATE TABLE log (n bigint); CREATE RULE also AS ON INSERT TO nums DO ALSO INSERT INTO log VALUES (NEW.id)", staging.ErrUnfit, "rule also", staging.Config[number]{}},
		"a rule on updates":        {plain, "CREATE RULE off AS ON UPDATE TO nums DO INSTEAD NOTHING", staging.ErrUnfit, "rule off", staging.Config[number]{Key: []string{"id"}, Conflict: staging.ConflictReplace}},
		"a foreign partition":      {server + "CREATE TABLE nums (id bigint, v bigint) PARTITION BY RANGE (id); CREATE TABLE p PARTITION OF nums FOR VALUES FROM (0) TO (9)", "CREATE FOREIGN TABLE q PARTITION OF nums DEFAULT SERVER far", staging.ErrUnfit, "partition q", staging.Config[number]{}},
		"a trigger, children, no key": {"CREATE TABLE nums (id bigint, v bigint); CREATE TABLE child () INHERITS (nums);" +
			"CREATE FUNCTION store() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO child VALUES (NEW.*); RETURN NULL; END $$",
			"CREATE TRIGGER store BEFORE INSERT ON nums FOR EACH ROW EXECUTE FUNCTION store()", staging.ErrUnfit, "trigger store may store rows in a child table", staging.Config[number]{}},
		"rows that cannot be replaced": {"CREATE TABLE nums (id bigint NOT NULL UNIQUE, v bigint)", "CREATE PUBLICATION everything FOR ALL TABLES", staging.ErrUnfit, "nums is published and has no replica identity",
			staging.Config[number]{Key: []string{"id"}, Conflict: staging.ConflictReplace}},
		"rows of a partition that cannot be replaced": {"CREATE TABLE nums (id bigint PRIMARY KEY, v bigint) PARTITION BY RANGE (id); CREATE TABLE p PARTITION OF nums DEFAULT; CREATE PUBLICATION part FOR TABLE nums WITH (publish_via_partition_root)",
			"ALTER TABLE p REPLICA IDENTITY NOTHING", staging.ErrUnfit, "p is published and has no replica identity", staging.Config[number]{Key: []string{"id"}, Conflict: staging.ConflictReplace}},
		"a foreign table":           {server + "CREATE FOREIGN TABLE nums (id bigint, v bigint) SERVER far", "", staging.ErrNotTable, "foreign table", staging.Config[number]{}},
		"a view":                    {"CREATE TABLE base (id bigint, v bigint); CREATE VIEW nums AS SELECT * FROM base", "", staging.ErrNotTable, "a view", staging.Config[number]{}},
		"a key that may be doubled": {"CREATE TABLE nums (id bigint NOT NULL, v bigint, UNIQUE (id) DEFERRABLE)", "", staging.ErrConfig, "no unique index", staging.Config[number]{Key: []string{"id"}}},
		"an index on an expression": {"CREATE TABLE nums (id bigint NOT NULL, v bigint); CREATE UNIQUE INDEX ON nums ((id + 0))", "", staging.ErrConfig, "no unique index", staging.Config[number]{Key: []string{"id"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, c.before)
			refused := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.reason) {
					t.Errorf("%s: got %v, want %v with %q", what, err, c.is, c.reason)
				}
			}
			if c.later != "" {
				tab := newTable(t, pool, "nums", c.cfg)
				l := load(number{1, 1})
				stage(t, tab, l, staging.OutcomeStaged)
				exec(t, pool, c.later)
				_, err := tab.Promote(t.Context(), staging.PromoteOptions{})
				refused("Promote", err)
				if f := fates(t, tab, l.Batch.ID); f[0] != staging.FateStaged {
					t.Errorf("the batch is %v, want staged", f[0])
				}
			}
			_, err := staging.New(t.Context(), pool, "nums", c.cfg)
			refused("New", err)
		})
	}
}

// A publication keeps Postgres from updating a row whose replica identity it does not publish. With
// ConflictReplace, New refuses such a target, and no other one.
func TestPublicationsOfReplacedRows(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	const parts = "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint) PARTITION BY RANGE (id); CREATE TABLE nums_1 (w bigint, v bigint, id bigint PRIMARY KEY);" +
		"ALTER TABLE nums_1 DROP COLUMN w; ALTER TABLE nums ATTACH PARTITION nums_1 FOR VALUES FROM (0) TO (9);"
	const generated = "CREATE TABLE nums (id bigint PRIMARY KEY, v bigint, twice bigint GENERATED ALWAYS AS (id * 2) STORED NOT NULL UNIQUE);"
	tables := []string{
		"CREATE TABLE nums (id bigint PRIMARY KEY, v bigint);",
		"CREATE TABLE nums (id bigint PRIMARY KEY, v bigint); ALTER TABLE nums REPLICA IDENTITY FULL;",
		"CREATE TABLE nums (id bigint NOT NULL UNIQUE, v bigint);",
		"CREATE TABLE nums (id bigint PRIMARY KEY, v bigint NOT NULL); CREATE UNIQUE INDEX both_columns ON nums (v) INCLUDE (id); ALTER TABLE nums REPLICA IDENTITY USING INDEX both_columns;",
		parts, parts + "ALTER TABLE nums_1 REPLICA IDENTITY FULL;",
		generated, generated + "ALTER TABLE nums REPLICA IDENTITY FULL;", generated + "ALTER TABLE nums REPLICA IDENTITY USING INDEX nums_twice_key;",
	}
	publications := []string{
		"FOR ALL TABLES", "FOR ALL TABLES WITH (publish = 'insert, delete')", "FOR TABLES IN SCHEMA public",
		"FOR TABLE nums (id)", "FOR TABLE nums (v)", "FOR TABLE nums (id, v)",
		"FOR TABLE nums WHERE (id > 0)", "FOR TABLE nums WHERE (v > 0)", "FOR TABLE nums (id, v) WHERE (id > 0 AND v > 0)",
		"FOR TABLE nums WHERE (v > 0) WITH (publish_via_partition_root)", "FOR TABLE nums (id) WHERE (id > 0) WITH (publish_via_partition_root)",
	}
	refused := 0
	for _, table := range tables {
		for _, publication := range publications {
			exec(t, pool, "DROP SCHEMA public CASCADE; CREATE SCHEMA public;"+table+"INSERT INTO nums (id, v) VALUES (1, 1)")
			if _, err := pool.Exec(t.Context(), "CREATE PUBLICATION p "+publication); err != nil {
				continue // not on such a table
			}
			_, want := pool.Exec(t.Context(), "UPDATE nums SET v = v")
			tab, err := staging.New(t.Context(), pool, "nums", staging.Config[number]{Key: []string{"id"}, Conflict: staging.ConflictReplace})
			switch {
			case want != nil:
				refused++
				if !errors.Is(err, staging.ErrUnfit) {
					t.Errorf("%s %s: New returns %v, and Postgres %v", table, publication, err, want)
				}
			case err != nil:
				t.Errorf("%s %s: Postgres updates a row, and New returns %v", table, publication, err)
			default:
				stage(t, tab, load(number{1, 2}), staging.OutcomeStaged)
				if p := promote(t, tab); p.Rows != 1 {
					t.Errorf("%s %s: %+v", table, publication, p)
				}
			}
			exec(t, pool, "DROP PUBLICATION p")
		}
	}
	if refused < 20 {
		t.Errorf("Postgres refused %d updates: what is this test for?", refused)
	}
}
