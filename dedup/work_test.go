package dedup_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// No command holds the server for long, however many ids a call has, and however long they are.
func TestNoCommandDoesTooMuch(t *testing.T) {
	t.Parallel()
	s := servertest.OwnRedis(t)
	c := s.Client(t)
	for what, long := range map[string]int{"short ids": 10, "ids of 1,000 bytes": 1000} {
		n := 200_000 / long
		ids, claims := make([]string, n), make([]dedup.Claim, n)
		for i := range ids {
			ids[i] = fmt.Sprintf("%d%s", i, strings.Repeat("x", long-5))
			claims[i] = dedup.Claim{Root: "a", Place: i, ID: ids[i]}
		}
		d := open(t, c, servertest.Prefix(t), dedup.Config{ExpectedIDs: 3_000_000})
		check := func(how string, f func() error) {
			t.Helper()
			redisxtest.CheckWork(t, s.URL, what+": "+how, func() {
				if err := f(); err != nil {
					t.Error(err)
				}
			})
		}
		claim := func(root string) func() error {
			return func() error {
				_, err := d.Claim(t.Context(), dedup.Batch{Root: root, Records: n}, nil, ids)
				return err
			}
		}
		check("new ids", claim("a"))
		check("known ids", claim("b"))
		check("Seen", func() error { _, err := d.Seen(t.Context(), ids...); return err })
		check("Undo", func() error { _, err := d.Undo(t.Context(), claims); return err })
		check("Release", func() error { _, err := d.Release(t.Context(), claims...); return err })
		check("Clear", func() error { return d.Clear(t.Context()) })
	}
}
