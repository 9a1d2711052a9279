package staging_test

import (
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// The sequences of the companion tables are logged, also those of lanes that are added later. On a
// standby of PostgreSQL 15 that is promoted soon after the CREATE, an unlogged sequence cannot be
// read.
func TestNumbersOfBatchesSurviveThePromotionOfAStandby(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	const unlogged = `SELECT count(*) FROM pg_class WHERE relkind = 'S' AND relpersistence = 'u'`
	type row struct {
		ID string `db:"id"`
	}
	for _, name := range []string{"few", `"A ""name"" with $$ quotes that is long: its derivatives are cut"`} {
		newTable(t, pool, name, staging.Config[row]{Create: true, Key: []string{"id"}})
		newTable(t, pool, name, staging.Config[row]{Key: []string{"id"}, Lanes: 3})
	}
	if n, of := query[int](t, pool, unlogged), query[int](t, pool, `SELECT count(*) FROM pg_class WHERE relkind = 'S' AND relname LIKE '%no_seq'`); n != 0 || of < 12 {
		t.Errorf("%d of %d sequences are unlogged, want none of 12 or more", n, of)
	}
}
