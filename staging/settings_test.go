package staging_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// withParams is a pool on the same database whose sessions begin with these settings.
func withParams(t testing.TB, pool *pgxpool.Pool, params map[string]string) *pgxpool.Pool {
	t.Helper()
	cfg := pool.Config()
	for k, v := range params {
		cfg.ConnConfig.RuntimeParams[k] = v
	}
	p, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// usualFormats is a pool whose sessions print values in Postgres' default formats and UTF-8.
func usualFormats(t testing.TB, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	return withParams(t, pool, map[string]string{
		"client_encoding": "UTF8", "DateStyle": "ISO, MDY", "TimeZone": "UTC", "IntervalStyle": "postgres", "extra_float_digits": "1",
		"bytea_output": "hex", "quote_all_identifiers": "off",
	})
}

// A batch commits while the promoter waits for its lock. A promotion whose snapshot is older than
// its lock would not see the batch, and truncate it.
func TestABatchThatCommitsDuringTheWait(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			session := withParams(t, pool, map[string]string{"default_transaction_isolation": level})
			tab, slow := itemTable(t, session), itemTable(t, session)
			first, second := load(items("a", 1)...), load(items("b", 3)...)
			stage(t, tab, first, staging.OutcomeStaged)
			reached, goOn := stopAt(t, slow, "before commit")
			staged := stagingIn(t, slow, second)
			<-reached
			promoted := promoting(t, tab)
			untilWaiting(t, pool)
			goOn()
			if o := (<-staged).must(t); o != staging.OutcomeStaged {
				t.Errorf("outcome is %v, want staged", o)
			}
			p := (<-promoted).must(t)
			if p.Rows != 4 || len(p.Mismatched) != 0 {
				t.Errorf("promoted %d rows, mismatched %v, want 4 and none", p.Rows, p.Mismatched)
			}
			for i, f := range fates(t, tab, first.Batch.ID, second.Batch.ID) {
				if f != staging.FatePromoted {
					t.Errorf("batch %d is %v, want promoted", i, f)
				}
			}
			count(t, pool, 4)
			balanced(t, tab)
		})
	}
}

// The role has time limits that one promotion exceeds: each row takes 5 ms.
func TestTimeLimitsOfTheRole(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"statement_timeout", "transaction_timeout", "idle_in_transaction_session_timeout", "lock_timeout"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			if !query[bool](t, pool, "SELECT EXISTS (SELECT FROM pg_settings WHERE name = $1)", setting) {
				return // transaction_timeout is new in PostgreSQL 17
			}
			exec(t, pool, `CREATE TABLE items (id text PRIMARY KEY, n bigint, note text, at timestamptz);
				CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END $$;
				CREATE TRIGGER slow BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION slow()`)
			tab := itemTable(t, withParams(t, pool, map[string]string{setting: "200ms"}))
			stage(t, tab, load(items("a", 100)...), staging.OutcomeStaged)
			if p := promote(t, tab); p.Rows != 100 {
				t.Errorf("promoted %d rows, want 100", p.Rows)
			}
			balanced(t, tab)
		})
	}
}

