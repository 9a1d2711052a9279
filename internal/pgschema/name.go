// Package pgschema has what the Postgres packages do the same way with names, privileges and
// settings.
package pgschema

import (
	"fmt"
	"hash/fnv"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// MaxName is the longest name in bytes (NAMEDATALEN - 1). Postgres silently cuts a longer one, and
// two long names could become one.
const MaxName = 63

// Name is the name of a relation. An empty Schema leaves the schema to the search path.
type Name struct{ Schema, Table string }

// String quotes the name for SQL.
func (n Name) String() string {
	if n.Schema == "" {
		return Quote(n.Table)
	}
	return pgx.Identifier{n.Schema, n.Table}.Sanitize()
}

// With returns the name of a related relation: the same schema, the table's name with a
// suffix.
func (n Name) With(suffix string) Name { return Name{n.Schema, Derived(n.Table, suffix)} }

// ParseName splits `table`, `schema.table`, `"any name"."any name"`. It takes each part as it is
// written, with or without quotes: nothing is folded to lower case. The error completes a sentence:
// "must be …".
func ParseName(s string) (Name, error) {
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return Name{}, fmt.Errorf("must be UTF-8 without NUL")
	}
	var parts []string
	for rest := s; ; {
		part, after, err := firstPart(rest)
		if err != nil {
			return Name{}, err
		}
		if len(part) < 1 || len(part) > MaxName {
			return Name{}, fmt.Errorf("must be name or schema.name, each of 1 to %d bytes", MaxName)
		}
		parts = append(parts, part)
		if after == "" {
			break
		}
		if after[0] != '.' {
			return Name{}, fmt.Errorf("must have nothing but a dot after a closing quote")
		}
		rest = after[1:]
	}
	switch len(parts) {
	case 1:
		return Name{Table: parts[0]}, nil
	case 2:
		return Name{Schema: parts[0], Table: parts[1]}, nil
	}
	return Name{}, fmt.Errorf("must be name or schema.name (quote a name that has a dot)")
}

// firstPart reads up to the dot or the closing quote.
func firstPart(s string) (part, after string, err error) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexByte(s, '.')
		if i < 0 {
			i = len(s)
		}
		if strings.Contains(s[:i], `"`) {
			return "", "", fmt.Errorf("must have a quote only around a whole name (inside it, double the quote)")
		}
		return s[:i], s[i:], nil
	}
	var b strings.Builder
	for rest := s[1:]; ; {
		i := strings.IndexByte(rest, '"')
		if i < 0 {
			return "", "", fmt.Errorf("must close its quotes")
		}
		b.WriteString(rest[:i])
		rest = rest[i+1:]
		if !strings.HasPrefix(rest, `"`) {
			return b.String(), rest, nil
		}
		b.WriteByte('"')
		rest = rest[1:]
	}
}

// Derived appends a suffix to a name. A result that would be too long is cut and marked with a hash
// of the whole name, so two long names with one beginning stay two. That holds for a suffix of any
// length.
func Derived(name, suffix string) string {
	if len(name)+len(suffix) <= MaxName {
		return name + suffix
	}
	const marked = 1 + 8 // _ and the hash
	if len(suffix)+marked > MaxName {
		name, suffix = name+suffix, ""
	}
	h := fnv.New32a()
	h.Write([]byte(name)) //nolint:errcheck // never fails
	cut := name[:MaxName-len(suffix)-marked]
	for !utf8.ValidString(cut) {
		cut = cut[:len(cut)-1]
	}
	return cut + fmt.Sprintf("_%08x", h.Sum32()) + suffix
}

// Quote quotes one name.
func Quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// QuoteAll quotes each of the names, after a prefix such as "s.".
func QuoteAll(prefix string, names []string) []string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = prefix + Quote(n)
	}
	return quoted
}

// IsNil reports whether an interface holds nothing, or a nil pointer.
func IsNil(v any) bool {
	r := reflect.ValueOf(v)
	return !r.IsValid() || r.Kind() == reflect.Pointer && r.IsNil()
}

// Literal quotes a text for a statement that takes no parameters, whatever
// standard_conforming_strings is.
func Literal(s string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}

// Fill replaces the placeholders of a statement: pairs of a name, as in {name}, and its text.
func Fill(sql string, pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		pairs[i] = "{" + pairs[i] + "}"
	}
	return strings.NewReplacer(pairs...).Replace(sql)
}
