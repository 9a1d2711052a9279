package staging

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// kind is how a column's values are written in binary COPY.
type kind uint8

const (
	kOther kind = iota // by pgx's type map
	kText              // text, varchar, char(n), name, enums: the bytes as they are
	kInt2
	kInt4
	kInt8
	kFloat4
	kFloat8
	kBool
	kTimestamptz
	kTimestamp
	kDate
	kNumeric
	kJSON
	kJSONB
	kUUID
	kBytea
	kArray
	kCaptured // of no table: takes any value, for a payload
)

// column is a column of the target with what an encoder must know of it.
type column struct {
	name    string
	sqlType string // as format_type prints it
	collate string // " COLLATE …" when it is not the type's own
	typ     columnType
	oid     uint32 // of the base type, if it is a domain
	kind    kind
	maxLen  int     // characters of varchar(n), char(n); 0: no limit
	elem    *column // of an array

	notNull, filled     bool // filled: an insert may leave it out
	identity, generated string
	def                 string // the default as an expression; "" without one
	textOnly            bool   // its type has no binary input
	folding             bool   // its collation treats different texts as equal
	compare             comparison
}

// definition is the column of a staging table. Its default is that of the target: a program that
// does not know the column leaves it out of its COPY, and gets what an INSERT would.
func (c *column) definition() string {
	d := quote(c.name) + " " + c.sqlType + c.collate
	if c.def != "" {
		d += " DEFAULT " + c.def
	}
	return d
}

// flaw is the reason why a value cannot go into its column.
type flaw struct{ code, reason string }

// The codes that this package gives. Stage finds all of these rejects but CodeSuppressed before
// Postgres sees the row.
const (
	CodeUTF8    = "invalid_utf8"  // text is not UTF-8
	CodeNUL     = "nul_character" // a NUL in a text, or \u0000 in jsonb
	CodeRange   = "out_of_range"  // a number or time does not fit the column
	CodeTooLong = "too_long"      // longer than varchar(n)
	CodeNumeric = "not_a_number"  // a text for a numeric column is not a number
	CodeUUID    = "not_a_uuid"    // a text for a uuid column is not a uuid
	CodeRowSize = "row_too_large" // the row is larger than MaxRow
	CodeUnnamed = "unnamed"       // a reject that came without a code
	CodeEncode  = "cannot_encode" // pgx cannot write the value as the column's type
	// CodeSuppressed is the code of a row that a trigger of the target dropped without an error: it
	// returned NULL before the insert. A row that the trigger has stored itself, in the target or in a
	// child table, is recognised by Config.Key. Without a key such a row is rejected although it was
	// stored. A target with child tables by inheritance and such a trigger therefore needs a key
	// ([ErrUnfit]).
	CodeSuppressed = "suppressed"

	badCalls = "Config.Fill must make one call for each of Config.Columns"
)

// The codes of rejects by Postgres are "sqlstate_" and the SQLSTATE. These are the common ones.
const (
	CodeNotNull   = codeSQL + "23502" // NULL in a NOT NULL column
	CodeForeign   = codeSQL + "23503" // a foreign key of the target
	CodeUnique    = codeSQL + "23505" // a unique index of the target other than the key's
	CodeCheck     = codeSQL + "23514" // a CHECK constraint of the target
	CodeExclusion = codeSQL + "23P01" // an exclusion constraint of the target
	codeSQL       = "sqlstate_"
)

// A Row receives the values of one row, column by column, in the order of Config.Columns. A value
// that does not fit its column makes the record a reject; it does not fail the batch.
type Row struct {
	buf  []byte
	cols []column
	i    int
	flaw *flaw
	err  error // the caller's mistake: fails the batch
	m    *pgtype.Map

	captured  []json.RawMessage // values of columns of kind kCaptured
	checkJSON bool              // Postgres has refused the batch: look for the documents that it cannot parse
}

func (r *Row) next() *column {
	if r.i >= len(r.cols) {
		r.err = fmt.Errorf("%w: more than %d values: %s", ErrConfig, len(r.cols), badCalls)
		r.i++
		return &column{name: "?", kind: kBytea}
	}
	c := &r.cols[r.i]
	r.i++
	return c
}

func (r *Row) refuse(c *column, code, format string, args ...any) {
	if r.flaw == nil {
		r.flaw = &flaw{code, "column " + quote(c.name) + ": " + fmt.Sprintf(format, args...)}
	}
	r.null()
}

// wrongType takes a value that the kind of its column does not.
func (r *Row) wrongType(c *column, what string, value any) {
	if c.kind == kCaptured {
		r.captured[r.i-1] = payloadValue(c.elem, value)
		return
	}
	if r.err == nil {
		r.err = fmt.Errorf("%w: column %q is %s, which takes no %s", ErrConfig, c.name, c.sqlType, what)
	}
	r.null()
}

func (r *Row) null() { r.buf = append(r.buf, 0xff, 0xff, 0xff, 0xff) }

// Null writes NULL.
func (r *Row) Null() { r.next(); r.null() }

// String writes a text, or any type that Postgres parses from text: enum, numeric, json, jsonb,
// uuid, bytea.
func (r *Row) String(s string) { putText(r, r.next(), s) }

// Bytes writes a bytea, text, json or jsonb. A nil slice is NULL.
func (r *Row) Bytes(b []byte) {
	c := r.next()
	if b == nil {
		r.null()
		return
	}
	putText(r, c, b)
}

