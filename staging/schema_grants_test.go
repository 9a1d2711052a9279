package staging_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// forbidDDL takes everything from everyone: nothing may be created, not even a temporary table.
func forbidDDL(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	db := pgx.Identifier{pool.Config().ConnConfig.Database}.Sanitize()
	exec(t, pool, "REVOKE ALL ON DATABASE "+db+" FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC")
}

// login is a pool whose sessions have a new role with no privileges.
func login(t *testing.T, pool *pgxpool.Pool) (*pgxpool.Pool, string) {
	t.Helper()
	role := strings.ReplaceAll("r"+staging.NewBatchID(), "-", "")
	exec(t, pool, "CREATE ROLE "+role)
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role)
		if err != nil {
			t.Error(err)
		}
	})
	return as(t, pool, role), role
}

// serial is a row that leaves out a column which a sequence fills.
type serial struct {
	ID int64  `db:"id"`
	V  string `db:"v"`
}

const serialTable = `CREATE TABLE "Serial" (id bigint PRIMARY KEY, no serial, also bigint GENERATED ALWAYS AS IDENTITY, v text CHECK (length(v) < 10))`

func serialConfig(role staging.Role) staging.Config[serial] {
	return staging.Config[serial]{Key: []string{"id"}, Role: role, NoCreate: true, Rules: []staging.Rule{{Code: "empty", Where: "v = ''"}}}
}

// Four roles, each with exactly what Grants lists: they do all their work, and nothing of the
// others'.
func TestGrantsAreEnoughAndNoMore(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, serialTable)
	forbidDDL(t, pool)
	exec(t, pool, "REVOKE TEMPORARY ON DATABASE "+pgx.Identifier{pool.Config().ConnConfig.Database}.Sanitize()+" FROM PUBLIC")
	schema, err := staging.SQL(t.Context(), pool, "Serial", serialConfig(staging.RoleAll))
	if err != nil || !strings.HasPrefix(schema, "-- headrace staging schema 6: ") {
		t.Fatalf("schema is %.80q, %v", schema, err)
	}
	exec(t, pool, schema)
	tabs := map[staging.Role]*staging.Table[serial]{}
	for _, role := range []staging.Role{staging.RoleWorker, staging.RolePromoter, staging.RoleReader, staging.RoleAll} {
		user, name := login(t, pool)
		grants, err := staging.Grants(t.Context(), pool, "Serial", serialConfig(role), name)
		if err != nil {
			t.Fatal(err)
		}
		// Before: one error names everything.
		exec(t, pool, "GRANT USAGE ON SCHEMA public TO "+name)
		_, err = staging.New(t.Context(), user, "Serial", serialConfig(role))
		if !errors.Is(err, staging.ErrPrivilege) {
			t.Fatalf("%v: got %v, want ErrPrivilege", role, err)
		}
		for line := range strings.Lines(grants) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "GRANT") && !strings.Contains(line, "ON SCHEMA") && !strings.Contains(err.Error(), line) {
				t.Errorf("%v: the error lacks %s: %v", role, line, err)
			}
		}
		exec(t, pool, grants)
		tabs[role] = newTable(t, user, "Serial", serialConfig(role))
	}
	worker, promoter, reader := tabs[staging.RoleWorker], tabs[staging.RolePromoter], tabs[staging.RoleReader]
	work(t, 0, worker, promoter, reader)
	work(t, 10, tabs[staging.RoleAll], tabs[staging.RoleAll], tabs[staging.RoleAll])
	stage(t, worker, load(serial{80, "x"}), staging.OutcomeStaged)
	if _, err := worker.Promote(t.Context(), staging.PromoteOptions{}); !errors.Is(err, staging.ErrPrivilege) {
		t.Errorf("a worker promotes: got %v, want ErrPrivilege", err)
	}
	if _, err := reader.Stage(t.Context(), load(serial{90, "x"})); !errors.Is(err, staging.ErrPrivilege) {
		t.Errorf("a reader stages: got %v, want ErrPrivilege", err)
	}
	replayed, err := promoter.Replay(t.Context(), []staging.Correction[serial]{{Reject: 2, Rows: []serial{{71, "y"}, {72, "z"}}}})
	if err != nil || replayed.Rows != 2 {
		t.Errorf("a replay wrote %d rows, %v, want 2", replayed.Rows, err)
	}
	job := staging.Rewrite[pair, serial]{Name: "job", Source: "SELECT g::bigint AS id, 'v' || g AS v FROM generate_series(100, 109) g", Key: "id", Rows: 4, Restart: true,
		Transform: func(_ context.Context, in []pair) (out []serial, err error) {
			for _, p := range in {
				out = append(out, serial(p))
			}
			return out, nil
		}}
	if p, err := job.Run(t.Context(), promoter); err != nil || p.Written != 10 {
		t.Errorf("a rewrite wrote %d rows, %v, want 10", p.Written, err)
	}
}

