package staging_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

type keyed struct{ k any }

// keyedTable has one column, k, that is its key. points is told where its promotions pass.
func keyedTable(t *testing.T, pool *pgxpool.Pool) (tab *staging.Table[keyed], points map[string]int) {
	tab = newTable(t, pool, "keyed", staging.Config[keyed]{Key: []string{"k"}, Columns: []staging.Column{{Name: "k"}}, Fill: func(v *keyed, r *staging.Row) {
		if s, ok := v.k.(string); ok {
			r.String(s)
		} else {
			r.Value(v.k)
		}
	}})
	points = map[string]int{}
	tab.SetHook(func(p string) error { points[p]++; return nil })
	return tab, points
}

// Where keys rise, the rows that are there already are found in the part of the index between the
// least and the greatest staged key, whatever the type of the key and however the session prints
// it.
func TestKeysThatRise(t *testing.T) {
	t.Parallel()
	day := func(i int) time.Time { return noon.AddDate(0, 0, i) }
	for name, c := range map[string]struct {
		typ, setup, session string
		key                 func(i int) any
	}{
		"text":                 {typ: "text", key: func(i int) any { return fmt.Sprintf("o'\\-%06d", i) }},
		"varchar":              {typ: "varchar(20)", key: func(i int) any { return fmt.Sprintf("%06d", i) }},
		"domain, own order":    {typ: `dom COLLATE "POSIX"`, setup: `CREATE DOMAIN dom AS text COLLATE "C"`, key: func(i int) any { return fmt.Sprintf("%06d", i) }},
		"uuid":                 {typ: "uuid", key: func(i int) any { return fmt.Sprintf("%08x-0000-7000-8000-000000000000", i) }},
		"smallint":             {typ: "smallint", key: func(i int) any { return int16(i) }},
		"bigint":               {typ: "bigint", key: func(i int) any { return int64(i) << 40 }},
		"numeric":              {typ: "numeric", key: func(i int) any { return fmt.Sprintf("%d.123456789012345678901234567890", i) }},
		"numeric up to NaN":    {typ: "numeric", key: func(i int) any { return map[bool]string{true: "NaN", false: fmt.Sprint(i)}[i == 1099] }},
		"date":                 {typ: "date", session: "SET DateStyle = 'German, MDY'", key: func(i int) any { return day(i) }},
		"timestamp":            {typ: "timestamp", session: "SET DateStyle = 'SQL, DMY'", key: func(i int) any { return day(i) }},
		"timestamptz":          {typ: "timestamptz", session: "SET DateStyle = 'German'; SET TimeZone = 'Pacific/Guam'", key: func(i int) any { return day(i) }},
		"timestamptz in India": {typ: "timestamptz", session: "SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kolkata'", key: func(i int) any { return noon.Add(time.Duration(i) * time.Microsecond) }},
		"timestamptz long ago": {typ: "timestamptz", key: func(i int) any { return time.Date(-300+i/10, 1, 1+i%10, 0, 0, 0, 0, time.UTC) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := pgxpool.ParseConfig(servertest.PostgresURL(t))
			if err != nil {
				t.Fatal(err)
			}
			pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			for _, set := range strings.Split(c.session, "; ") {
				if set != "" { // for every later connection
					exec(t, pool, "ALTER DATABASE "+cfg.ConnConfig.Database+" "+set)
				}
			}
			exec(t, pool, c.setup+"; CREATE TABLE keyed (k "+c.typ+" PRIMARY KEY)")
			pool.Reset()
			tab, points := keyedTable(t, pool)
			rows := func(from, to int) (out []keyed) {
				for i := from; i < to; i++ {
					out = append(out, keyed{c.key(i)})
				}
				return out
			}
			stage(t, tab, load(rows(0, 1000)...), staging.OutcomeStaged)
			promote(t, tab)
			exec(t, pool, "ANALYZE keyed")
			clear(points)
			stage(t, tab, load(rows(990, 1050)...), staging.OutcomeStaged)
			stage(t, tab, load(rows(1040, 1100)...), staging.OutcomeStaged)
			if p := promote(t, tab); p.Rows != 100 || p.Conflicts != 20 {
				t.Errorf("%+v", p)
			}
			if points["near"] != 1 || points["carefully"] != 0 {
				t.Errorf("passed %v", points)
			}
			stage(t, tab, load(rows(0, 1100)...), staging.OutcomeStaged) // all of it is near now: each key is looked up
			clear(points)
			exec(t, pool, "ANALYZE keyed")
			if p := promote(t, tab); p.Rows != 0 || p.Conflicts != 1100 || points["carefully"] != 0 {
				t.Errorf("%+v, passed %v", p, points)
			}
			balanced(t, tab)
		})
	}
}

