package staging

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// textOK reports whether Postgres takes s as text: UTF-8 without NUL. ASCII, the common case,
// goes eight bytes at a time.
func textOK[S string | []byte](s S) (utf, nul bool) {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	b := bytesOf(s)
	i := 0
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		if (w|(w-ones)&^w)&highs != 0 { // a byte that is not ASCII, or is zero
			break
		}
	}
	for ; i < len(b); i++ {
		if b[i] == 0 {
			return utf8.Valid(b[i:]), true
		}
		if b[i] >= utf8.RuneSelf {
			return utf8.Valid(b[i:]), bytes.IndexByte(b[i:], 0) >= 0
		}
	}
	return true, false
}

// bytesOf lends the bytes of a text. They are only read.
func bytesOf[S string | []byte](s S) []byte {
	switch x := any(s).(type) {
	case []byte:
		return x
	case string:
		return unsafe.Slice(unsafe.StringData(x), len(x))
	}
	return nil
}

func putText[S string | []byte](r *Row, c *column, s S) {
	switch c.kind {
	case kBytea:
		r.buf = append(r.size(len(s)), s...)
		return
	case kNumeric:
		r.putNumericText(c, string(s))
		return
	case kUUID:
		u, ok := parseUUID(string(s))
		if !ok {
			r.refuse(c, CodeUUID, "%.60q is not a uuid", string(s))
			return
		}
		r.buf = append(r.size(16), u[:]...)
		return
	case kText, kJSON, kJSONB:
	default:
		r.wrongType(c, "text", s)
		return
	}
	if utf, nul := textOK(s); !utf {
		r.refuse(c, CodeUTF8, "not valid UTF-8")
		return
	} else if nul {
		r.refuse(c, CodeNUL, "holds a NUL character")
		return
	}
	if r.checkJSON && c.kind != kText && !parses(bytesOf(s)) {
		r.refuse(c, codeSQL+"22P02", "invalid input syntax for type json")
		return
	}
	if c.kind == kJSONB {
		if hasEscapedNUL(s) {
			r.refuse(c, CodeNUL, `holds \u0000, which jsonb cannot`)
			return
		}
		r.buf = append(append(r.size(len(s)+1), 1), s...)
		return
	}
	if c.maxLen > 0 && len(s) > c.maxLen {
		if n := utf8.RuneCountInString(strings.TrimRight(string(s), " ")); n > c.maxLen {
			r.refuse(c, CodeTooLong, "%d characters do not fit %s", n, c.sqlType)
			return
		}
	}
	r.buf = append(r.size(len(s)), s...)
}

// parses is true for a JSON document, and for one that is nested so deeply that only the server
// can tell.
func parses(b []byte) bool {
	if json.Valid(b) {
		return true
	}
	var v json.RawMessage
	err := json.Unmarshal(b, &v)
	return err != nil && strings.Contains(err.Error(), "max depth")
}

// hasEscapedNUL finds \u0000 after an even number of backslashes.
func hasEscapedNUL[S string | []byte](s S) bool {
	b := bytesOf(s)
	for {
		i := bytes.IndexByte(b, '\\')
		if i < 0 || i+6 > len(b) {
			return false
		}
		if string(b[i+1:i+6]) == "u0000" {
			return true
		}
		b = b[i+2:] // after the escaped character
	}
}

// replacedText reports whether encoding/json has replaced bytes of v that are not valid UTF-8. It
// writes a valid U+FFFD as it is, so the search through v is rare.
func replacedText(document []byte, v any) bool {
	return bytes.Contains(document, []byte(`\ufffd`)) && hasInvalidText(reflect.ValueOf(v))
}

// hasInvalidText looks through what encoding/json prints. A type that prints itself is left alone,
// and so are bytes.
func hasInvalidText(v reflect.Value) bool {
	if v.IsValid() && (v.Type().Implements(marshalType) || v.Type().Implements(textMarshalType)) {
		return false
	}
	switch v.Kind() {
	case reflect.String:
		return !utf8.ValidString(v.String())
	case reflect.Pointer, reflect.Interface:
		return hasInvalidText(v.Elem())
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); {
			if hasInvalidText(entries.Key()) || hasInvalidText(entries.Value()) {
				return true
			}
		}
	case reflect.Slice, reflect.Array:
		for i := 0; i < v.Len() && v.Type().Elem().Kind() != reflect.Uint8; i++ {
			if hasInvalidText(v.Index(i)) {
				return true
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if (f.IsExported() || f.Anonymous) && f.Tag.Get("json") != "-" && hasInvalidText(v.Field(i)) {
				return true
			}
		}
	}
	return false
}

func parseUUID(s string) (u [16]byte, ok bool) {
	if len(s) != 36 && len(s) != 32 {
		return u, false
	}
	n := 0
	for i := 0; i < len(s); {
		if len(s) == 36 && (i == 8 || i == 13 || i == 18 || i == 23) {
			if s[i] != '-' {
				return u, false
			}
			i++
			continue
		}
		hi, lo := hexDigit(s[i]), hexDigit(s[i+1])
		if hi > 15 || lo > 15 {
			return u, false
		}
		u[n] = hi<<4 | lo
		n++
		i += 2
	}
	return u, true
}

func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}
