package staging

import (
	"database/sql/driver"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5/pgtype"
)

// field is a struct field with a `db` tag.
type field struct {
	Column
	index    []int
	offset   uintptr
	typ      reflect.Type
	nullZero bool
	put      func(unsafe.Pointer, *Row, *column)
}

// decimalLike is what exact decimal types have in common; they are written without a detour over
// text.
type decimalLike interface {
	IsNeg() bool
	Coef() uint64
	Scale() int
}

var (
	timeType    = reflect.TypeFor[time.Time]()
	decimalType = reflect.TypeFor[decimalLike]()
	valuerType  = reflect.TypeFor[driver.Valuer]()
	rawType     = reflect.TypeFor[json.RawMessage]()
	marshalType = reflect.TypeFor[json.Marshaler]()

	textMarshalType = reflect.TypeFor[encoding.TextMarshaler]()
)

// taggedFields lists the fields of T that have a `db` tag, also those of embedded structs.
func taggedFields(t reflect.Type) ([]field, error) {
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("%w: rows of type %v: give Config.Columns and Config.Fill, or use a struct with `db` tags", ErrConfig, t)
	}
	var out []field
	seen := map[string]bool{}
	var walk func(t reflect.Type, base uintptr, index []int) error
	walk = func(t reflect.Type, base uintptr, index []int) error {
		for i := range t.NumField() {
			f := t.Field(i)
			at := append(append([]int{}, index...), i)
			tag, ok := f.Tag.Lookup("db")
			if !ok || tag == "" {
				switch {
				case !f.Anonymous:
				case f.Type.Kind() == reflect.Struct:
					if err := walk(f.Type, base+f.Offset, at); err != nil {
						return err
					}
				case f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct && tagged(f.Type.Elem(), 0):
					return fmt.Errorf("%w: %v embeds %v, whose fields have `db` tags: embed the struct itself, not a pointer", ErrConfig, t, f.Type)
				}
				continue
			}
			name, option := tag, ""
			for j := range tag {
				if tag[j] == ',' {
					name, option = tag[:j], tag[j+1:]
					break
				}
			}
			switch {
			case name == "-":
				continue
			case name == "":
				return fmt.Errorf("%w: field %s of %v: the tag `db:%q` names no column", ErrConfig, f.Name, t, tag)
			case option != "" && option != "nullzero":
				return fmt.Errorf("%w: field %s of %v: unknown option %q in its `db` tag, must be nullzero", ErrConfig, f.Name, t, option)
			case !f.IsExported():
				return fmt.Errorf("%w: field %s of %v has a `db` tag and is not exported", ErrConfig, f.Name, t)
			case seen[name]:
				return fmt.Errorf("%w: column %q has two fields in %v", ErrConfig, name, t)
			}
			seen[name] = true
			sqlType := f.Tag.Get("dbtype")
			out = append(out, field{Column: Column{Name: name, Type: sqlType}, index: at, offset: base + f.Offset, typ: f.Type, nullZero: option == "nullzero"})
		}
		return nil
	}
	if err := walk(t, 0, nil); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %v has no field with a `db` tag, and Config.Columns is empty", ErrConfig, t)
	}
	return out, nil
}

// tagged is true if a field of a struct, or of one that it embeds, has a `db` tag. A struct may
// embed a pointer to itself.
func tagged(t reflect.Type, depth int) bool {
	for i := range t.NumField() {
		f := t.Field(i)
		if tag := f.Tag.Get("db"); tag != "" && tag != "-" {
			return true
		}
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if f.Anonymous && inner.Kind() == reflect.Struct && depth < 10 && tagged(inner, depth+1) {
			return true
		}
	}
	return false
}

// defaultType is the SQL type of a Go type, for a target that is created. "" means that the program
// has to name one.
func defaultType(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == timeType:
		return "timestamptz"
	case t == rawType:
		return "jsonb"
	case t.Implements(decimalType):
		return "numeric"
	case t.Kind() == reflect.Struct && t.PkgPath() == "database/sql":
		return defaultType(t.Field(0).Type) // NullString and the like: the value, then Valid
	case t.Kind() == reflect.Struct:
		if known, ok := pgtype.NewMap().TypeForValue(reflect.Zero(t).Interface()); ok {
			return known.Name
		}
		if t.Implements(valuerType) {
			return ""
		}
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "boolean"
	case reflect.Int8, reflect.Int16, reflect.Uint8:
		return "smallint"
	case reflect.Int32, reflect.Uint16:
		return "integer"
	case reflect.Int, reflect.Int64, reflect.Uint32:
		return "bigint"
	case reflect.Uint, reflect.Uint64:
		return "numeric"
	case reflect.Float32:
		return "real"
	case reflect.Float64:
		return "double precision"
	case reflect.Map, reflect.Struct:
		return "jsonb"
	case reflect.Array:
		if t.Len() == 16 && t.Elem().Kind() == reflect.Uint8 {
			return "uuid"
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytea"
		}
		if e := defaultType(t.Elem()); e != "" && e != "jsonb" {
			return e + "[]"
		}
		return "jsonb"
	}
	return ""
}