// Where keys are spread over the target, an insert does not look for them first as long as none was
// there; one that is refused is done again, looking, and the next hundred look, too.
func TestInsertsThatDoNotLook(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE keyed (k bigint PRIMARY KEY); INSERT INTO keyed SELECT 10 * i FROM generate_series(0, 100000) i; ANALYZE keyed")
	tab, points := keyedTable(t, pool)
	last := int64(1)
	spread := func() []keyed { // two new keys, near the ends
		last += 10
		return []keyed{{last}, {1_000_000 - last}}
	}
	next := func(rows []keyed, conflicts, blind, looking int) {
		t.Helper()
		clear(points)
		stage(t, tab, load(rows...), staging.OutcomeStaged)
		if p := promote(t, tab); p.Rows != len(rows)-conflicts || p.Conflicts != conflicts || p.More {
			t.Fatalf("%+v", p)
		}
		if points["blind"] != blind || points["looking"] != looking || points["near"]+points["in parts"] != 0 {
			t.Fatalf("passed %v", points)
		}
	}
	next(spread(), 0, 1, 0)
	next(append(spread(), keyed{int64(500)}), 1, 1, 1)
	for range 99 {
		next(spread(), 0, 0, 1)
		promote(t, tab) // of nothing: does not count
	}
	next(append(spread(), keyed{int64(500)}), 1, 0, 1)
	for range 100 {
		next(spread(), 0, 0, 1)
	}
	next(spread(), 0, 1, 0)
	twice := spread()
	next(append(twice, twice[0]), 1, 1, 0) // in what is staged, not in the target
	next(spread(), 0, 0, 1)
	balanced(t, tab)
	if n := query[int](t, pool, "SELECT count(*) FROM keyed WHERE k % 10 <> 0"); n != 2*205 {
		t.Errorf("%d new rows in the target", n)
	}
}

// A unique index in addition to the key's: a row that it refuses is a reject with its payload, not
// a conflict.
func TestAnotherUniqueIndexRefuses(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE keyed (k bigint PRIMARY KEY, other bigint UNIQUE GENERATED ALWAYS AS (k % 1000003) STORED); INSERT INTO keyed SELECT 10 * i FROM generate_series(0, 10000) i; ANALYZE keyed")
	tab, points := keyedTable(t, pool)
	stage(t, tab, load(keyed{int64(11)}, keyed{int64(99_999)}, keyed{int64(1_000_003)}), staging.OutcomeStaged) // other is 0, as that of key 0
	if p := promote(t, tab); p.Rows != 2 || p.Conflicts != 0 || p.RejectedByRule != 1 {
		t.Errorf("%+v", p)
	}
	if points["blind"] != 0 || points["in parts"] != 1 || points["refused"] != 1 {
		t.Errorf("passed %v", points)
	}
	balanced(t, tab)
}

// A row whose key is there already is judged as INSERT … ON CONFLICT DO NOTHING judges it: triggers
// and checks come before the key. Where there are none, a promotion need not look.
func TestARowThatIsThereIsJudgedToo(t *testing.T) {
	t.Parallel()
	function := func(how string) string {
		return "; CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF EXISTS (SELECT FROM keyed WHERE k = NEW.k) THEN " + how + "; END IF; RETURN NEW; END $$"
	}
	const (
		plain   = "CREATE TABLE keyed (k bigint PRIMARY KEY, v bigint NOT NULL DEFAULT 0)"
		trigger = "; CREATE TRIGGER tr BEFORE INSERT ON keyed FOR EACH ROW EXECUTE FUNCTION tr()"
	)
	for name, c := range map[string]struct {
		ddl      string
		blind    int
		rejects  int   // of the row that is there
		triggers int64 // times that a trigger has run for it
	}{
		"check": {"CREATE TABLE keyed (k bigint PRIMARY KEY, v bigint GENERATED ALWAYS AS (k % 100) STORED)", 0, 1, 0},
		"an error of a check's function": {plain + `; CREATE FUNCTION f(x bigint) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN IF x = 500 AND EXISTS (SELECT FROM keyed WHERE k = x) THEN RAISE EXCEPTION 'no'; END IF; RETURN true; END $$;
			ALTER TABLE keyed ADD w bigint GENERATED ALWAYS AS (k) STORED; ALTER TABLE keyed ADD CHECK (f(w)) NOT VALID`, 0, 1, 0},
		"trigger that raises":  {plain + function("RAISE EXCEPTION 'no stock'") + trigger, 0, 1, 0},
		"trigger that rejects": {plain + function("RAISE EXCEPTION USING ERRCODE = '23514', MESSAGE = 'check'") + trigger, 0, 1, 0},
		"trigger that writes":  {plain + function("UPDATE keyed SET v = v + 1 WHERE k = NEW.k; RETURN NULL") + trigger, 0, 0, 1},
		"trigger of a partition": {plain + ` PARTITION BY HASH (k); CREATE TABLE k0 PARTITION OF keyed FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE k1 PARTITION OF keyed FOR VALUES WITH (MODULUS 2, REMAINDER 1)` +
			function("UPDATE keyed SET v = v + 1 WHERE k = NEW.k; RETURN NULL") + strings.ReplaceAll(trigger, "keyed", "k0") + strings.ReplaceAll(trigger, "keyed", "k1"), 0, 0, 1},
		"trigger that is off": {plain + function("RAISE EXCEPTION 'no stock'") + trigger + "; ALTER TABLE keyed DISABLE TRIGGER tr", 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, c.ddl+"; INSERT INTO keyed (k) SELECT 10 * i FROM generate_series(0, 100000) i; ANALYZE keyed")
			if name == "check" {
				exec(t, pool, "ALTER TABLE keyed ADD CHECK (v <> 0) NOT VALID")
			}
			tab, points := keyedTable(t, pool)
			before := query[int64](t, pool, "SELECT sum(v) FROM keyed WHERE k % 10 = 0")
			stage(t, tab, load(keyed{int64(1)}, keyed{int64(500)}, keyed{int64(999_991)}), staging.OutcomeStaged)
			if p := promote(t, tab); p.Rows != 2 || p.Conflicts != 1-c.rejects || p.RejectedByRule != c.rejects {
				t.Errorf("%+v, want %d rejects; %v", p, c.rejects, codes(t, tab))
			}
			if points["blind"] != c.blind || points["looking"] != c.blind || points["refused"] != c.rejects {
				t.Errorf("passed %v", points)
			}
			if after := query[int64](t, pool, "SELECT sum(v) FROM keyed WHERE k % 10 = 0"); after != before+c.triggers {
				t.Errorf("a trigger has run %d times, want %d", after-before, c.triggers)
			}
			balanced(t, tab)
		})
	}
}