// Postgres itself ends a promotion that is too large: by a cancellation, by the limit of a
// transaction, or by that of temporary files. The next promotion takes half as many rows, until one
// passes. (If a trigger raises such a SQLSTATE, a row is at fault.)
func TestALimitOfTheServerHalvesThePromotion(t *testing.T) {
	t.Parallel()
	for code, limit := range map[string]string{
		"57014": "PERFORM pg_cancel_backend(pg_backend_pid()), pg_sleep(60)",
		"25P04": "PERFORM set_config('transaction_timeout', '1ms', true), pg_sleep(60)",
		"53400": "PERFORM count(*) FROM (SELECT repeat(md5(g::text), 10) AS x FROM generate_series(1, 20000) g ORDER BY 1 OFFSET 1) x",
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			if code == "25P04" && query[int](t, pool, "SELECT current_setting('server_version_num')::int") < 170000 {
				return // transaction_timeout is new in PostgreSQL 17
			}
			exec(t, pool, "ALTER DATABASE "+pool.Config().ConnConfig.Database+` SET temp_file_limit = '1MB';
				CREATE TABLE items (id text PRIMARY KEY, n bigint, note text, at timestamptz);
				CREATE FUNCTION limited() RETURNS trigger LANGUAGE plpgsql SET work_mem = '64kB' AS $$ BEGIN
					IF (SELECT count(*) FROM new_rows) > 100 THEN `+limit+`; END IF; RETURN NULL; END $$;
				CREATE TRIGGER limited AFTER INSERT ON items REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION limited()`)
			pool.Reset()
			tab := itemTable(t, pool)
			for i := range 16 {
				stage(t, tab, load(items(fmt.Sprintf("b%02d", i), 50)...), staging.OutcomeStaged)
			}
			rows, refused := 0, 0
			for rows < 800 {
				p, err := tab.Promote(t.Context(), staging.PromoteOptions{})
				var pg *pgconn.PgError
				if err != nil && (!errors.As(err, &pg) || pg.Code != code) || p.RejectedByRule != 0 || refused > 20 {
					t.Fatalf("after %d rows and %d refusals: %v, %d rejected", rows, refused, err, p.RejectedByRule)
				}
				if err != nil {
					refused++
				}
				rows += p.Rows
			}
			if refused < 3 {
				t.Errorf("%d promotions were too large, want 3 at least: 800, 400 and 200 rows", refused)
			}
			count(t, pool, 800)
			balanced(t, tab)
		})
	}
}

// measure is a row whose reject would lose something in unusual formats.
type measure struct {
	ID    int64         `db:"id"`
	Value float64       `db:"value"`
	Raw   []byte        `db:"raw"`
	Span  time.Duration `db:"span"`
	At    time.Time     `db:"at"`
	Note  string        `db:"note"`
}

// Each setting that a server, a database or a role may have by default: the same rows, rejects and
// values.
func TestEverySetting(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{
		"standard_conforming_strings=off", "DateStyle=SQL, DMY", "DateStyle=German", "DateStyle=Postgres, YMD", "TimeZone=Asia/Kolkata", "TimeZone=-12:45", "bytea_output=escape",
		"quote_all_identifiers=on", "IntervalStyle=sql_standard", "IntervalStyle=iso_8601", "backslash_quote=off", "search_path=", "search_path=\"über\", pg_catalog",
		"extra_float_digits=-15", "default_transaction_isolation=serializable", "default_transaction_read_only=on", "default_transaction_deferrable=on",
		"enable_seqscan=off", "enable_indexscan=off", "array_nulls=off", "transform_null_equals=on", "row_security=off", "client_min_messages=debug5", "exit_on_error=on",
		"statement_timeout=100ms", "lock_timeout=10ms", "idle_in_transaction_session_timeout=100ms", "synchronous_commit=off", "work_mem=64kB", "jit=off",
		"default_table_access_method=heap", "default_tablespace=pg_default", "plan_cache_mode=force_generic_plan", "constraint_exclusion=on", "xmlbinary=hex",
		"escape_string_warning=off", "check_function_bodies=off", "client_encoding=LATIN1", "client_encoding=UTF8", "client_encoding=SQL_ASCII",
	} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			pool := servertest.UTF8Postgres(t)
			exec(t, pool, `CREATE SCHEMA "über"; CREATE TABLE public."Größen" (id bigint PRIMARY KEY, value double precision, raw bytea, span interval, at timestamptz,
				note text CONSTRAINT "a'\b" CHECK (note <> E'q\\''x'), CHECK (at > timestamptz '1900-05-06 07:08:09Z'), CHECK (span < interval '1 year'), CHECK (raw <> E'\\x5c00'))`)
			k, v, _ := strings.Cut(setting, "=")
			tab := newTable(t, withParams(t, pool, map[string]string{k: v}), "public.Größen", staging.Config[measure]{
				Key: []string{"id"}, Rules: []staging.Rule{{Code: `high`, Reason: `größer\\x`, Where: `s.value > 1e9`}},
			})
			at := time.Date(2024, 3, 4, 1, 2, 3, 4000, time.UTC)
			good := measure{1, 0.30000000000000004, []byte{0, 92, 255}, 90 * time.Minute, at, "ä ok"}
			ruled, checked := good, good
			ruled.ID, ruled.Value, ruled.Raw = 2, 1e15/3, []byte{0, 1, 255}
			checked.ID, checked.Note = 3, `q\'x`
			l := load(good, ruled, checked, good)
			stage(t, tab, l, staging.OutcomeStaged)
			p := promote(t, tab)
			if p.Rows != 1 || p.RejectedByRule != 2 || p.Conflicts != 1 {
				t.Errorf("promoted %d rows, %d rejected, %d conflicts, want 1, 2, 1", p.Rows, p.RejectedByRule, p.Conflicts)
			}
			usual := usualFormats(t, pool)
			got := query[string](t, usual, `SELECT concat_ws(' ', value, raw, span, at, note) FROM "Größen"`)
			if want := `0.30000000000000004 \x005cff 01:30:00 2024-03-04 01:02:03.000004+00 ä ok`; got != want {
				t.Errorf("the row is\n%s, want\n%s", got, want)
			}
			checkReject(t, tab, l.Batch.ID)
			replayAndForget(t, tab, l.Batch.ID, ruled)
			if _, err := tab.Void(t.Context(), staging.Batch{ID: staging.NewBatchID(), Records: 1}); err != nil {
				t.Error(err)
			}
			balanced(t, tab)
		})
	}
}

