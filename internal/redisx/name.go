package redisx

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/redis/rueidis"
)

// MaxName is the length of the longest name, in bytes.
const MaxName = 200

// CheckName returns an error unless name can be in a hash tag: {name}. The caller wraps it with
// its package.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("name is empty, must have 1 to 200 bytes")
	case len(name) > MaxName:
		return fmt.Errorf("name has %d bytes, must have 1 to %d", len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("name is %q, must be valid UTF-8", name)
	case strings.ContainsAny(name, "{}"):
		return fmt.Errorf("name is %q, must have no brace: it would break the hash tag of the keys", name)
	}
	for _, r := range name {
		if r <= ' ' || r == 0x7f {
			return fmt.Errorf("name is %q, must have no space and no control character", name)
		}
	}
	return nil
}

// CheckClient returns an error if client is nil, or holds a nil pointer. The caller wraps it with
// its package.
func CheckClient(client rueidis.Client) error {
	if IsNil(client) {
		return errors.New("client is nil, must be a rueidis.Client")
	}
	return nil
}

// IsNil reports whether an interface holds nothing, or a nil of its own type.
func IsNil(v any) bool {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Map, reflect.Func, reflect.Chan, reflect.Slice:
		return r.IsNil()
	}
	return false
}

var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// EscapeGlob escapes s for a MATCH pattern, which then matches exactly s.
func EscapeGlob(s string) string { return globEscaper.Replace(s) }
