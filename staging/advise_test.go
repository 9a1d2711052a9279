package staging_test

import (
	"slices"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// Each advice is given where its cause is, and not where it is not.
func TestAdvise(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	for name, c := range map[string]struct {
		ddl        string
		want, lack []string
	}{
		"good": {`CREATE TABLE good (k text COLLATE "C" PRIMARY KEY); INSERT INTO good SELECT 'k' || i FROM generate_series(1, 1000) i`, nil, []string{"collation", "unanalyzed", "autovacuum"}},
		"large": {`CREATE TABLE large (k text COLLATE "C" PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
			INSERT INTO large SELECT 'k' || i, repeat('v', 1000) FROM generate_series(1, 10000) i`, []string{"unanalyzed", "autovacuum"}, []string{"collation"}},
		"analyzed": {`CREATE TABLE analyzed (k text COLLATE "C" PRIMARY KEY, v text);
			INSERT INTO analyzed SELECT 'k' || i, repeat('v', 1000) FROM generate_series(1, 10000) i; ANALYZE analyzed`, nil, []string{"unanalyzed", "autovacuum"}},
		"numbered": {`CREATE TABLE numbered (k bigint PRIMARY KEY) PARTITION BY HASH (k); CREATE TABLE numbered_0 PARTITION OF numbered FOR VALUES WITH (MODULUS 1, REMAINDER 0)
			WITH (autovacuum_enabled = off)`, []string{"autovacuum"}, []string{"collation", "unanalyzed"}},
	} {
		exec(t, pool, c.ddl)
		tab := newTable(t, pool, name, staging.Config[keyed]{Key: []string{"k"}, Columns: []staging.Column{{Name: "k"}}, Fill: func(v *keyed, r *staging.Row) { r.Value(v.k) }})
		got, err := tab.Advise(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		given := func(code string) bool {
			return slices.ContainsFunc(got, func(a staging.Advice) bool { return a.Code == code })
		}
		for _, code := range c.want {
			if !given(code) {
				t.Errorf("%s: got %+v, want %s", name, got, code)
			}
		}
		for _, code := range c.lack {
			if given(code) {
				t.Errorf("%s: got %+v, want no %s", name, got, code)
			}
		}
	}
	exec(t, pool, `CREATE TABLE sorted (k text PRIMARY KEY)`)
	libc := query[bool](t, pool, `SELECT datlocprovider = 'c' AND datcollate !~ '^(C|POSIX)' FROM pg_database WHERE datname = current_database()`)
	tab := newTable(t, pool, "sorted", staging.Config[keyed]{Key: []string{"k"}, Columns: []staging.Column{{Name: "k"}}, Fill: func(v *keyed, r *staging.Row) { r.Value(v.k) }})
	got, err := tab.Advise(t.Context())
	if err != nil || slices.ContainsFunc(got, func(a staging.Advice) bool { return a.Code == "collation" }) != libc {
		t.Errorf("got %+v, %v: want advice on the collation: %v", got, err, libc)
	}
	for setting, least := range map[string]string{"max_wal_size": "'4GB'", "shared_buffers": "pg_indexes_size('sorted')::text"} {
		small := query[bool](t, pool, `SELECT pg_size_bytes(current_setting($1)) < pg_size_bytes(`+least+`)`, setting)
		if slices.ContainsFunc(got, func(a staging.Advice) bool { return a.Code == setting }) != small {
			t.Errorf("got %+v: want advice on %s: %v", got, setting, small)
		}
	}
}