// work is everything that a pipeline does, with bad records too.
func work(t *testing.T, base int64, worker, promoter, reader *staging.Table[serial]) {
	t.Helper()
	l := load(serial{base + 1, "good"}, serial{base + 2, "much too long for it"}, serial{base + 3, ""}, serial{base + 4, "bad \x00"}, serial{base + 5, "good"})
	stage(t, worker, l, staging.OutcomeStaged)
	p := promote(t, promoter)
	if p.Rows != 2 || p.RejectedByRule != 2 || p.Rejected != 1 {
		t.Errorf("promoted %d rows, rejected %d and %d, want 2, 2, 1", p.Rows, p.RejectedByRule, p.Rejected)
	}
	stage(t, worker, l, staging.OutcomeAlreadyPromoted)
	for _, tab := range []*staging.Table[serial]{worker, promoter, reader} {
		if f := fates(t, tab, l.Batch.ID); f[0] != staging.FatePromoted {
			t.Errorf("the batch is %v, want promoted", f[0])
		}
		if r, err := tab.RejectsByBatch(t.Context(), []string{l.Batch.ID}); err != nil || len(r[l.Batch.ID]) != 3 {
			t.Errorf("rejects are %v, %v, want 3", r, err)
		}
		if _, err := tab.Epoch(t.Context()); err != nil {
			t.Error(err)
		}
		balanced(t, tab)
	}
	if f, err := worker.Void(t.Context(), staging.Batch{ID: staging.NewBatchID(), Records: 1}); err != nil || f != staging.FateVoid {
		t.Errorf("void is %v, %v", f, err)
	}
	r, err := reader.Rejects(t.Context(), staging.RejectFilter{Batch: l.Batch.ID})
	if err != nil || len(r) != 3 {
		t.Fatalf("rejects are %v, %v, want 3", r, err)
	}
	if n, err := promoter.Resolve(t.Context(), r[0].ID); err != nil || n != 1 {
		t.Errorf("resolved %d, %v", n, err)
	}
	if _, err := promoter.Prune(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Error(err)
	}
}

