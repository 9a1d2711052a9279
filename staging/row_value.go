package staging

import (
	"database/sql/driver"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"
)

// putValue writes a value of any Go type as the column needs it, or refuses it.
func (r *Row) putValue(c *column, v any) {
	if v == nil {
		r.null()
		return
	}
	if c.kind == kCaptured {
		r.wrongType(c, "value", v)
		return
	}
	if c.kind == kJSON || c.kind == kJSONB {
		b, err := encoded(func() ([]byte, error) { return json.Marshal(v) })
		if err != nil {
			r.refuse(c, CodeEncode, "%v", err)
			return
		}
		if replacedText(b, v) {
			r.refuse(c, CodeUTF8, "has a text that is not valid UTF-8")
			return
		}
		putText(r, c, b)
		return
	}
	if c.kind == kUUID {
		if n, raw := rawBytes(v); raw && n != 16 {
			r.refuse(c, CodeUUID, "%d bytes are not a uuid", n)
			return
		}
	}
	if timed := reflect.TypeOf(v); timeIntoText(timed, c) || c.kind == kText && timeIntoText(valueType(v), c) {
		r.refuse(c, CodeEncode, "is a %v, which has no text of its own: format it", timed)
		return
	}
	if c.kind == kArray && uneven(c.elem, reflect.ValueOf(v)) {
		r.refuse(c, CodeEncode, "has parts of different lengths, which no array of Postgres has")
		return
	}
	oid, ok := r.binaryType(c)
	if !ok {
		r.wrongType(c, fmt.Sprintf("%T: pgx does not know the binary form of that type", v), v)
		return
	}
	if s := reflect.ValueOf(v); oid == pgtype.XMLOID && s.Kind() == reflect.String {
		v = withoutEncoding(s.String())
	}
	at := len(r.buf)
	r.buf = append(r.buf, 0, 0, 0, 0)
	outside := false
	b, err := encoded(func() ([]byte, error) {
		if outside = c.holdsNot(reflect.ValueOf(v)); outside {
			return nil, nil
		}
		return r.m.Encode(oid, pgtype.BinaryFormatCode, v, r.buf)
	})
	if outside {
		r.buf = r.buf[:at]
		r.refuse(c, CodeRange, "%.60v does not fit %s", v, c.sqlType)
		return
	}
	if err != nil {
		r.buf = r.buf[:at]
		r.refuse(c, CodeEncode, "%v", err)
		return
	}
	if b == nil {
		r.buf = r.buf[:at]
		r.null()
		return
	}
	if replacedText(b[at:], v) { // in an array of JSON
		r.buf = r.buf[:at]
		r.refuse(c, CodeUTF8, "has a text that is not valid UTF-8")
		return
	}
	r.buf = b
	binary.BigEndian.PutUint32(r.buf[at:], uint32(len(r.buf)-at-4))
}

// holdsNot finds a number or a time in v that the column cannot hold. pgx encodes such a number as
// infinity, as zero or without its fraction, and a time as another one.
func (c *column) holdsNot(v reflect.Value) bool {
	switch c.kind {
	case kArray:
		c = c.elem
	case kOther:
		c = c.bound()
	}
	if !v.IsValid() || !c.mayChange() {
		return false
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return c.holdsNot(v.Elem())
	case reflect.Slice, reflect.Array:
		if k := v.Type().Elem().Kind(); k >= reflect.Bool && k <= reflect.Uintptr || k == reflect.String {
			return false
		}
		for i := range v.Len() {
			if c.holdsNot(v.Index(i)) {
				return true
			}
		}
		return false
	case reflect.Float32, reflect.Float64:
		return !c.holdsFloat(v.Float())
	}
	switch x := v.Interface().(type) {
	case time.Time:
		return !c.holdsTime(x)
	case pgtype.Float64Valuer: // pgtype.Numeric
		f, err := x.Float64Value()
		return err == nil && f.Valid && !c.holdsFloat(f.Float64)
	case driver.Valuer: // sql.NullFloat64, pgtype.Timestamptz
		y, err := x.Value()
		return err == nil && c.holdsNot(reflect.ValueOf(y))
	case pgtype.RangeValuer:
		if x.IsNull() {
			return false
		}
		from, to := x.BoundTypes()
		lower, upper := x.Bounds()
		return from != pgtype.Unbounded && from != pgtype.Empty && c.holdsNot(reflect.ValueOf(lower)) ||
			to != pgtype.Unbounded && to != pgtype.Empty && c.holdsNot(reflect.ValueOf(upper))
	case pgtype.ArrayGetter:
		for i := range elements(x.Dimensions()) {
			if c.holdsNot(reflect.ValueOf(x.Index(i))) {
				return true
			}
		}
	}
	return false
}

// mayChange reports whether pgx may encode another value than the one it is given.
func (c *column) mayChange() bool {
	switch c.kind {
	case kInt2, kInt4, kInt8, kFloat4, kTimestamptz, kTimestamp, kDate:
		return true
	}
	return false
}