// checkReject reads the row that a rule rejected: no value may have lost anything.
func checkReject(t *testing.T, tab *staging.Table[measure], batch string) {
	t.Helper()
	rejects, err := tab.RejectsByBatch(t.Context(), []string{batch})
	if err != nil || len(rejects[batch]) != 2 {
		t.Fatalf("rejects are %v, %v, want 2", rejects, err)
	}
	r := rejects[batch][0]
	if r.Code != `high` || r.Reason != `größer\\x` || r.Key != "2" {
		t.Errorf("reject is %q, %q, key %q", r.Code, r.Reason, r.Key)
	}
	for _, want := range []string{`"value":333333333333333.3`, `"raw":"\\x0001ff"`, `"span":"01:30:00"`, `"note":"ä ok"`} {
		if !strings.Contains(string(r.Payload), want) {
			t.Errorf("the payload %s lacks %s", r.Payload, want)
		}
	}
}

// replayAndForget corrects one reject, gives the other up, and prunes.
func replayAndForget(t *testing.T, tab *staging.Table[measure], batch string, row measure) {
	t.Helper()
	stored, err := tab.Rejects(t.Context(), staging.RejectFilter{Batch: batch})
	if err != nil || len(stored) != 2 {
		t.Fatalf("rejects are %v, %v, want 2", stored, err)
	}
	row.Value = 5
	if p, err := tab.Replay(t.Context(), []staging.Correction[measure]{{Reject: stored[0].ID, Rows: []measure{row}}}); err != nil || p.Rows != 1 {
		t.Errorf("replay wrote %d rows: %v", p.Rows, err)
	}
	if n, err := tab.Resolve(t.Context(), stored[1].ID); err != nil || n != 1 {
		t.Errorf("resolved %d: %v", n, err)
	}
	if _, err := tab.Prune(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Error(err)
	}
}

