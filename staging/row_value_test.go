package staging_test

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgtype"
)

// A column whose type pgx does not know takes no Value: the bytes of a text would become an amount
// of money or a position in the WAL.
func TestValueOfATypeThatPgxDoesNotKnow(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TYPE pair AS (a int, b text); CREATE DOMAIN price AS money; CREATE TYPE mood AS ENUM ('glad');
		CREATE TABLE odd (amount money, price price, place pg_lsn, pair pair, prices money[], path jsonpath, mood mood)`)
	type odd struct{ v any }
	for column, values := range map[string][]any{
		"amount": {"12345.00", []byte("12345678"), int64(700), time.Second, true}, "price": {"12345.00"}, "place": {"0/123456", int64(1)},
		"pair": {"(1,a)"}, "prices": {[]string{"1"}, []int64{7}}, "path": {"$.a"},
	} {
		tab := newTable(t, pool, "odd", staging.Config[odd]{Columns: []staging.Column{{Name: column}}, Fill: func(o *odd, r *staging.Row) { r.Value(o.v) }})
		for _, v := range values {
			_, err := tab.Stage(t.Context(), load(odd{v}))
			if !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), fmt.Sprintf("%q", column)) {
				t.Errorf("%T into %s: %v, want ErrConfig with the column", v, column, err)
			}
		}
		stage(t, tab, load(odd{nil}), staging.OutcomeStaged) // NULL needs no type
		promote(t, tab)
	}
	tab := newTable(t, pool, "odd", staging.Config[odd]{Columns: []staging.Column{{Name: "mood"}}, Fill: func(o *odd, r *staging.Row) { r.Value(o.v) }})
	stage(t, tab, load(odd{"glad"}, odd{mood("glad")}, odd{true}, odd{int64(7)}), staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 2 || p.Rejected != 2 {
		t.Errorf("an enum takes %d rows and rejects %d, want the two texts and neither of the others: %+v", p.Rows, p.Rejected, p)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM odd WHERE num_nonnulls(amount, price, place, pair, prices, path) > 0"); n != 0 {
		t.Errorf("%d rows hold a value that no program wrote", n)
	}
}

// A slice of bytes is a uuid if it has sixteen of them.
func TestUUIDOfBytes(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE ids (id uuid)`)
	type row struct {
		ID []byte `db:"id"`
	}
	tab := newTable(t, pool, "ids", staging.Config[row]{})
	stage(t, tab, load(row{[]byte("0123456789abcdef")}, row{[]byte("01234567")}, row{[]byte{}}, row{[]byte("0123456789abcdefg")}, row{nil}), staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 2 {
		t.Errorf("%+v, want the row of sixteen bytes and that of NULL", p)
	}
	rejects, err := tab.Rejects(t.Context(), staging.RejectFilter{Code: staging.CodeUUID})
	if err != nil || len(rejects) != 3 {
		t.Errorf("%d rejects with code %s, want 3: %v", len(rejects), staging.CodeUUID, err)
	}
}

