package matview_test

import (
	"fmt"
	"strings"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/jackc/pgx/v5/pgxpool"
)

// database gives an Example a pool on a throwaway database in which it has run some SQL.
func database(sql ...string) (pool *pgxpool.Pool, drop func()) { return servertest.ExamplePool(sql...) }

// fold breaks a long text into lines, for the output of an Example.
func fold(text any) string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(fmt.Sprint(text)) {
		if line != "" && len(line)+len(word) > 80 {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return strings.Join(append(lines, line), "\n")
}
