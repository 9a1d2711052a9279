package staging_test

import (
	"database/sql/driver"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/govalues/decimal"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgtype"
	"pgregory.net/rapid"
)

type mood string

type extra struct {
	A int    `json:"a"`
	B string `json:"b"`
}

// wide has a column of every type that is written without pgx's help, and some that are not.
type wide struct {
	ID     [16]byte          `db:"id"`
	UID    string            `db:"Uid text"`
	Mood   mood              `db:"mood"`
	Moods  []mood            `db:"moods"`
	Small  int16             `db:"small"`
	Int    int               `db:"int"`
	Big    uint64            `db:"big"`
	Real   float32           `db:"real"`
	Double *float64          `db:"double"`
	Yes    bool              `db:"yes"`
	TZ     time.Time         `db:"tz"`
	TS     time.Time         `db:"ts"`
	Day    time.Time         `db:"day"`
	Amount decimal.Decimal   `db:"amount"`
	Text   string            `db:"amount_text"`
	JSON   json.RawMessage   `db:"json"`
	JSONB  extra             `db:"jsonb"`
	Map    map[string]string `db:"map"`
	Bytes  []byte            `db:"bytes"`
	Tags   []string          `db:"tags"`
	Nums   []int64           `db:"nums"`
	Decs   []decimal.Decimal `db:"decs"`
	Email  string            `db:"email"`
	Code   string            `db:"code"`
	Inet   pgtype.Text       `db:"note"`
	Span   time.Duration     `db:"span"`
}

const wideSQL = `CREATE SCHEMA "Odd ""Schema"; SET LOCAL search_path TO public;
	CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
	CREATE TABLE "Odd ""Schema"."Wide. Table" (no bigint GENERATED ALWAYS AS IDENTITY, id uuid PRIMARY KEY, "Uid text" uuid, mood mood, moods mood[], small smallint, int integer, big numeric, real real, double double precision,
	yes boolean, tz timestamptz, ts timestamp, day date, amount numeric(30,10), amount_text numeric, json json, jsonb jsonb, map jsonb, bytes bytea, tags text[], nums bigint[], decs numeric[], email email, code varchar(3) COLLATE "C",
	note text DEFAULT 'x', span interval, twice integer GENERATED ALWAYS AS (int * 2) STORED)`

func TestEveryType(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, wideSQL)
	tab := newTable(t, pool, `"Odd ""Schema"."Wide. Table"`, staging.Config[wide]{Key: []string{"id"}})
	half := 0.5
	full := wide{ID: [16]byte{1}, UID: "01890a5d-ac96-774b-bcce-b302099a8057", Mood: "sad", Moods: []mood{"glad", "sad"}, Small: -7, Int: 1 << 29, Big: math.MaxUint64,
		Real: 1.5, Double: &half, Yes: true, TZ: noon, TS: noon, Day: time.Date(1969, 7, 20, 23, 0, 0, 0, time.UTC), Amount: decimal.MustParse("-123456789.0123456789"),
		Text: "123456789012345678901234567890.000000000000000000001", JSON: json.RawMessage(`{"a": "\u0000"}`), JSONB: extra{1, `back\slash`}, Map: map[string]string{"k": `\\u0000`},
		Bytes: []byte{0, 255}, Tags: []string{"a", "", `"{},`}, Nums: []int64{1, -2}, Decs: []decimal.Decimal{decimal.MustParse("0.10")}, Email: "a@b", Code: "äöü",
		Inet: pgtype.Text{String: "n", Valid: true}, Span: 90 * time.Second}
	empty := wide{ID: [16]byte{2}, UID: "01890a5dac96774bbcceb302099a8057", Mood: "glad", Text: "NaN", Email: "@"}
	l := load(full, empty)
	stage(t, tab, l, staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 2 || p.Rejected != 0 {
		r, _ := tab.RejectsByBatch(t.Context(), []string{l.Batch.ID})
		t.Fatalf("%+v: %+v", p, r)
	}
	got := query[string](t, usualFormats(t, pool), `SELECT row_to_json(w)::text FROM (SELECT * FROM "Odd ""Schema"."Wide. Table" WHERE no = 1) w`)
	for _, f := range []string{`"tz":"2026-11-22T12:00:00.123456+00:00"`, `"big":18446744073709551615`, `"amount":-123456789.0123456789`, `"amount_text":123456789012345678901234567890.000000000000000000001`,
		`"moods":["glad","sad"]`, `"day":"1969-07-20"`, `"decs":[0.10]`, `"nums":[1,-2]`, `"code":"äöü"`, `"span":"00:01:30"`, `"note":"n"`, `"bytes":"\\x00ff"`, `"tags":["a","","\"{},"]`, `"ts":"2026-11-22T12:00:00.123456"`} {
		if !strings.Contains(got, f) {
			t.Errorf("the row lacks %s", f)
		}
	}
	t.Log(got)
	if n := query[int](t, pool, `SELECT count(*) FROM "Odd ""Schema"."Wide. Table" WHERE no = 2 AND moods IS NULL AND double IS NULL AND map IS NULL AND bytes IS NULL AND tags IS NULL AND note IS NULL AND amount = 0 AND amount_text = 'NaN'`); n != 1 {
		t.Error("empty values are not NULL where they should be")
	}
}