// bound returns a column of the type of the bounds, if the values of c are ranges.
func (c *column) bound() *column {
	bounds := *c
	switch c.oid {
	case pgtype.Int4rangeOID, pgtype.Int4rangeArrayOID, pgtype.Int4multirangeOID:
		bounds.kind = kInt4
	case pgtype.Int8rangeOID, pgtype.Int8rangeArrayOID, pgtype.Int8multirangeOID:
		bounds.kind = kInt8
	case pgtype.DaterangeOID, pgtype.DaterangeArrayOID, pgtype.DatemultirangeOID:
		bounds.kind = kDate
	case pgtype.TsrangeOID, pgtype.TsrangeArrayOID, pgtype.TsmultirangeOID:
		bounds.kind = kTimestamp
	case pgtype.TstzrangeOID, pgtype.TstzrangeArrayOID, pgtype.TstzmultirangeOID:
		bounds.kind = kTimestamptz
	}
	return &bounds
}

func elements(dimensions []pgtype.ArrayDimension) int {
	if len(dimensions) == 0 {
		return 0
	}
	n := 1
	for _, d := range dimensions {
		n *= int(d.Length)
	}
	return n
}

// binaryType is the type by which pgx encodes the values of a column, false if it knows none. For
// an unknown type, pgx would take that of the Go value: Postgres would read the bytes of a text as
// an amount of money.
func (r *Row) binaryType(c *column) (oid uint32, ok bool) {
	typ, ok := r.m.TypeForOID(c.oid)
	if !ok && c.kind == kText {
		return pgtype.TextOID, true // an enum, citext
	}
	return c.oid, ok && typ.Codec.FormatSupported(pgtype.BinaryFormatCode)
}

var xmlEncoding = regexp.MustCompile(`^(<\?xml\s[^>]*?)\s+encoding\s*=\s*("[^"]*"|'[^']*')`)

// withoutEncoding removes the name of an encoding from a document in UTF-8. In the binary format
// Postgres would read the bytes in that encoding; an INSERT of the text ignores the name.
func withoutEncoding(document string) string {
	if !utf8.ValidString(document) {
		return document
	}
	return xmlEncoding.ReplaceAllString(document, "$1")
}

// valueType returns the type of the value of a driver.Valuer.
func valueType(v any) reflect.Type {
	valuer, ok := v.(driver.Valuer)
	if !ok {
		return nil
	}
	var inner any
	if _, err := encoded(func() (_ []byte, err error) { inner, err = valuer.Value(); return nil, err }); err != nil {
		return nil
	}
	return reflect.TypeOf(inner)
}

// uneven is true for a slice of slices that differ in length: of each, pgx encodes as many elements
// as the first one has. Bytes are one value, unless the elements are numbers.
func uneven(elem *column, v reflect.Value) bool {
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	var lengths []int
	var differs func(v reflect.Value, depth int) bool
	differs = func(v reflect.Value, depth int) bool {
		if v.Kind() != reflect.Slice || depth > 0 && v.Type().Elem().Kind() == reflect.Uint8 && !number(elem) {
			return false
		}
		if depth == len(lengths) {
			lengths = append(lengths, v.Len())
		}
		if v.Len() != lengths[depth] {
			return true
		}
		for i := 0; i < v.Len() && v.Type().Elem().Kind() == reflect.Slice; i++ {
			if differs(v.Index(i), depth+1) {
				return true
			}
		}
		return false
	}
	return differs(v, 0)
}

// rawBytes returns the length of a slice of bytes that pgx would take for a uuid of any length.
func rawBytes(v any) (n int, ok bool) {
	if _, ok := v.(pgtype.UUIDValuer); ok {
		return 0, false
	}
	s := reflect.ValueOf(v)
	if s.Kind() != reflect.Slice || s.Type().Elem().Kind() != reflect.Uint8 {
		return 0, false
	}
	return s.Len(), true
}

// encoded turns a panic into an error: the methods of a value may panic. It is this record's fault,
// and no other's.
func encoded(encode func() ([]byte, error)) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return encode()
}

// array writes the head of a one-dimensional array of n elements, or an empty array, and returns
// where its length goes.
func (r *Row) array(c *column, n int) int {
	at := len(r.buf)
	r.buf = append(r.buf, 0, 0, 0, 0)
	dims := uint32(1)
	if n == 0 {
		dims = 0
	}
	r.buf = binary.BigEndian.AppendUint32(r.buf, dims)
	r.buf = binary.BigEndian.AppendUint32(r.buf, 0)
	r.buf = binary.BigEndian.AppendUint32(r.buf, c.elem.oid)
	if n > 0 {
		r.buf = binary.BigEndian.AppendUint32(r.buf, uint32(n))
		r.buf = binary.BigEndian.AppendUint32(r.buf, 1)
	}
	return at
}

func (r *Row) arrayEnd(at int) {
	binary.BigEndian.PutUint32(r.buf[at:], uint32(len(r.buf)-at-4))
}
