package pgschema

import (
	"fmt"
	"slices"
	"strings"
)

// Lack is a privilege that a role needs and does not have.
type Lack struct {
	Privilege string // "SELECT", "CREATE", …
	Object    string // as GRANT writes it: `TABLE "public"."orders"`
	Role      string
}

// Fixes joins one GRANT for each object and role, with all its privileges, in the order in which
// they were found.
func Fixes(lacks []Lack) string {
	var grants []string
	for i, l := range lacks {
		if slices.ContainsFunc(lacks[:i], func(o Lack) bool { return o.Object == l.Object && o.Role == l.Role }) {
			continue
		}
		var privileges []string
		for _, o := range lacks[i:] {
			if o.Object == l.Object && o.Role == l.Role && !slices.Contains(privileges, o.Privilege) {
				privileges = append(privileges, o.Privilege)
			}
		}
		grants = append(grants, fmt.Sprintf("GRANT %s ON %s TO %s;", strings.Join(privileges, ", "), l.Object, Quote(l.Role)))
	}
	return strings.Join(grants, " ")
}