// A key may be as long as a record until the target has refused it. It must not be in every row
// that a promotion reads.
func TestALongKeyTakesNoMemory(t *testing.T) { // alone: the memory is the whole process'
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE keyed (k text PRIMARY KEY)")
	tab, _ := keyedTable(t, pool)
	const batches = 100
	for i := range batches {
		stage(t, tab, load(keyed{fmt.Sprintf("k%d", i)}), staging.OutcomeStaged)
	}
	l := load(keyed{strings.Repeat("long", 250_000)})
	for i := range 2000 { // not to be compressed below the limit
		l.Rows[0].k = l.Rows[0].k.(string) + fmt.Sprint(i*i*7919)
	}
	stage(t, tab, l, staging.OutcomeStaged)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p := promote(t, tab)
	runtime.ReadMemStats(&after)
	if p.Rows != batches || p.RejectedByRule != 1 {
		t.Errorf("%+v", p)
	}
	if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 50 {
		t.Errorf("the promotion allocated %d MB", mb)
	}
	balanced(t, tab)
}

// No promotion reads the whole target, whatever the planner knows about it: nothing, or what it was
// when it was small. The rows that it reads are counted by Postgres. Of a table that was never
// analyzed the planner expects 500 in any range of keys, which is less than what is staged.
func TestNoPromotionReadsTheWholeTarget(t *testing.T) {
	t.Parallel()
	const there, staged = 100_000, 1000
	for name, c := range map[string]struct {
		setup string
		key   func(i int) int64 // keys of the target are the even numbers
		twice int               // so many keys are there
		point string
	}{
		"random keys, never analyzed":         {"", func(i int) int64 { return int64(i)*200 + 1 }, 0, "blind"},
		"rising keys, never analyzed":         {"", func(i int) int64 { return 2*there + 1 + int64(i) }, 0, "near"},
		"keys that are there, never analyzed": {"", func(i int) int64 { return int64(i) * 200 }, staged, "looking"},
		"random keys, analyzed when small":    {"ANALYZE keyed", func(i int) int64 { return int64(i)*200 + 1 }, 0, "blind"},
		"keys there, analyzed when small":     {"ANALYZE keyed", func(i int) int64 { return int64(i) * 200 }, staged, "looking"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := pgxpool.ParseConfig(servertest.PostgresURL(t))
			if err != nil {
				t.Fatal(err)
			}
			cfg.MaxConns = 1 // a session reports what it has read, and only its own
			pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			exec(t, pool, `CREATE TABLE keyed (k bigint PRIMARY KEY) WITH (autovacuum_enabled = off); INSERT INTO keyed VALUES (0)`)
			if c.setup != "" {
				exec(t, pool, c.setup)
			}
			exec(t, pool, fmt.Sprintf(`INSERT INTO keyed SELECT 2 * i FROM generate_series(1, %d) i`, there))
			tab, points := keyedTable(t, pool)
			var rows []keyed
			for i := range staged {
				rows = append(rows, keyed{c.key(i)})
			}
			read := func() int {
				exec(t, pool, `SELECT pg_stat_force_next_flush()`)
				return query[int](t, pool, `SELECT seq_tup_read + idx_tup_fetch + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'keyed')
					FROM pg_stat_user_tables WHERE relname = 'keyed'`)
			}
			stage(t, tab, load(rows...), staging.OutcomeStaged)
			before := read()
			if p := promote(t, tab); p.Rows != staged-c.twice || p.Conflicts != c.twice {
				t.Errorf("%+v", p)
			}
			if points[c.point] != 1 {
				t.Errorf("passed %v, want %s", points, c.point)
			}
			if n := read() - before; n > 10*staged {
				t.Errorf("the promotion has read %d rows of the target: want at most %d of %d", n, 10*staged, there)
			}
		})
	}
}
