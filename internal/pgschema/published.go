package pgschema

import (
	_ "embed"
	"strings"
)

//go:embed published.sql
var publishedSQL string

// Unreplaceable is a query of why Postgres updates no row of the relations, a list or a query of
// their OIDs in parentheses: a text in column "what" for each publication and relation.
func Unreplaceable(relations string) string {
	_, sql, _ := strings.Cut(publishedSQL, "\nSELECT")
	return strings.TrimSpace(Fill("SELECT"+sql, "relations", relations))
}
