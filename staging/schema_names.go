package staging

import (
	"fmt"
	"hash/fnv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// maxName is the length in bytes to which Postgres cuts an identifier, silently.
const maxName = 63

// side is one of the two sets of staging tables.
type side int

const (
	sideA side = iota
	sideB
	noSide side = -1
)

func (s side) String() string { return [...]string{"a", "b"}[s] }
func (s side) other() side    { return 1 - s }

func sideOf(open string) side {
	if open == "b" {
		return sideB
	}
	return sideA
}

// names are the quoted, schema-qualified names of all tables of one target.
type names struct {
	schema, table string // not quoted
	target        string
	staging       [2]string
	registry      [2]string
	refused       [2]string
	epoch         string
	ledger        string
	ledgerAt      string // an index: no schema; so are the next three
	ledgerRoot    string
	rejectsBatch  string
	rejectsKey    string
	rejects       string
	control       string
	stagingName   [2]string // not quoted, no schema
	own           []string  // all the tables, not quoted, no schema
}

func newNames(schema, table string) names {
	n := names{schema: schema, table: table, target: pgx.Identifier{schema, table}.Sanitize()}
	full := func(suffix string) string {
		name := derived(table, suffix)
		n.own = append(n.own, name)
		return pgx.Identifier{schema, name}.Sanitize()
	}
	for s := range n.staging {
		x := side(s).String()
		n.stagingName[s] = derived(table, "_staging_"+x)
		n.staging[s] = full("_staging_" + x)
		n.registry[s] = full("_registry_" + x)
		n.refused[s] = full("_refused_" + x)
	}
	n.epoch, n.ledger, n.rejects, n.control = full("_epoch"), full("_ledger"), full("_rejects"), full("_control")
	n.ledgerAt = pgx.Identifier{derived(table, "_ledger_at")}.Sanitize()
	n.ledgerRoot = pgx.Identifier{derived(table, "_ledger_root")}.Sanitize()
	n.rejectsKey = pgx.Identifier{derived(table, "_rejects_key")}.Sanitize()
	n.rejectsBatch = pgx.Identifier{derived(table, "_rejects_batch")}.Sanitize()
	return n
}

// derived appends a suffix to a table's name. A name that would become too long is cut and marked
// with a hash of itself, so that two long names with one beginning stay two.
func derived(table, suffix string) string {
	if len(table)+len(suffix) <= maxName {
		return table + suffix
	}
	h := fnv.New32a()
	h.Write([]byte(table)) //nolint:errcheck // never fails
	mark := fmt.Sprintf("_%08x", h.Sum32())
	cut := table[:maxName-len(suffix)-len(mark)]
	for !utf8.ValidString(cut) {
		cut = cut[:len(cut)-1]
	}
	return cut + mark + suffix
}

// parseName splits `table`, `schema.table`, `"any name"."any name"`. What stands between quotes is
// taken as it is, and so is what stands without: it is not folded to lower case.
func parseName(s string) (schema, table string, err error) {
	bad := func(why string) (string, string, error) {
		return "", "", fmt.Errorf("%w: target %q: %s", ErrConfig, s, why)
	}
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return bad("not valid UTF-8 without NUL")
	}
	var parts []string
	for rest := s; ; {
		var part strings.Builder
		if strings.HasPrefix(rest, `"`) {
			rest = rest[1:]
			for {
				i := strings.IndexByte(rest, '"')
				if i < 0 {
					return bad("a quote is not closed")
				}
				part.WriteString(rest[:i])
				rest = rest[i+1:]
				if !strings.HasPrefix(rest, `"`) {
					break
				}
				part.WriteByte('"')
				rest = rest[1:]
			}
			if rest != "" && rest[0] != '.' {
				return bad("text after a closing quote")
			}
		} else {
			i := strings.IndexByte(rest, '.')
			if i < 0 {
				i = len(rest)
			}
			if strings.Contains(rest[:i], `"`) {
				return bad("a quote inside a name that does not begin with one")
			}
			part.WriteString(rest[:i])
			rest = rest[i:]
		}
		if part.Len() == 0 {
			return bad("a name is empty")
		}
		if part.Len() > maxName {
			return bad(fmt.Sprintf("a name is longer than %d bytes", maxName))
		}
		parts = append(parts, part.String())
		if rest == "" {
			break
		}
		rest = rest[1:]
	}
	switch len(parts) {
	case 1:
		return "", parts[0], nil
	case 2:
		return parts[0], parts[1], nil
	}
	return bad("more than schema and table")
}

func quote(column string) string { return pgx.Identifier{column}.Sanitize() }

// list quotes columns, each with a prefix such as "s.", and joins them.
func list(prefix string, columns []string) string {
	var b strings.Builder
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(prefix)
		b.WriteString(quote(c))
	}
	return b.String()
}

// literal quotes a text for SQL that cannot take parameters.
func literal(s string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}