// putter builds the function that writes the field into column c, or returns nil.
func (f *field) putter(c *column, m *pgtype.Map) func(unsafe.Pointer, *Row, *column) {
	put := putter(f.typ, c, m)
	if put == nil || !f.nullZero {
		return put
	}
	return func(p unsafe.Pointer, r *Row, c *column) {
		if reflect.NewAt(f.typ, p).Elem().IsZero() {
			r.null()
			return
		}
		put(p, r, c)
	}
}

// putter builds the function that writes a field of Go type t into column c. The functions read the
// field through a pointer and its known type: the reflection is done here, once. nil means that
// there is no way.
func putter(t reflect.Type, c *column, m *pgtype.Map) func(unsafe.Pointer, *Row, *column) {
	if t.Kind() == reflect.Pointer {
		inner := putter(t.Elem(), c, m)
		if inner == nil {
			return nil
		}
		return func(p unsafe.Pointer, r *Row, c *column) {
			q := *(*unsafe.Pointer)(p)
			if q == nil {
				r.null()
				return
			}
			inner(q, r, c)
		}
	}
	isJSON := c.kind == kJSON || c.kind == kJSONB
	switch {
	case t == timeType:
		if c.kind == kTimestamptz || c.kind == kTimestamp || c.kind == kDate {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putTime(c, *(*time.Time)(p)) }
		}
	case c.kind == kNumeric && t.Implements(decimalType):
		return func(p unsafe.Pointer, r *Row, c *column) {
			d := reflect.NewAt(t, p).Interface().(decimalLike) // a pointer in an interface: nothing is allocated
			r.putDecimal(c, d.IsNeg(), d.Coef(), d.Scale())
		}
	case t.Implements(valuerType) && !isJSON, isJSON && t.Implements(marshalType) && t != rawType:
		return slowPutter(t, c, m)
	}
	switch t.Kind() {
	case reflect.String:
		if textual(c) || c.kind == kNumeric || c.kind == kUUID || c.kind == kBytea {
			return func(p unsafe.Pointer, r *Row, c *column) { putText(r, c, *(*string)(p)) }
		}
	case reflect.Int:
		if number(c) {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putInt(c, int64(*(*int)(p))) }
		}
	case reflect.Int64:
		if number(c) {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putInt(c, *(*int64)(p)) }
		}
	case reflect.Int32:
		if number(c) {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putInt(c, int64(*(*int32)(p))) }
		}
	case reflect.Int16:
		if number(c) {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putInt(c, int64(*(*int16)(p))) }
		}
	case reflect.Int8:
		if number(c) {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putInt(c, int64(*(*int8)(p))) }
		}
	case reflect.Uint:
		if number(c) {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putUint(c, uint64(*(*uint)(p))) }
		}
	case reflect.Uint64:
		if number(c) {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putUint(c, *(*uint64)(p)) }
		}
	case reflect.Uint32:
		if number(c) {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putInt(c, int64(*(*uint32)(p))) }
		}
	case reflect.Uint16:
		if number(c) {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putInt(c, int64(*(*uint16)(p))) }
		}
	case reflect.Uint8:
		if number(c) {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putInt(c, int64(*(*uint8)(p))) }
		}
	case reflect.Float64:
		if c.kind == kFloat8 || c.kind == kFloat4 || c.kind == kNumeric {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putFloat(c, *(*float64)(p)) }
		}
	case reflect.Float32:
		if c.kind == kFloat8 || c.kind == kFloat4 {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putFloat(c, float64(*(*float32)(p))) }
		}
	case reflect.Bool:
		if c.kind == kBool {
			return func(p unsafe.Pointer, r *Row, c *column) { r.putBool(c, *(*bool)(p)) }
		}
	case reflect.Array:
		if c.kind == kUUID && t.Len() == 16 && t.Elem().Kind() == reflect.Uint8 {
			return func(p unsafe.Pointer, r *Row, c *column) {
				u := (*[16]byte)(p)
				r.buf = append(r.size(16), u[:]...)
			}
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 && (textual(c) || c.kind == kBytea) {
			return func(p unsafe.Pointer, r *Row, c *column) {
				b := *(*[]byte)(p)
				if b == nil {
					r.null()
					return
				}
				putText(r, c, b)
			}
		}
		if c.kind == kArray {
			if elem := putter(t.Elem(), c.elem, m); elem != nil && t.Elem().Kind() != reflect.Slice && t.Elem().Kind() != reflect.Pointer {
				size := t.Elem().Size()
				return func(p unsafe.Pointer, r *Row, c *column) {
					s := (*sliceHeader)(p)
					if s.data == nil {
						r.null()
						return
					}
					at := r.array(c, s.len)
					for i := range s.len {
						elem(unsafe.Add(s.data, uintptr(i)*size), r, c.elem)
					}
					r.arrayEnd(at)
				}
			}
		}
	}
	return slowPutter(t, c, m)
}

