package lookup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
)

// Codec turns a T into bytes and back. Two different keys must never encode to the same bytes.
type Codec[T any] struct {
	Encode func(T) ([]byte, error)
	Decode func([]byte) (T, error)
}

// errNotUTF8 reports a text that JSON cannot hold.
var errNotUTF8 = errors.New("it has a text that is not valid UTF-8, which JSON cannot hold: use a Codec of your own")

// replaced is what json.Marshal writes in place of bytes that are not UTF-8. It writes a valid
// U+FFFD as it is, so this is rare.
var replaced = []byte(`\ufffd`)

// comesBack reports whether a document of json.Marshal is the same after it was read. One with a
// json.RawMessage is, although that may have such an escape.
func comesBack[T any](b []byte) bool {
	var v T
	if json.Unmarshal(b, &v) != nil {
		return false
	}
	again, err := json.Marshal(v)
	return err == nil && bytes.Equal(b, again)
}

// jsonCodec refuses what JSON would change silently.
func jsonCodec[T any]() Codec[T] {
	return Codec[T]{
		Encode: func(v T) ([]byte, error) {
			b, err := json.Marshal(v)
			if err == nil && bytes.Contains(b, replaced) && !comesBack[T](b) {
				return nil, errNotUTF8
			}
			return b, err
		},
		Decode: func(b []byte) (v T, err error) { err = json.Unmarshal(b, &v); return v, err },
	}
}

// errNotEqualToItself reports a key that no look-up can find: NaN, or a key with a NaN.
var errNotEqualToItself = errors.New("it differs from itself (NaN), so no look-up can find it: leave it out")

// isFindable reports whether a map can find k.
func isFindable[K comparable](k K) bool {
	same := k
	return k == same
}

// encodeKey returns an EntryError for a key that cannot be encoded or found. It copies the bytes: a
// Codec may reuse its buffer.
func encodeKey[K comparable](c Codec[K], k K) (string, error) {
	if !isFindable(k) {
		return "", &EntryError{Key: fmt.Sprint(k), Err: errNotEqualToItself, kind: ErrEncode}
	}
	b, err := c.Encode(k)
	if err != nil {
		return "", &EntryError{Key: fmt.Sprint(k), Err: err, kind: ErrEncode}
	}
	return string(b), nil
}

func valueCodec[V any](c Codec[V]) Codec[V] {
	d := jsonCodec[V]()
	if c.Encode == nil {
		c.Encode = d.Encode
	}
	if c.Decode == nil {
		c.Decode = d.Decode
	}
	return c
}

func keyCodec[K comparable](c Codec[K]) (Codec[K], error) {
	if (c.Encode == nil) != (c.Decode == nil) {
		return c, fmt.Errorf("%w: Keys has one of Encode and Decode, must have both or neither", ErrConfig)
	}
	if c.Encode != nil {
		return c, nil
	}
	t := reflect.TypeFor[K]()
	switch t.Kind() {
	case reflect.String:
		return Codec[K]{
			Encode: func(k K) ([]byte, error) {
				if s, ok := any(k).(string); ok {
					return []byte(s), nil
				}
				return []byte(reflect.ValueOf(k).String()), nil
			},
			Decode: func(b []byte) (k K, err error) {
				if p, ok := any(&k).(*string); ok {
					*p = string(b)
				} else {
					reflect.ValueOf(&k).Elem().SetString(string(b))
				}
				return k, nil
			},
		}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return Codec[K]{
			Encode: func(k K) ([]byte, error) { return strconv.AppendInt(nil, reflect.ValueOf(k).Int(), 10), nil },
			Decode: func(b []byte) (k K, err error) {
				n, err := strconv.ParseInt(string(b), 10, t.Bits())
				reflect.ValueOf(&k).Elem().SetInt(n)
				return k, err
			},
		}, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return Codec[K]{
			Encode: func(k K) ([]byte, error) { return strconv.AppendUint(nil, reflect.ValueOf(k).Uint(), 10), nil },
			Decode: func(b []byte) (k K, err error) {
				n, err := strconv.ParseUint(string(b), 10, t.Bits())
				reflect.ValueOf(&k).Elem().SetUint(n)
				return k, err
			},
		}, nil
	case reflect.Struct, reflect.Array, reflect.Bool, reflect.Float32, reflect.Float64:
		return jsonCodec[K](), nil
	}
	return c, fmt.Errorf("%w: the key type is %v, must have a kind of string, integer, struct, array, bool or float, or a Codec in Keys", ErrConfig, t)
}
