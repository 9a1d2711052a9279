package staging

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
)

// payload is a row that was not staged, as JSON with the names of its columns: what a row has that
// is rejected later. It holds also what the row's columns do not take.
func (t *Table[T]) payload(v *T) []byte {
	values := make([]json.RawMessage, len(t.cols))
	if t.fields == nil {
		values = t.filled(v)
	} else {
		row := reflect.ValueOf(v).Elem()
		for i := range t.fields {
			x, err := row.FieldByIndexErr(t.fields[i].index)
			if err == nil && (!t.fields[i].nullZero || !x.IsZero()) {
				values[i] = payloadValue(&t.cols[i], x.Interface())
			}
		}
	}
	var b bytes.Buffer
	for i, c := range t.colNames {
		b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		b.Write(marshal(c))
		b.WriteByte(':')
		if values[i] == nil {
			b.WriteString("null")
		}
		b.Write(values[i])
	}
	b.WriteByte('}')
	return b.Bytes()
}

// filled runs Config.Fill on a Row whose columns take anything, and returns the values.
func (t *Table[T]) filled(v *T) []json.RawMessage {
	r := Row{cols: make([]column, len(t.cols)), captured: make([]json.RawMessage, len(t.cols))}
	for i := range t.cols {
		r.cols[i] = column{name: t.cols[i].name, kind: kCaptured, elem: &t.cols[i]}
	}
	t.fill(v, &r)
	return r.captured
}

// payloadValue prints a value as Postgres prints it in JSON, where the column would take it.
func payloadValue(c *column, v any) json.RawMessage {
	x := reflect.ValueOf(v)
	for x.Kind() == reflect.Pointer && !x.IsNil() {
		x = x.Elem()
	}
	switch {
	case !x.IsValid() || x.Kind() == reflect.Pointer:
		return nil
	case x.Kind() == reflect.Slice && x.Type().Elem().Kind() == reflect.Uint8:
		if x.IsNil() {
			return nil
		}
		if c.kind == kBytea {
			return marshal(`\x` + hex.EncodeToString(x.Bytes()))
		}
		return payloadText(c, string(x.Bytes()))
	case x.Kind() == reflect.String && !x.Type().Implements(marshalType):
		return payloadText(c, x.String())
	case x.Kind() == reflect.Array && x.Len() == 16 && x.Type().Elem().Kind() == reflect.Uint8 && c.kind == kUUID:
		return marshal(formatUUID(x.Convert(reflect.TypeFor[[16]byte]()).Interface().([16]byte)))
	case x.CanFloat() && (math.IsNaN(x.Float()) || math.IsInf(x.Float(), 0)):
		return marshal(formatFloat(x.Float()))
	}
	return marshal(x.Interface())
}

// payloadText is a document where the column holds documents, and a text otherwise.
func payloadText(c *column, s string) json.RawMessage {
	if (c.kind == kJSON || c.kind == kJSONB) && json.Valid([]byte(s)) {
		return json.RawMessage(s)
	}
	return marshal(s)
}

// marshal never fails: what JSON cannot hold becomes a text.
func marshal(v any) json.RawMessage {
	b, err := encoded(func() ([]byte, error) {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		err := e.Encode(v)
		return b.Bytes(), err
	})
	if err != nil {
		return marshal(fmt.Sprintf("%+v", v))
	}
	return json.RawMessage(bytes.TrimSuffix(b, []byte("\n")))
}
