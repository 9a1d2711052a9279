package lookup_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

type zone struct {
	City     string
	TimeZone string `db:"tz"`
	note     string //nolint:unused // not exported: no column is expected
	Loaded   bool   `db:"-"`
}

type place struct{ Country, Zip string }

type product struct {
	SKU   int32
	Name  *string
	Price float64
}

func load[K comparable, V any](t *testing.T, l lookup.Loader[K, V]) (map[K]V, error) {
	t.Helper()
	got := make(map[K]V)
	err := l(t.Context(), func(k K, v V) error {
		if _, twice := got[k]; twice {
			return lookup.ErrDuplicateKey
		}
		got[k] = v
		return nil
	})
	return got, err
}

func TestFromQuery(t *testing.T) {
	t.Parallel()
	db := servertest.Postgres(t)

	composite, err := load(t, lookup.FromQuery[place, zone](db,
		`SELECT 'US' AS country, '10001' AS zip, 'New York' AS city, 'America/New_York' AS tz UNION ALL SELECT 'DE', '10001', 'Berlin', 'Europe/Berlin'`))
	if d := cmp.Diff(map[place]zone{
		{"US", "10001"}: {City: "New York", TimeZone: "America/New_York"},
		{"DE", "10001"}: {City: "Berlin", TimeZone: "Europe/Berlin"},
	}, composite, cmp.AllowUnexported(zone{})); err != nil || d != "" {
		t.Error(err, d)
	}
	scalar, err := load(t, lookup.FromQuery[string, float64](db, `SELECT code, rate FROM (VALUES ('EUR', 0.92::float8), ('JPY', 149.5)) r (code, rate) WHERE code <> $1`, "GBP"))
	if d := cmp.Diff(map[string]float64{"EUR": 0.92, "JPY": 149.5}, scalar); err != nil || d != "" {
		t.Error(err, d)
	}
	// The key column is a field of the value too, of another type; a nullable column needs a pointer.
	name := "Mug"
	shared, err := load(t, lookup.FromQuery[int64, product](db, `SELECT 7::int4 AS sku, 'Mug' AS name, 9.5::float8 AS price UNION ALL SELECT 8, NULL, 1`))
	if d := cmp.Diff(map[int64]product{7: {7, &name, 9.5}, 8: {8, nil, 1}}, shared); err != nil || d != "" {
		t.Error(err, d)
	}
	empty, err := load(t, lookup.FromQuery[int64, product](db, `SELECT 7::int4 AS sku, 'Mug' AS name, 9.5::float8 AS price WHERE false`))
	if err != nil || len(empty) != 0 {
		t.Error(err, empty)
	}
}

func TestFromQueryErrors(t *testing.T) {
	t.Parallel()
	db := servertest.Postgres(t)
	for _, tc := range []struct {
		query string
		is    error
		text  string
	}{
		{`SELECT 1 AS sku, 'a' AS name, 2::float8 AS price UNION ALL SELECT NULL, 'b', 3`, lookup.ErrNullKey, "lookup: NULL key: column sku of row 2"},
		{`SELECT 1 AS sku, 'a' AS name, 2::float8 AS price UNION ALL SELECT 1, 'b', 3`, lookup.ErrDuplicateKey, "row 2: lookup: duplicate key"},
		{`SELECT 1 AS sku, 'a' AS name, NULL::float8 AS price`, nil, "price"},
		{`SELECT 1 AS sku, 'a' AS name, 2::float8 AS price, 4 AS weight`, lookup.ErrConfig, "lookup: invalid configuration: query: column weight has no field in int64 or lookup_test.product"},
		{`SELECT 1 AS sku, 'a' AS name`, lookup.ErrConfig, "lookup: invalid configuration: query: field price of lookup_test.product has no column"},
		{`SELECT 1 / (2 - s) AS sku, 'a' AS name, 2::float8 AS price FROM generate_series(1, 3) s`, nil, "division by zero"},
		{`SELECT 1 FROM nowhere`, nil, "nowhere"},
	} {
		_, err := load(t, lookup.FromQuery[int64, product](db, tc.query))
		if err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s:\n got %v\nwant %s", tc.query, err, tc.text)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lookup.FromQuery[int64, product](db, `SELECT 1 AS sku, 'a' AS name, 2::float8 AS price`)(ctx, func(int64, product) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("with a ctx that is done: %v", err)
	}
}

// From Postgres through Redis into the process, with a composite key.
func TestTableFromPostgres(t *testing.T) {
	t.Parallel()
	db, c := servertest.Postgres(t), servertest.Redis(t)
	if _, err := db.Exec(t.Context(), `CREATE TABLE zips (country text, zip text, city text, tz text, PRIMARY KEY (country, zip));
		INSERT INTO zips SELECT 'US', lpad(i::text, 5, '0'), 'City ' || i, 'UTC' FROM generate_series(1, 3000) i`); err != nil {
		t.Fatal(err)
	}
	table, err := lookup.New(t.Context(), c, servertest.Prefix(t), lookup.Config[place, zone]{Load: lookup.FromQuery[place, zone](db, "SELECT country, zip, city, tz FROM zips")})
	if err != nil {
		t.Fatal(err)
	}
	r, err := table.Refresh(t.Context())
	if err != nil || r.Entries != 3000 {
		t.Fatal(r, err)
	}
	found, err := table.GetMany(t.Context(), []place{{"US", "00042"}, {"CA", "00042"}})
	if err != nil || found.Values[0].City != "City 42" || len(found.Missing) != 1 || found.Missing[0] != 1 {
		t.Fatal(found, err)
	}
	// The next version's key is NULL somewhere: the old one serves.
	if _, err := db.Exec(t.Context(), `ALTER TABLE zips DROP CONSTRAINT zips_pkey; ALTER TABLE zips ALTER zip DROP NOT NULL; INSERT INTO zips VALUES ('US', NULL, 'Nowhere', 'UTC')`); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Refresh(t.Context()); !errors.Is(err, lookup.ErrNullKey) {
		t.Fatal(err)
	}
	if s, err := table.Snapshot(); err != nil || s.Version() != r.Version {
		t.Fatal(err)
	}
}

// A Load function that panics is an error like any other, and the current version stays.
func TestLoadThatPanics(t *testing.T) {
	t.Parallel()
	panics := false
	tab, err := lookup.New(t.Context(), servertest.Redis(t), servertest.Prefix(t), lookup.Config[string, int]{
		Load: func(_ context.Context, put func(string, int) error) error {
			if panics {
				panic("no such column")
			}
			return put("EUR", 7)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tab.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	panics = true
	if _, err := tab.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "the Load function panicked: no such column") {
		t.Errorf("got %v, want an error with the text of the panic", err)
	}
	s, err := tab.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := s.Get("EUR"); v != 7 || !ok {
		t.Errorf("got %d, %t after the panic, want the version before it", v, ok)
	}
}