// sliceHeader is how a slice lies in memory.
type sliceHeader struct {
	data     unsafe.Pointer
	len, cap int
}

func textual(c *column) bool { return c.kind == kText || c.kind == kJSON || c.kind == kJSONB }

func number(c *column) bool { return c.kind >= kInt2 && c.kind <= kFloat8 || c.kind == kNumeric }

func (r *Row) putUint(c *column, n uint64) {
	switch {
	case c.kind == kNumeric:
		r.putDecimal(c, false, n, 0)
	case n > 1<<63-1:
		r.refuse(c, CodeRange, "%d does not fit %s", n, c.sqlType)
	default:
		r.putInt(c, int64(n))
	}
}

// slowPutter writes through pgx's type map, or through encoding/json, if that can write the type.
func slowPutter(t reflect.Type, c *column, m *pgtype.Map) func(unsafe.Pointer, *Row, *column) {
	if c.kind != kJSON && c.kind != kJSONB && !plans(t, c, m) {
		return nil
	}
	if k := t.Kind(); k == reflect.Chan || k == reflect.Func || k == reflect.UnsafePointer {
		return nil
	}
	nilable := t.Kind() == reflect.Map || t.Kind() == reflect.Slice || t.Kind() == reflect.Interface
	return func(p unsafe.Pointer, r *Row, c *column) {
		v := reflect.NewAt(t, p).Elem()
		if nilable && v.IsNil() {
			r.null()
			return
		}
		r.putValue(c, v.Interface())
	}
}

// plans asks pgx whether it can write t into c in binary form. For a type that it writes as text
// alone (jsonpath) its plan is that of text all the same. The type of a driver.Valuer is known only
// with a value.
func plans(t reflect.Type, c *column, m *pgtype.Map) bool {
	if timeIntoText(t, c) {
		return false
	}
	if typ, ok := m.TypeForOID(c.oid); !ok || !typ.Codec.FormatSupported(pgtype.BinaryFormatCode) {
		return false
	}
	if t.Implements(valuerType) || t.Kind() == reflect.Interface {
		return true
	}
	return m.PlanEncode(c.oid, pgtype.BinaryFormatCode, reflect.Zero(t).Interface()) != nil
}

// timeIntoText is true for times in a column of texts. pgx would write what String prints, which is
// for debugging: with the name of the zone, and the reading of the monotonic clock.
func timeIntoText(t reflect.Type, c *column) bool {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == nil:
		return false
	case c.kind == kArray && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array):
		for e := t.Elem(); ; e = e.Elem() {
			if e.Kind() != reflect.Slice {
				return timeIntoText(e, c.elem)
			}
		}
	}
	return t == timeType && c.kind == kText
}

// text prints a field's value, for a person or as the record's id.
func (f *field) text(row unsafe.Pointer) string {
	v := reflect.NewAt(f.typ, unsafe.Add(row, f.offset)).Elem()
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	if v.Kind() == reflect.Array && v.Len() == 16 && v.Type().Elem().Kind() == reflect.Uint8 {
		return formatUUID(v.Convert(reflect.TypeFor[[16]byte]()).Interface().([16]byte))
	}
	return fmt.Sprint(v.Interface())
}
