package servertest_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/jackc/pgx/v5"
	"github.com/redis/rueidis"
)

func TestMain(m *testing.M) { servertest.Main(m) }

func TestEachRedisAnswers(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		key := servertest.Prefix(t)
		if err := c.Do(t.Context(), c.B().Set().Key(key).Value("1").Build()).Error(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPostgresIsADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 2 {
		pool := servertest.Postgres(t)
		var name, encoding string
		if err := pool.QueryRow(t.Context(), "SELECT current_database(), current_setting('server_encoding')").Scan(&name, &encoding); err != nil {
			t.Fatal(err)
		}
		if seen[name] || encoding != "UTF8" {
			t.Errorf("database %s, seen before %v, encoding %s", name, seen[name], encoding)
		}
		seen[name] = true
	}
}

func TestOwnPostgresLosesUnloggedTablesInACrash(t *testing.T) {
	t.Parallel()
	s := servertest.OwnPostgres(t)
	exec := func(sql string) {
		t.Helper()
		if _, err := s.Pool(t).Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	count := func(table string) (n int) {
		t.Helper()
		if err := s.Pool(t).QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	exec("CREATE UNLOGGED TABLE scratch AS SELECT 1 AS n; CREATE TABLE durable AS SELECT 1 AS n")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if got := count("scratch"); got != 0 {
		t.Errorf("the UNLOGGED table kept %d rows", got)
	}
	if got := count("durable"); got != 1 {
		t.Errorf("the durable table has %d rows, want 1", got)
	}
}

func TestOwnRedisKeepsItsAddressAndData(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t, "--appendfsync", "always")
	c := s.Client(t)
	if err := c.Do(t.Context(), c.B().Set().Key("a").Value("1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	got, err := c.Do(t.Context(), c.B().Get().Key("a").Build()).ToString() // the same client: the address has not moved
	if err != nil || got != "1" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestPgBouncerPoolsTransactionsOfTheSameDatabase(t *testing.T) {
	t.Parallel()
	direct := servertest.Postgres(t)
	database := direct.Config().ConnConfig.Database
	url, err := servers.WithDatabase(direct.Config().ConnString(), database)
	if err != nil {
		t.Fatal(err)
	}
	through := servertest.PgBouncer(t, url, "default_pool_size = 3")
	if got := queryText(t, through, "SELECT current_database()"); got != database {
		t.Errorf("it leads to %s, not to %s", got, database)
	}
	console, err := servers.WithDatabase(through, "pgbouncer")
	if err != nil {
		t.Fatal(err)
	}
	for want, sql := range map[string]string{"transaction": "pool_mode", "3": "default_pool_size"} {
		if got := showConfig(t, console, sql); got != want {
			t.Errorf("%s is %s, want %s", sql, got, want)
		}
	}
}

func TestPgBouncerOfTheEnvironmentIsUsedForItsServer(t *testing.T) {
	pg := servertest.OwnPostgres(t)
	bouncer := servertest.PgBouncer(t, pg.URL)
	t.Setenv(servers.EnvPostgres, pg.URL)
	t.Setenv(servers.EnvPgBouncer, bouncer)
	queryText(t, pg.URL, "CREATE DATABASE other")
	other, err := servers.WithDatabase(pg.URL, "other")
	if err != nil {
		t.Fatal(err)
	}
	want, err := servers.WithDatabase(bouncer, "other")
	if err != nil {
		t.Fatal(err)
	}
	got := servertest.PgBouncer(t, other)
	if got != want {
		t.Error("another PgBouncer than the one of the environment")
	}
	if name := queryText(t, got, "SELECT current_database()"); name != "other" {
		t.Errorf("it leads to %s", name)
	}
	// A test's own settings, or a database of another server, need one of its own.
	if servertest.PgBouncer(t, other, "default_pool_size = 3") == want {
		t.Error("the settings were ignored")
	}
	elsewhere, err := servers.WithDatabase(servertest.OwnPostgres(t).URL, "other")
	if err != nil {
		t.Fatal(err)
	}
	if servertest.PgBouncer(t, elsewhere) == want {
		t.Error("the PgBouncer of another server was taken")
	}
}

func TestDatabaseGoesWithItsTestEvenWhileConnectionsAreOpen(t *testing.T) {
	t.Parallel()
	var url, name string
	t.Run("inner", func(t *testing.T) {
		url = servertest.PostgresURL(t)
		name = queryText(t, url, "SELECT current_database()")
		c, err := pgx.Connect(context.Background(), url)
		if err != nil {
			t.Fatal(err)
		}
		_ = c // stays connected
	})
	all, err := servers.WithDatabase(url, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	if got := queryText(t, all, "SELECT count(*)::text FROM pg_database WHERE datname = '"+name+"'"); got != "0" {
		t.Errorf("the database %s is still there", name)
	}
}

func TestKeysWithThePrefixGoWithTheirTest(t *testing.T) {
	t.Parallel()
	c := servertest.Redis(t)
	other := servertest.Prefix(t)
	set := func(key string) {
		t.Helper()
		if err := c.Do(t.Context(), c.B().Set().Key(key).Value("1").Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	set(other)
	var keys []string
	t.Run("An Inner Test, with ünusual characters in its quite long name", func(t *testing.T) {
		prefix := servertest.Prefix(t)
		if !regexp.MustCompile(`^[a-z0-9-]{1,63}$`).MatchString(prefix) {
			t.Errorf("Prefix is %q", prefix)
		}
		keys = []string{prefix, prefix + ":list", "{" + prefix + "}:m:1"}
		for _, key := range keys {
			set(key)
		}
	})
	for _, key := range keys {
		if n, err := c.Do(t.Context(), c.B().Exists().Key(key).Build()).AsInt64(); err != nil || n != 0 {
			t.Errorf("%s is still there (%v)", key, err)
		}
	}
	if n, err := c.Do(t.Context(), c.B().Exists().Key(other).Build()).AsInt64(); err != nil || n != 1 {
		t.Errorf("a key of another test went too (%v)", err)
	}
}

func TestEachRedisIsEveryKindOnce(t *testing.T) {
	t.Setenv(servertest.EnvEach, "")
	seen := make(map[string]string)
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		info, err := c.Do(t.Context(), c.B().Info().Build()).ToString()
		if err != nil && !strings.HasSuffix(t.Name(), "/miniredis") {
			t.Fatal(err)
		}
		kind := t.Name()
		if !strings.HasSuffix(kind, "/miniredis") {
			kind = regexp.MustCompile(`(valkey|redis)_version:\d+`).FindString(info)
			if v := regexp.MustCompile(`valkey_version:\d+`).FindString(info); v != "" {
				kind = v
			}
		}
		if other, again := seen[kind]; again {
			t.Errorf("%s is the same kind as %s: %s", t.Name(), other, kind)
		}
		seen[kind] = t.Name()
	})
	if len(seen) < 2 {
		t.Errorf("only %v: not even miniredis and the shared server", seen)
	}
}

func TestEachRedisOfTheEnvironment(t *testing.T) {
	t.Setenv(servertest.EnvEach, "miniredis")
	var ran []string
	servertest.EachRedis(t, func(t *testing.T, _ rueidis.Client) { ran = append(ran, t.Name()) })
	if len(ran) != 1 || !strings.HasSuffix(ran[0], "/miniredis") {
		t.Errorf("ran %v", ran)
	}
}

func queryText(t *testing.T, url, sql string) (text string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background()) //nolint:errcheck // the query is done
	if err := c.QueryRow(t.Context(), sql).Scan(&text); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		t.Fatal(err)
	}
	return text
}

// showConfig asks PgBouncer's console, which speaks the simple protocol alone.
func showConfig(t *testing.T, console, key string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(console)
	if err != nil {
		t.Fatal("unreadable URL")
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	c, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background()) //nolint:errcheck // the query is done
	rows, err := c.Query(t.Context(), "SHOW CONFIG")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if v := rows.RawValues(); string(v[0]) == key {
			return string(v[1])
		}
	}
	t.Fatalf("no %s in SHOW CONFIG (%v)", key, rows.Err())
	return ""
}