// TestNumericIsExact writes numbers and reads them back as Postgres prints them.
func TestNumericIsExact(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	type num struct {
		S string          `db:"s" dbtype:"text"`
		N string          `db:"n" dbtype:"numeric"`
		D decimal.Decimal `db:"d" dbtype:"numeric"`
		F float64         `db:"f" dbtype:"numeric"`
	}
	tab := newTable(t, pool, "nums", staging.Config[num]{Create: true})
	var rows []num
	dec := rapid.Custom(func(r *rapid.T) decimal.Decimal {
		d, err := decimal.New(rapid.Int64().Draw(r, "coef"), rapid.IntRange(0, 19).Draw(r, "scale"))
		if err != nil {
			return decimal.Zero
		}
		return d
	})
	for i := range 2000 {
		d := dec.Example(i)
		rows = append(rows, num{d.String(), d.String(), d, 0.1})
	}
	for _, s := range []string{"0", "-0.0", "1e3", "1.5e-7", "123456789012345678901234567890e10", ".5", "5.", "+3", " 7 ", "Infinity", "-inf", "nan", "0.00012340000", "10000", "9999.9999", "1e-20",
		"00012.3400", "100000000000000000000000000000000000"} {
		rows = append(rows, num{S: s, N: s})
	}
	stage(t, tab, load(rows...), staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != len(rows) {
		t.Fatalf("%+v", p)
	}
	if bad := query[string](t, pool, `SELECT coalesce(string_agg(s || ' became ' || n || ' and ' || d, '; '), '') FROM nums WHERE n::text <> s::numeric::text OR (d <> 0 AND d::text <> n::text)`); bad != "" {
		t.Error(bad)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM nums WHERE f NOT IN (0, 0.1)"); n != 0 {
		t.Errorf("%d floats were rounded", n)
	}
}

// TestValuesThatPostgresRefuses: one bad row costs that record and no other.
func TestValuesThatPostgresRefuses(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, wideSQL)
	tab := newTable(t, pool, `"Odd ""Schema"."Wide. Table"`, staging.Config[wide]{Key: []string{"id"}})
	good := func(i int) wide {
		return wide{ID: [16]byte{byte(i), byte(i >> 8), 1}, UID: uid.New(), Mood: "glad", Text: "1", Email: "a@b"}
	}
	spoil := map[int]struct {
		code string
		f    func(*wide)
	}{
		3:  {staging.CodeUTF8, func(w *wide) { w.Code = "\xff" }},
		10: {staging.CodeNUL, func(w *wide) { w.Code = "a\x00" }},
		11: {staging.CodeNUL, func(w *wide) { w.JSONB.B = "a\x00" }},
		12: {staging.CodeUTF8, func(w *wide) { w.JSONB.B = "a\xff" }},
		13: {staging.CodeUTF8, func(w *wide) { w.Map = map[string]string{"k": "\ufffd", "\xc3": "v"} }},
		20: {staging.CodeRange, func(w *wide) { w.Int = math.MaxInt32 + 1 }},
		30: {staging.CodeTooLong, func(w *wide) { w.Code = "abcd" }},
		40: {staging.CodeNumeric, func(w *wide) { w.Text = "1,5" }},
		50: {staging.CodeUUID, func(w *wide) { w.UID = "x" }},
		60: {staging.CodeRange, func(w *wide) { w.TZ = time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC) }},
		61: {staging.CodeRange, func(w *wide) { w.Day = time.Date(5874898, 1, 1, 0, 0, 0, 0, time.UTC) }},
		// What only Postgres can tell:
		70: {"sqlstate_22P02", func(w *wide) { w.Mood = "angry" }},
		71: {"sqlstate_23514", func(w *wide) { w.Email = "nobody" }},
		90: {"sqlstate_22P02", func(w *wide) { w.JSON = json.RawMessage("{") }},
		// What only the target can tell, at promotion: its generated column overflows. The row is kept as
		// json, \u0000 and all.
		120: {"sqlstate_22003", func(w *wide) { w.Int, w.JSON = math.MaxInt32, json.RawMessage(`"\u0000"`) }},
	}
	rows := make([]wide, 200)
	for i := range rows {
		rows[i] = good(i)
		if s, ok := spoil[i]; ok {
			s.f(&rows[i])
		}
	}
	rows[196].Day = time.Date(5874897, 12, 31, 0, 0, 0, 0, time.UTC) // the last one
	// U+FFFD itself is a character like any other.
	rows[199].JSONB.B, rows[198].JSON, rows[197].Map = "\ufffd", json.RawMessage(`"\ufffd"`), map[string]string{`\ufffd`: `\\ufffd`}
	l := load(rows...)
	l.Payloads = make([][]byte, len(rows))
	for i := range rows {
		l.Payloads[i] = []byte{byte(i), 0xff}
	}
	stage(t, tab, l, staging.OutcomeStaged)
	p := promote(t, tab)
	if p.Rows != len(rows)-len(spoil) || p.Rejected != len(spoil)-1 || p.Kept != p.Rows+1 || p.RejectedByRule != 1 {
		t.Errorf("promotion: %+v", p)
	}
	r, err := tab.RejectsByBatch(t.Context(), []string{l.Batch.ID})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range r[l.Batch.ID] {
		want, ok := spoil[int(x.Pos)]
		if !ok || want.code != x.Code || (string(x.Payload) != string(l.Payloads[x.Pos]) && x.Pos != 120) || x.Key == "" {
			t.Errorf("record %d: %+v, want %s", x.Pos, x, want.code)
		}
		t.Log(x.Pos, x.Code, x.Reason)
	}
	balanced(t, tab)
	if n := query[int](t, pool, `SELECT count(*) FROM "Odd ""Schema"."Wide. Table" WHERE day = '5874897-12-31'`); n != 1 {
		t.Errorf("%d rows have the last day that Postgres knows, want 1", n)
	}
}