// pgx encodes a number that is too large for a real as infinity, a small one as zero, one with a
// fraction without it for a column of integers, and a time that is too late as another time. None
// of them is stored, whatever holds it.
func TestValuesOutOfRangeAreRejected(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE odd (f real, fs real[], at timestamptz, ats timestamptz[], clock timestamp, day date, i int, bs bigint[], during tstzrange, days datemultirange, ids int8range)`)
	type odd struct{ v any }
	large, late := 1e39, time.Unix(1<<61, 0)
	numeric := pgtype.Numeric{Int: big.NewInt(1), Exp: 39, Valid: true}
	span := func(upper time.Time) pgtype.Range[time.Time] {
		return pgtype.Range[time.Time]{Lower: time.Unix(0, 0), Upper: upper, LowerType: pgtype.Inclusive, UpperType: pgtype.Exclusive, Valid: true}
	}
	ids := func(upper float64) pgtype.Range[float64] {
		return pgtype.Range[float64]{Lower: 1, Upper: upper, LowerType: pgtype.Inclusive, UpperType: pgtype.Exclusive, Valid: true}
	}
	for column, values := range map[string][]any{
		"f":      {1e39, -1e39, 1e-60, &large, sql.NullFloat64{Float64: 1e39, Valid: true}, pgtype.Float8{Float64: 1e39, Valid: true}, numeric, &numeric},
		"fs":     {[]float64{1, 1e39}, []*float64{nil, &large}, [][]float64{{1}, {1e39}}, pgtype.FlatArray[float64]{1e39}, pgtype.Array[float64]{Elements: []float64{1e39}, Dims: []pgtype.ArrayDimension{{Length: 1, LowerBound: 1}}, Valid: true}, []pgtype.Numeric{numeric}},
		"at":     {late, &late, sql.NullTime{Time: late, Valid: true}, sql.Null[time.Time]{V: late, Valid: true}, pgtype.Timestamptz{Time: late, Valid: true}},
		"ats":    {[]time.Time{late}, []*time.Time{nil, &late}, [][]time.Time{{late}}},
		"clock":  {late, pgtype.Timestamp{Time: late, Valid: true}},
		"day":    {late, pgtype.Date{Time: late, Valid: true}},
		"i":      {1.5, float32(-0.25), sql.NullFloat64{Float64: 1.5, Valid: true}, pgtype.Float8{Float64: 2.5, Valid: true}, math.NaN()},
		"bs":     {[]float64{1, 1.5}},
		"during": {span(late), &pgtype.Range[time.Time]{Lower: late, LowerType: pgtype.Inclusive, UpperType: pgtype.Unbounded, Valid: true}},
		"days":   {pgtype.Multirange[pgtype.Range[time.Time]]{span(time.Unix(1, 0)), span(late)}},
		"ids":    {ids(2.5)},
	} {
		tab := newTable(t, pool, "odd", staging.Config[odd]{Columns: []staging.Column{{Name: column}}, Fill: func(o *odd, r *staging.Row) { r.Value(o.v) }})
		var rows []odd
		for _, v := range values {
			rows = append(rows, odd{v})
		}
		good := map[string]any{"f": math.Inf(1), "fs": []float64{math.Inf(-1), 0, 1.5}, "at": pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true},
			"ats": []time.Time{time.Unix(0, 0)}, "clock": time.Unix(0, 0), "day": pgtype.Date{InfinityModifier: pgtype.NegativeInfinity, Valid: true},
			"i": 2.0, "bs": []float64{1, -2}, "during": pgtype.Range[time.Time]{LowerType: pgtype.Unbounded, Upper: time.Unix(0, 0), UpperType: pgtype.Exclusive, Valid: true},
			"days": pgtype.Multirange[pgtype.Range[time.Time]]{span(time.Unix(1<<30, 0))}, "ids": ids(3)}[column]
		stage(t, tab, load(append(rows, odd{good}, odd{nil})...), staging.OutcomeStaged)
		if p := promote(t, tab); p.Rows != 2 || p.Rejected != len(values) {
			t.Errorf("%s: %d rows and %d rejects, want 2 and %d", column, p.Rows, p.Rejected, len(values))
		}
		if got, err := tab.CodeCounts(t.Context()); err != nil || !slices.ContainsFunc(got, func(c staging.CodeCount) bool { return c.Code == staging.CodeRange }) || len(got) != 1 {
			t.Errorf("%s: codes %v, %v, want %s alone", column, got, err, staging.CodeRange)
		}
		exec(t, pool, "DELETE FROM odd_rejects; DELETE FROM odd_reject_counts")
	}
}

// Of slices that differ in length, pgx encodes as many elements as the first one has.
func TestSlicesOfDifferentLengths(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	type row struct {
		ID    int64       `db:"id"`
		Nums  [][]int32   `db:"nums"`
		Cube  [][][]int64 `db:"cube"`
		Texts [][]byte    `db:"texts"`
		Bytes [][]byte    `db:"bytes"`
		Small *[][]byte   `db:"small"`
	}
	exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, nums int[], cube bigint[], texts text[], bytes bytea[], small smallint[])")
	tab := newTable(t, pool, "rows", staging.Config[row]{Key: []string{"id"}})
	stage(t, tab, load(
		row{ID: 1, Nums: [][]int32{{1, 2}, {3, 4}}, Cube: [][][]int64{{{1}, {2}}, {{3}, {4}}}, Texts: [][]byte{[]byte("a"), []byte("bc"), nil}, Bytes: [][]byte{{1}, {2, 3}}, Small: &[][]byte{{1, 2}, {3, 4}}},
		row{ID: 2, Nums: [][]int32{{}, {}}, Texts: [][]byte{}},
		row{ID: 3, Nums: [][]int32{{1}, {2, 3}}},
		row{ID: 4, Nums: [][]int32{{1, 2}, {3}}},
		row{ID: 5, Nums: [][]int32{nil, {1}}},
		row{ID: 6, Cube: [][][]int64{{{1}, {2}}, {{3}, {4, 5}}}},
		row{ID: 7, Cube: [][][]int64{{{1}}, {{2}, {3}}}},
		row{ID: 8, Small: &[][]byte{{1}, {2, 3}}},
	), staging.OutcomeStaged)
	promote(t, tab)
	want := map[string]string{}
	for _, id := range []string{"3", "4", "5", "6", "7", "8"} {
		want[id] = staging.CodeEncode
	}
	if got := codes(t, tab); !maps.Equal(got, want) {
		t.Errorf("rejects %v, want %v", got, want)
	}
	const stored = `{{1,2},{3,4}} {{{1},{2}},{{3},{4}}} {a,bc,NULL} {"\\x01","\\x0203"} {{1,2},{3,4}}; {} {}`
	if got := query[string](t, usualFormats(t, pool), "SELECT string_agg(concat_ws(' ', nums, cube, texts, bytes, small), '; ' ORDER BY id) FROM rows"); got != stored {
		t.Errorf("stored %s, want %s", got, stored)
	}
	balanced(t, tab)
}

// A time has no text of its own: what Go prints is for debugging.
func TestTimesAreNoTexts(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v text, vs text[]); CREATE EXTENSION hstore; CREATE TABLE stores (v hstore)")
	_, err := staging.New(t.Context(), pool, "rows", staging.Config[struct {
		V time.Time `db:"v"`
	}]{})
	isDrift(t, "a time", err, `"v"`, "time.Time")
	_, err = staging.New(t.Context(), pool, "rows", staging.Config[struct {
		V []*time.Time `db:"vs"`
	}]{})
	isDrift(t, "times", err, `"vs"`, "time.Time")
	_, err = staging.New(t.Context(), pool, "stores", staging.Config[struct {
		V pgtype.Hstore `db:"v"`
	}]{})
	isDrift(t, "a type that pgx does not know", err, "hstore", "AfterConnect")

	type row struct {
		ID int64        `db:"id"`
		V  any          `db:"v"`
		N  sql.NullTime `db:"v2"`
	}
	exec(t, pool, "ALTER TABLE rows ADD v2 timestamptz")
	tab := newTable(t, pool, "rows", staging.Config[row]{Key: []string{"id"}})
	stage(t, tab, load(row{ID: 1, V: noon}, row{ID: 2, V: &noon}, row{ID: 3, V: sql.NullTime{Time: noon, Valid: true}}, row{ID: 4, V: "noon", N: sql.NullTime{Time: noon, Valid: true}},
		row{ID: 5, V: sql.NullString{String: "noon", Valid: true}}, row{ID: 6, V: sql.NullTime{}}), staging.OutcomeStaged)
	promote(t, tab)
	want := map[string]string{"1": staging.CodeEncode, "2": staging.CodeEncode, "3": staging.CodeEncode}
	if got := codes(t, tab); !maps.Equal(got, want) || idsIn(t, pool, "rows") != "4 5 6" {
		t.Errorf("rejects %v and rows %s, want %v and 4 5 6", got, idsIn(t, pool, "rows"), want)
	}
}

// A text is UTF-8, whatever encoding a document in it names: an INSERT ignores the name.
func TestXMLThatNamesAnEncoding(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE docs (id bigint PRIMARY KEY, v xml)")
	type row struct {
		ID int64 `db:"id"`
		V  any   `db:"v"`
	}
	tab := newTable(t, pool, "docs", staging.Config[row]{Key: []string{"id"}})
	stage(t, tab, load(row{1, `<?xml version="1.0" encoding="latin1"?><a>é</a>`}, row{2, `<?xml version='1.0' encoding = 'ISO-8859-1' standalone="yes"?><a>é</a>`},
		row{3, "<?xml version=\"1.0\" encoding=\"latin1\"?><a>\xe9</a>"}, row{4, `<a encoding="latin1">é</a>`}), staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 4 {
		t.Fatalf("%+v, %v", p, codes(t, tab))
	}
	if n := query[int](t, pool, "SELECT count(*) FROM docs WHERE convert_to((xpath('/a/text()', v))[1]::text, 'UTF8') = decode('c3a9', 'hex')"); n != 4 {
		t.Errorf("%d documents are as they were written, want 4: %s", n, query[string](t, pool, "SELECT string_agg(v::text, ' ') FROM docs"))
	}
}
