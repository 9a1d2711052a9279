package lookup_test

import (
	"testing"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

// No command holds the server for long, however large the table is and its parts are.
func TestNoCommandDoesTooMuch(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	c := s.Client(t)
	for what, chunk := range map[string]int{"parts of one entry": 1, "the largest parts": lookup.MaxChunk} {
		table := newTable(t, c, servertest.Prefix(t), lookup.Config[string, int]{Load: numbers(12_000), Chunk: chunk})
		redisxtest.CheckWork(t, s.URL, what+": first refresh", func() { refresh(t, table) })
		redisxtest.CheckWork(t, s.URL, what+": next refresh", func() { refresh(t, table) })
	}
}