// Int writes a number into an integer, floating-point or numeric column.
func (r *Row) Int(n int64) { r.putInt(r.next(), n) }

// Float writes a number into a floating-point or numeric column.
func (r *Row) Float(f float64) { r.putFloat(r.next(), f) }

// Decimal writes the exact number ±coef × 10^-scale into a numeric column.
func (r *Row) Decimal(neg bool, coef uint64, scale int) { r.putDecimal(r.next(), neg, coef, scale) }

// Bool writes a boolean.
func (r *Row) Bool(b bool) { r.putBool(r.next(), b) }

// Time writes a timestamptz, timestamp or date.
func (r *Row) Time(t time.Time) { r.putTime(r.next(), t) }

// UUID writes a uuid.
func (r *Row) UUID(u [16]byte) {
	c := r.next()
	if c.kind != kUUID {
		r.wrongType(c, "uuid", u)
		return
	}
	r.buf = append(r.size(16), u[:]...)
}

// Value writes any value that pgx can encode, and any other value as JSON. It is slower than the
// other methods. A column whose type is not in pgx's type map (money, a composite type) takes no
// Value: the batch fails with ErrConfig.
func (r *Row) Value(v any) { r.putValue(r.next(), v) }

func (r *Row) size(n int) []byte { return binary.BigEndian.AppendUint32(r.buf, uint32(n)) }

func (r *Row) putInt(c *column, n int64) {
	switch c.kind {
	case kInt8:
		r.buf = binary.BigEndian.AppendUint64(r.size(8), uint64(n))
	case kInt4:
		if n != int64(int32(n)) {
			r.refuse(c, CodeRange, "%d does not fit %s", n, c.sqlType)
			return
		}
		r.buf = binary.BigEndian.AppendUint32(r.size(4), uint32(n))
	case kInt2:
		if n != int64(int16(n)) {
			r.refuse(c, CodeRange, "%d does not fit %s", n, c.sqlType)
			return
		}
		r.buf = binary.BigEndian.AppendUint16(r.size(2), uint16(n))
	case kNumeric:
		neg, u := n < 0, uint64(n)
		if neg {
			u = -u
		}
		r.putDecimal(c, neg, u, 0)
	case kFloat4, kFloat8:
		r.putFloat(c, float64(n))
	default:
		r.wrongType(c, "integer", n)
	}
}

func (r *Row) putFloat(c *column, f float64) {
	switch c.kind {
	case kFloat8:
		r.buf = binary.BigEndian.AppendUint64(r.size(8), math.Float64bits(f))
	case kFloat4:
		if !c.holdsFloat(f) {
			r.refuse(c, CodeRange, "%g does not fit %s", f, c.sqlType)
			return
		}
		r.buf = binary.BigEndian.AppendUint32(r.size(4), math.Float32bits(float32(f)))
	case kNumeric:
		r.putNumericText(c, formatFloat(f))
	default:
		r.wrongType(c, "floating-point number", f)
	}
}

// holdsFloat reports whether a column can hold f. Postgres refuses what is rounded to infinity or
// to zero; a column of integers takes no fraction.
func (c *column) holdsFloat(f float64) bool {
	switch c.kind {
	case kInt2, kInt4, kInt8:
		return f == math.Trunc(f)
	case kFloat4:
		g := float32(f)
		return (!math.IsInf(float64(g), 0) || math.IsInf(f, 0)) && (g != 0 || f == 0)
	}
	return true
}

func (r *Row) putBool(c *column, b bool) {
	if c.kind != kBool {
		r.wrongType(c, "truth value", b)
		return
	}
	var x byte
	if b {
		x = 1
	}
	r.buf = append(r.size(1), x)
}

// Postgres counts time from 2000-01-01.
const (
	epochMicro = 946684800 * 1_000_000
	epochDays  = 10957
)

// The limits of timestamptz and date: 4714-11-24 BC to 294276-12-31, and 5874897-12-31.
var (
	minTime = time.Date(-4713, 11, 24, 0, 0, 0, 0, time.UTC)
	maxTime = time.Date(294277, 1, 1, 0, 0, 0, 0, time.UTC)
	maxDate = time.Date(5874898, 1, 1, 0, 0, 0, 0, time.UTC)
)

// holdsTime reports whether a column can hold t.
func (c *column) holdsTime(t time.Time) bool {
	limit := maxTime
	if c.kind == kDate {
		limit = maxDate
	}
	return !t.Before(minTime) && t.Before(limit)
}

func (r *Row) putTime(c *column, t time.Time) {
	switch c.kind {
	case kTimestamp: // a timestamp without time zone shows the clock that t shows
		_, off := t.Zone()
		t = t.Add(time.Duration(off) * time.Second)
	case kTimestamptz, kDate:
	default:
		r.wrongType(c, "time", t)
		return
	}
	if !c.holdsTime(t) {
		r.refuse(c, CodeRange, "%v does not fit %s", t, c.sqlType)
		return
	}
	if c.kind == kDate {
		y, m, d := t.Date()
		days := time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400
		if u := time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix(); u < 0 && u%86400 != 0 {
			days--
		}
		r.buf = binary.BigEndian.AppendUint32(r.size(4), uint32(int32(days-epochDays)))
		return
	}
	r.buf = binary.BigEndian.AppendUint64(r.size(8), uint64(t.UnixMicro()-epochMicro))
}
