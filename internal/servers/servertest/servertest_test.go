package servertest_test

import (
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
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

func TestPgBouncerLeadsToTheSameDatabase(t *testing.T) {
	t.Parallel()
	direct := servertest.PostgresURL(t)
	through := servertest.PgBouncer(t, direct)
	if through == direct || !strings.HasPrefix(through, "postgres://") {
		t.Errorf("no other URL")
	}
}
