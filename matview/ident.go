package matview

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is what a [Rollup] needs: a *pgxpool.Pool, a *pgx.Conn, or the pgx.Tx of a caller who wants it in his own transaction.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// maxName is NAMEDATALEN - 1: Postgres would cut a longer name silently, and two long names could become one.
const maxName = 63

// parseName splits "schema.name" into its parts.
func parseName(s string) (pgx.Identifier, error) {
	parts := strings.Split(s, ".")
	if len(parts) > 2 {
		return nil, fmt.Errorf("%q has %d dots: must be name or schema.name", s, len(parts)-1)
	}
	for _, p := range parts {
		if err := checkName(p); err != nil {
			return nil, err
		}
	}
	return pgx.Identifier(parts), nil
}

func checkName(p string) error {
	switch {
	case p == "":
		return fmt.Errorf("name is empty: must be 1 to %d bytes", maxName)
	case len(p) > maxName:
		return fmt.Errorf("name %q has %d bytes: must be 1 to %d", p, len(p), maxName)
	case strings.ContainsRune(p, 0):
		return fmt.Errorf("name %q holds a NUL byte", p)
	}
	return nil
}

// mustIdent is for names that the constructor has checked.
func mustIdent(s string) string { return pgx.Identifier(strings.Split(s, ".")).Sanitize() }

func quote(column string) string { return pgx.Identifier{column}.Sanitize() }

func quoteAll(columns []string) []string {
	q := make([]string, len(columns))
	for i, c := range columns {
		q[i] = quote(c)
	}
	return q
}

// last is the name without its schema.
func last(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }
