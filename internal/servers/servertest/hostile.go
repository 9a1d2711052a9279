package servertest

import (
	"context"
	"hash/fnv"
	"os"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers"
	"github.com/jackc/pgx/v5"
)

// EnvHostile gives each test, when it is 1, a database with hostile defaults: another encoding and
// collation, another isolation, short time limits, unusual formats. What a package promises must
// not depend on any of them.
const EnvHostile = "HEADRACE_HOSTILE"

// Hostile is true if databases have hostile defaults.
func Hostile() bool { return os.Getenv(EnvHostile) == "1" }

// hostileSettings are the defaults of a hostile database. A test's own statements have to pass
// under them on a busy machine, so the time limits are long. Tests of the limits set short ones.
var hostileSettings = [][2]string{
	{"statement_timeout", "'20s'"}, {"lock_timeout", "'10s'"}, {"idle_in_transaction_session_timeout", "'60s'"}, {"transaction_timeout", "'60s'"},
	{"\"DateStyle\"", "'German, DMY'"}, {"\"TimeZone\"", "'Asia/Kolkata'"}, {"\"IntervalStyle\"", "'sql_standard'"},
	{"extra_float_digits", "'-15'"}, {"bytea_output", "'escape'"}, {"quote_all_identifiers", "on"},
	{"row_security", "off"}, {"standard_conforming_strings", "off"}, {"synchronous_commit", "off"}, {"work_mem", "'64kB'"},
}

// hostileKinds are the encodings and collations, each with an isolation.
var hostileKinds = []struct{ create, isolation string }{
	{"ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'", "repeatable read"},
	{"ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'", "serializable"},
	{"ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'", "repeatable read"},
	{"ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE '{locale}'", "serializable"},
}

// utf8Kinds are the kinds that hold every character.
var utf8Kinds = hostileKinds[2:]

// hostileKind draws a kind by the test's name, so that a test always has the same one.
func hostileKind(t testing.TB, utf8 bool) (create, isolation string) {
	kinds := hostileKinds
	if utf8 {
		kinds = utf8Kinds
	}
	h := fnv.New32a()
	h.Write([]byte(t.Name())) //nolint:errcheck // never fails
	k := kinds[h.Sum32()%uint32(len(kinds))]
	if strings.Contains(k.create, "{locale}") {
		return strings.ReplaceAll(k.create, "{locale}", linguisticLocale(t)), k.isolation
	}
	return k.create, k.isolation
}

// linguisticLocale finds a locale of libc that sorts as people do, or takes C.UTF-8.
func linguisticLocale(t testing.TB) (name string) {
	t.Helper()
	s, err := sharedPostgres()
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	c, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx) //nolint:errcheck // the query is done
	err = c.QueryRow(ctx, `SELECT coalesce(min(collcollate) FILTER (WHERE collcollate ~ '^en_'), min(collcollate), 'C.UTF-8')
		FROM pg_collation WHERE collprovider = 'c' AND collencoding = 6`).Scan(&name)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// setHostile gives a new database its defaults. A setting that the server does not know is left
// out.
func setHostile(s *servers.PostgresServer, ident, isolation string) error {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		return err
	}
	defer c.Close(ctx) //nolint:errcheck // the statements are done
	for _, kv := range append(hostileSettings, [2]string{"default_transaction_isolation", "'" + isolation + "'"}) {
		var known bool
		if err := c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_settings WHERE name = trim('"' FROM $1))`, kv[0]).Scan(&known); err != nil {
			return err
		}
		if !known {
			continue
		}
		if _, err := c.Exec(ctx, "ALTER DATABASE "+ident+" SET "+kv[0]+" = "+kv[1]); err != nil {
			return err
		}
	}
	return nil
}