// A batch in which every second row is refused by Postgres is still one linear pass.
func TestManyRefusedRows(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TYPE mood AS ENUM ('glad'); CREATE TABLE moods (n integer, mood mood)")
	type row struct {
		N    int32  `db:"n"`
		Mood string `db:"mood"`
	}
	tab := newTable(t, pool, "moods", staging.Config[row]{})
	var rows []row
	var pos []int32
	for i := range 600 {
		m := "glad"
		if i%6 == 5 {
			m = "sad"
		}
		rows, pos = append(rows, row{int32(i), m}), append(pos, int32(i/3)) // three rows a record
	}
	l := load(rows...)
	l.Batch.Records, l.Pos = 200, pos
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := tab.StageTx(t.Context(), tx, l); err != nil || out != staging.OutcomeStaged {
		t.Fatal(out, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := promote(t, tab)
	if p.Rows != 300 || p.Kept != 100 || p.Rejected != 100 {
		t.Errorf("promotion: %+v", p)
	}
	balanced(t, tab)
}

func TestFillWithoutReflection(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	cfg := staging.Config[item]{Create: true, Key: []string{"id"}, IDOf: func(i *item) string { return i.ID },
		Columns: []staging.Column{{Name: "id", Type: "text"}, {Name: "n", Type: "int"}, {Name: "note", Type: "varchar(10)"}, {Name: "at", Type: "timestamptz"}},
		Fill: func(i *item, r *staging.Row) {
			r.String(i.ID)
			r.Int(i.N)
			if i.Note == nil {
				r.Null()
			} else {
				r.String(*i.Note)
			}
			r.Time(i.At)
		}}
	tab := newTable(t, pool, "items", cfg)
	rows := items("a", 10)
	rows[4].N = 1 << 40
	l := load(rows...)
	stage(t, tab, l, staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 9 || p.Rejected != 1 {
		t.Errorf("%+v", p)
	}
	r, err := tab.RejectsByBatch(t.Context(), []string{l.Batch.ID})
	if err != nil || len(r[l.Batch.ID]) != 1 || r[l.Batch.ID][0].Key != "a-0004" {
		t.Errorf("%+v, %v", r, err)
	}
	cfg.Fill = func(i *item, r *staging.Row) { r.String(i.ID) }
	bad := newTable(t, pool, "items", cfg)
	if _, err := bad.Stage(t.Context(), load(rows...)); !errors.Is(err, staging.ErrConfig) {
		t.Errorf("too few values: %v", err)
	}
	if _, err := newTable(t, pool, "items", staging.Config[item]{Columns: cfg.Columns, Fill: func(i *item, r *staging.Row) { r.Int(1) }}).Stage(t.Context(), load(rows...)); !errors.Is(err, staging.ErrConfig) {
		t.Errorf("a number into a text: %v", err)
	}
}

func TestPartitionedTargets(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE by_time (id text, n bigint, note text, at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
		CREATE TABLE by_time_1 PARTITION OF by_time FOR VALUES FROM ('2026-11-22') TO ('2026-11-23');
		CREATE TABLE by_hash (id text PRIMARY KEY, n bigint, note text, at timestamptz) PARTITION BY HASH (id);
		CREATE TABLE by_hash_0 PARTITION OF by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE by_hash_1 PARTITION OF by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 1)`)
	rows := append(items("a", 100), items("a", 30)...) // 30 conflicts
	rows[7].At = noon.AddDate(0, 0, 5)                 // no partition takes it
	hash := newTable(t, pool, "by_hash", staging.Config[item]{Key: []string{"id"}})
	stage(t, hash, load(rows...), staging.OutcomeStaged)
	if p := promote(t, hash); p.Rows != 100 || p.Conflicts != 30 {
		t.Errorf("by hash: %+v", p)
	}
	byTime := newTable(t, pool, "by_time", staging.Config[item]{Key: []string{"id", "at"}})
	l := load(rows...)
	stage(t, byTime, l, staging.OutcomeStaged)
	if p := promote(t, byTime); p.Rows != 100 || p.Conflicts != 29 || p.RejectedByRule != 1 {
		t.Errorf("by time: %+v", p)
	}
	r, err := byTime.RejectsByBatch(t.Context(), []string{l.Batch.ID})
	if err != nil || len(r[l.Batch.ID]) != 1 || r[l.Batch.ID][0].Pos != 7 {
		t.Errorf("%+v, %v", r, err)
	}
	balanced(t, hash)
	balanced(t, byTime)
}

// ragged makes pgx panic: it writes arrays of arrays only where all have one length.
type ragged [][]string

// angry has methods that panic.
type angry struct{ Angry bool }

func (a angry) Value() (driver.Value, error) {
	if a.Angry {
		panic("no value")
	}
	return "calm", nil
}

func (a angry) MarshalJSON() ([]byte, error) {
	if a.Angry {
		panic("no document")
	}
	return []byte(`"calm"`), nil
}

// A value whose encoder panics costs its record, and no program.
func TestValuesThatPanic(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	type row struct {
		ID   int64  `db:"id"`
		Tags ragged `db:"tags"`
		Name angry  `db:"name"`
		Doc  angry  `db:"doc"`
	}
	exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, tags text[], name text, doc jsonb)")
	tab := newTable(t, pool, "rows", staging.Config[row]{Key: []string{"id"}})
	stage(t, tab, load(row{ID: 1, Tags: ragged{{"a", "b"}, {"c", "d"}}}, row{ID: 2, Tags: ragged{{"a", "b"}, {"c"}}}, row{ID: 3, Name: angry{true}}, row{ID: 4, Doc: angry{true}}, row{ID: 5}), staging.OutcomeStaged)
	promote(t, tab)
	if got := idsIn(t, pool, "rows"); got != "1 5" {
		t.Errorf("promoted %s, want 1 5", got)
	}
	want := map[string]string{"2": staging.CodeEncode, "3": staging.CodeEncode, "4": staging.CodeEncode}
	if diff := cmp.Diff(want, codes(t, tab)); diff != "" {
		t.Errorf("codes (-want +got):\n%s", diff)
	}
	balanced(t, tab)
}

// pgx writes a jsonpath as text alone, which COPY in the binary format does not take.
func TestATypeWithoutABinaryFormatIsRefused(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE paths (v jsonpath); CREATE TABLE lists (v jsonpath[])")
	_, err := staging.New(t.Context(), pool, "paths", staging.Config[struct {
		V string `db:"v"`
	}]{})
	isDrift(t, "jsonpath", err, `"v"`, "jsonpath")
	_, err = staging.New(t.Context(), pool, "lists", staging.Config[struct {
		V []string `db:"v"`
	}]{})
	isDrift(t, "jsonpath[]", err, `"v"`, "jsonpath[]")
}

// A row of which the JSON would exceed what Postgres stores could not be rejected at promotion.
func TestARowThatIsTooLarge(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	type blob struct {
		ID int64  `db:"id"`
		V  []byte `db:"v"`
	}
	exec(t, pool, "CREATE TABLE rows (id bigint PRIMARY KEY, v bytea)")
	tab := newTable(t, pool, "rows", staging.Config[blob]{Key: []string{"id"}})
	tab.SetMaxRow(1000)
	l := load(blob{1, make([]byte, 900)}, blob{2, make([]byte, 1000)}, blob{ID: 3})
	if _, err := tab.Stage(t.Context(), l); !errors.Is(err, staging.ErrLoad) || !strings.Contains(err.Error(), "Load.Payloads") {
		t.Errorf("without a payload: got %v, want ErrLoad that names Load.Payloads", err)
	}
	l.Payloads = [][]byte{[]byte("one"), []byte("two"), []byte("three")}
	stage(t, tab, l, staging.OutcomeStaged)
	promote(t, tab)
	if got := idsIn(t, pool, "rows"); got != "1 3" {
		t.Errorf("promoted %s, want 1 3", got)
	}
	if diff := cmp.Diff(map[string]string{"2": staging.CodeRowSize}, codes(t, tab)); diff != "" {
		t.Errorf("codes (-want +got):\n%s", diff)
	}
	balanced(t, tab)
}
