package lookup_test

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
)

// connect returns clients of the servers that the tests run on, with a database and a name of their
// own. A program uses rueidis.NewClient and pgxpool.New.
func connect() (redis rueidis.Client, postgres *pgxpool.Pool, name string, cleanup func()) {
	tb, cleanup := servertest.Example("lookup")
	return servertest.Redis(tb), servertest.Postgres(tb), servertest.Prefix(tb), cleanup
}