// With NoCreate nothing is created: what is missing is listed.
func TestNoCreate(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, serialTable)
	_, err := staging.New(t.Context(), pool, "Serial", serialConfig(staging.RoleAll))
	if !errors.Is(err, staging.ErrMissing) || !strings.Contains(err.Error(), "Serial_ledger") || !strings.Contains(err.Error(), "Serial_staging_b") {
		t.Errorf("got %v, want ErrMissing with all tables", err)
	}
	if n := query[int](t, pool, `SELECT count(*) FROM pg_class WHERE relname LIKE 'Serial\_%' AND relkind = 'r'`); n != 0 {
		t.Errorf("%d tables were created", n)
	}
	schema, err := staging.SQL(t.Context(), pool, "Serial", serialConfig(staging.RoleAll))
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, schema)
	exec(t, pool, schema) // it may run again
	newTable(t, pool, "Serial", serialConfig(staging.RoleAll))
	exec(t, pool, `ALTER TABLE "Serial" ALTER COLUMN v TYPE varchar(20)`)
	_, err = staging.New(t.Context(), pool, "Serial", serialConfig(staging.RoleAll))
	isDrift(t, "a changed target", err, "NoCreate", "ALTER TABLE", "character varying(20)")
	if _, err := staging.SQL(t.Context(), pool, "nosuch", serialConfig(staging.RoleAll)); !errors.Is(err, staging.ErrNoTarget) {
		t.Errorf("got %v, want ErrNoTarget", err)
	}
	exec(t, pool, `COMMENT ON TABLE "Serial_control" IS 'headrace staging schema 9'`)
	_, err = staging.New(t.Context(), pool, "Serial", serialConfig(staging.RoleAll))
	isDrift(t, "another layout", err, "schema 9", "schema 6")
}

// Two runs of one Rewrite at once: each batch is done by one of them.
func TestTwoRunsOfOneRewrite(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE source AS SELECT i::bigint AS id, 'v' || i AS v FROM generate_series(1, 3000) i; CREATE TABLE target (id bigint, v text)")
	tab := newTable(t, pool, "target", staging.Config[pair]{}) // without a key: a row that is written twice stays
	job := staging.Rewrite[pair, pair]{Name: "job", Source: "SELECT id, v FROM source", Key: "id", Rows: 100,
		Transform: func(_ context.Context, in []pair) ([]pair, error) { return in, nil }}
	runs := make([]<-chan result[staging.RewriteProgress], 3)
	for i := range runs {
		runs[i] = background(func() (staging.RewriteProgress, error) { return job.Run(t.Context(), tab) })
	}
	for i, r := range runs {
		if p := (<-r).must(t); !p.Done {
			t.Errorf("run %d ended with %+v, want it done", i, p)
		}
	}
	if n := query[string](t, pool, "SELECT count(*) || ' ' || count(DISTINCT id) FROM target"); n != "3000 3000" {
		t.Errorf("rows and different rows are %s, want 3000 3000", n)
	}
	if n := query[string](t, pool, "SELECT read || ' ' || written || ' ' || last FROM target_rewrites"); n != "3000 3000 3000" {
		t.Errorf("the progress is %s, want 3000 3000 3000", n)
	}
}

