package pgschema

import (
	_ "embed"
	"maps"
	"regexp"
	"slices"
	"strings"
)

//go:embed shadows.sql
var shadowsSQL string

// Shadows returns the statement that finds what the statements of a package would mean instead of
// what Postgres has. There is such a thing only with a search path that names pg_catalog behind
// another schema. The statement returns its name, "" if there is none.
func Shadows(statements string) string {
	names := func(pattern string) string {
		found := map[string]bool{}
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(statements, -1) {
			found[m[1]] = true
		}
		return Literal("{" + strings.Join(slices.Sorted(maps.Keys(found)), ",") + "}")
	}
	_, sql, _ := strings.Cut(shadowsSQL, "\nWITH")
	return "WITH" + Fill(sql, "functions", names(`\b([a-z_][a-z0-9_]*)\(`), "types", names(`::([a-z_][a-z0-9_]*)`), "relations", names(`\b(pg_[a-z_]+)\b`))
}

// Shadowed completes an error about such a name.
func Shadowed(name string) string {
	return "the search_path has pg_catalog behind the schema of " + name + ", which would be taken instead of that of Postgres: leave pg_catalog out of it, and it comes first"
}