// A database of another encoding holds the same texts. A character that it lacks costs the record.
func TestEncodings(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"LATIN1", "SQL_ASCII", "UTF8", "WIN1252"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			pool := database(t, "ENCODING '"+encoding+"' LOCALE_PROVIDER libc LOCALE 'C'")
			tab := newTable(t, pool, "Größen", staging.Config[item]{Create: true, Key: []string{"id"}, Rules: []staging.Rule{{Code: "more", Reason: "größer als drei", Where: "n > 3 AND id <> 'ü'"}}})
			note := "naïve café"
			l := load(item{ID: "ß", N: 1, Note: &note, At: noon}, item{ID: "ü", N: 4, At: noon}, item{ID: "é", N: 5, At: noon}, item{ID: "表", N: 2, At: noon})
			stage(t, tab, l, staging.OutcomeStaged)
			wantRows, wantRejected := 3, 0
			if encoding == "LATIN1" || encoding == "WIN1252" {
				wantRows, wantRejected = 2, 1
				r, err := tab.Rejects(t.Context(), staging.RejectFilter{})
				if err != nil || len(r) != 0 {
					t.Errorf("rejects before the promotion are %+v, %v, want none", r, err)
				}
			}
			if p := promote(t, tab); p.Rows != wantRows || p.Rejected != wantRejected || p.RejectedByRule != 1 {
				t.Errorf("promoted %d rows, rejected %d and %d by a rule, want %d, %d, 1", p.Rows, p.Rejected, p.RejectedByRule, wantRows, wantRejected)
			}
			if got := query[string](t, usualFormats(t, pool), `SELECT id || ' ' || note FROM "Größen" WHERE n = 1`); got != "ß naïve café" {
				t.Errorf("the row is %q, want %q", got, "ß naïve café")
			}
			r, err := tab.Rejects(t.Context(), staging.RejectFilter{Code: "more"})
			if err != nil || len(r) != 1 || r[0].Key != "é" || r[0].Reason != "größer als drei" {
				t.Errorf("rejects are %+v, %v", r, err)
			}
			if stored, err := tab.RejectsByBatch(t.Context(), []string{l.Batch.ID}); err != nil || wantRejected == 1 && stored[l.Batch.ID][1].Key != `\u8868` {
				t.Errorf("rejects of the batch are %+v, %v, want the key \\u8868", stored, err)
			}
			balanced(t, tab)
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // committed below
			if _, err := tab.StageTx(t.Context(), tx, load(item{ID: "ö", N: 1, Note: &note, At: noon})); err != nil {
				t.Fatal(err)
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			promote(t, tab)
			if got := query[string](t, usualFormats(t, pool), `SELECT id || ' ' || note FROM "Größen" WHERE id = 'ö'`); got != "ö naïve café" {
				t.Errorf("the row of StageTx is %q", got)
			}
		})
	}
}

// database is a pool on a new database of the test's server.
func database(t *testing.T, options string) *pgxpool.Pool {
	t.Helper()
	other := servertest.Postgres(t)
	name := strings.ReplaceAll("d"+staging.NewBatchID(), "-", "")
	exec(t, other, "CREATE DATABASE "+name+" TEMPLATE template0 "+options)
	t.Cleanup(func() { exec(t, other, "DROP DATABASE "+name+" WITH (FORCE)") })
	url, err := servers.WithDatabase(other.Config().ConnString(), name)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// A transaction of the caller's keeps its settings.
func TestStageTxKeepsTheCallersSettings(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		const read = "SELECT current_setting('lock_timeout') || current_setting('DateStyle') || current_setting('search_path') || current_setting('statement_timeout')"
		if _, err := tx.Exec(t.Context(), "SET LOCAL DateStyle = 'German'; SET LOCAL lock_timeout = '1234ms'; SET LOCAL statement_timeout = '77s'"); err != nil {
			return err
		}
		var before, after string
		if err := tx.QueryRow(t.Context(), read).Scan(&before); err != nil {
			return err
		}
		if _, err := tab.StageTx(t.Context(), tx, load(items("a", 3)...)); err != nil {
			return err
		}
		if err := tx.QueryRow(t.Context(), read).Scan(&after); err != nil {
			return err
		}
		if before != after {
			return errors.New("settings were " + before + ", then " + after)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	promote(t, tab)
}
