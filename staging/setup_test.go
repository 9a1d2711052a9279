package staging_test

import (
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/jackc/pgx/v5/pgxpool"
)

// exampleDatabase gives an Example a pool on a throwaway database in which it has run some SQL.
func exampleDatabase(sql ...string) (pool *pgxpool.Pool, drop func()) {
	return servertest.ExamplePool(sql...)
}