// A resumed Rewrite finds its place whatever the key's type: with a modifier, with padding,
// compared without case.
func TestRewriteResumesOnKeysOfEveryType(t *testing.T) {
	t.Parallel()
	type keyed struct {
		K string `db:"k"`
	}
	for i, typ := range []string{"char(9)", "varchar(7)", "bit(8)", "varbit(9)", "numeric(9,2)", "timestamp(0)", "timestamptz", "interval", "date", "bytea", "double precision", "real",
		"uuid", "inet", "mood", "padded", `text COLLATE "C"`, `text COLLATE nocase`, "int4range", "money", "\"char\""} {
		t.Run(typ, func(t *testing.T) {
			t.Parallel()
			database := servertest.Postgres
			if strings.Contains(typ, "nocase") {
				database = servertest.UTF8Postgres // ICU has no SQL_ASCII
			}
			pool := database(t)
			exec(t, pool, `CREATE TYPE mood AS ENUM ('m0', 'm1', 'm2', 'm3', 'm4', 'm5', 'm6', 'm7', 'm8', 'm9'); CREATE DOMAIN padded AS char(8) CHECK (VALUE <> '')`)
			if strings.Contains(typ, "nocase") {
				exec(t, pool, "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
			}
			value := "'k' || g"
			switch base, _, _ := strings.Cut(typ, "("); base {
			case "bit", "varbit":
				value = "g::bit(8)"
			case "numeric", "double precision", "real", "money":
				value = "g + 0.25"
			case "timestamp", "timestamptz", "date":
				value = "timestamptz '2024-12-28 23:59:58Z' + g * interval '1 day 1 second'"
			case "interval":
				value = "g * interval '1 day' - interval '5 days 3 seconds'"
			case "bytea":
				value = `decode('5c0' || g, 'hex')`
			case "uuid":
				value = "('00000000-0000-0000-0000-00000000000' || g)"
			case "inet":
				value = "('10.0.0.' || g || '/8')"
			case "mood":
				value = "'m' || g"
			case "int4range":
				value = "int4range(g, g + 5)"
			case "\"char\"":
				value = "chr(97 + g)"
			case "text COLLATE nocase":
				value = "CASE WHEN g % 2 = 0 THEN 'K' ELSE 'k' END || g"
			}
			exec(t, pool, fmt.Sprintf("CREATE TABLE source (k %s); CREATE TABLE target (k text)", typ))
			cast, _, _ := strings.Cut(typ, " COLLATE")
			exec(t, pool, fmt.Sprintf("INSERT INTO source SELECT (%s)::%s FROM generate_series(0, 9) g", value, cast))
			tab := newTable(t, pool, "target", staging.Config[keyed]{})
			stop := errors.New("stopped")
			calls := 0
			job := staging.Rewrite[string, keyed]{Name: "job", Source: "SELECT k FROM source -- all", Key: "k", Rows: 1,
				Scan: func(row pgx.CollectableRow) (string, error) { return string(row.RawValues()[0]), nil },
				Transform: func(_ context.Context, in []string) ([]keyed, error) {
					if calls++; calls%3 == 0 {
						return nil, stop
					}
					out := make([]keyed, len(in))
					for i := range in {
						out[i] = keyed{fmt.Sprintf("%x", in[i])}
					}
					return out, nil
				}}
			for runs := 0; ; runs++ {
				p, err := job.Run(t.Context(), tab)
				if err == nil && p.Done {
					break
				}
				if !errors.Is(err, stop) || runs > 20 {
					t.Fatalf("case %d: run %d ended with %+v, %v", i, runs, p, err)
				}
			}
			if n := query[string](t, pool, "SELECT count(*) || ' ' || count(DISTINCT k) FROM target"); n != "10 10" {
				t.Errorf("rows and different rows are %s, want 10 10", n)
			}
		})
	}
}

// An insert calls functions with the privileges of its role, where the target's definition has
// them: New names all that the role may not call. It does not ask for others.
func TestFunctionsOfTheTargetAreGranted(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE SCHEMA lib;
		CREATE FUNCTION lib.number() RETURNS bigint LANGUAGE sql AS 'SELECT 7::bigint';
		CREATE FUNCTION lib.unused() RETURNS bigint LANGUAGE sql AS 'SELECT 8::bigint';
		CREATE FUNCTION lib.is_short(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN length($1) < 10; END';
		CREATE FUNCTION lib."Key"(text, bigint) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 || $2; END';
		CREATE FUNCTION lib.is_word(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 <> ''no word''; END';
		CREATE FUNCTION lib.twice(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 2 * $1; END';
		CREATE FUNCTION lib.fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE FUNCTION lib.everyone() RETURNS bigint LANGUAGE sql AS 'SELECT 9::bigint';
		CREATE DOMAIN lib.word AS text CHECK (lib.is_word(VALUE)); CREATE DOMAIN lib.noun AS lib.word;
		CREATE TABLE parts (id bigint, v lib.noun, no bigint DEFAULT lib.number(), id2 bigint GENERATED ALWAYS AS (lib.twice(id)) STORED, e bigint DEFAULT lib.everyone(),
			PRIMARY KEY (id)) PARTITION BY RANGE (id);
		CREATE TABLE part PARTITION OF parts (CHECK (lib.is_short(v))) DEFAULT;
		CREATE INDEX ON parts (lib."Key"(v, id));
		CREATE TRIGGER fire BEFORE INSERT ON parts FOR EACH ROW EXECUTE FUNCTION lib.fire();
		REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA lib FROM PUBLIC; GRANT EXECUTE ON FUNCTION lib.everyone() TO PUBLIC`)
	cfg := func(role staging.Role) staging.Config[serial] {
		return staging.Config[serial]{Key: []string{"id"}, Role: role, NoCreate: true}
	}
	schema, err := staging.SQL(t.Context(), pool, "parts", cfg(staging.RoleAll))
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, schema)
	tabs := map[staging.Role]*staging.Table[serial]{}
	for role, want := range map[staging.Role][]string{
		staging.RoleWorker:   {"lib.is_word(pg_catalog.text)"},
		staging.RolePromoter: {`lib."Key"(pg_catalog.text,bigint)`, "lib.is_short(pg_catalog.text)", "lib.is_word(pg_catalog.text)", "lib.number()", "lib.twice(bigint)"},
		staging.RoleReader:   nil,
	} {
		user, name := login(t, pool)
		grants, err := staging.Grants(t.Context(), pool, "parts", cfg(role), name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(grants) {
			line = strings.TrimSpace(line)
			if f, ok := strings.CutPrefix(line, "GRANT EXECUTE ON FUNCTION "); ok {
				got = append(got, strings.TrimSuffix(f, " TO "+pgx.Identifier{name}.Sanitize()+";"))
			} else {
				exec(t, pool, line)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v: functions (-want +got):\n%s", role, diff)
		}
		_, err = staging.New(t.Context(), user, "parts", cfg(role))
		if (err != nil) != (want != nil) || err != nil && !errors.Is(err, staging.ErrPrivilege) {
			t.Errorf("%v: got %v, want ErrPrivilege", role, err)
		}
		for _, f := range want {
			if err != nil && !strings.Contains(err.Error(), "GRANT EXECUTE ON FUNCTION "+f+" TO ") {
				t.Errorf("%v: the error lacks %s: %v", role, f, err)
			}
		}
		exec(t, pool, grants)
		tabs[role] = newTable(t, user, "parts", cfg(role))
	}
	stage(t, tabs[staging.RoleWorker], load(serial{1, "good"}, serial{2, "much too long for it"}, serial{3, "no word"}), staging.OutcomeStaged)
	if p := promote(t, tabs[staging.RolePromoter]); p.Rows != 1 || p.Rejected != 1 || p.RejectedByRule != 1 {
		t.Errorf("promoted %d rows, rejected %d and %d, want 1 each", p.Rows, p.Rejected, p.RejectedByRule)
	}
}

// Tables are made in the tablespace of default_tablespace: New names the privilege that this needs.
func TestTheDefaultTablespaceIsGranted(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	space := strings.ReplaceAll("s"+staging.NewBatchID(), "-", "")
	exec(t, withParams(t, pool, map[string]string{"allow_in_place_tablespaces": "on"}), "CREATE TABLESPACE "+space+" LOCATION ''")
	t.Cleanup(func() { exec(t, pool, "DROP TABLESPACE "+space) })
	exec(t, pool, "CREATE TABLE items (id text PRIMARY KEY, n bigint, note text, at timestamptz)")
	user, name := login(t, pool)
	exec(t, pool, "GRANT ALL ON SCHEMA public TO "+name+"; ALTER TABLE items OWNER TO "+name)
	_, err := staging.New(t.Context(), withParams(t, user, map[string]string{"default_tablespace": space}), "items", staging.Config[item]{Key: []string{"id"}})
	if want := "GRANT CREATE ON TABLESPACE " + space + " TO "; !errors.Is(err, staging.ErrPrivilege) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want ErrPrivilege with %s", err, want)
	}
	newTable(t, withParams(t, user, map[string]string{"default_tablespace": ""}), "items", staging.Config[item]{Key: []string{"id"}})
}
