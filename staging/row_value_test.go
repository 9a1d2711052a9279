package staging_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// A column whose type pgx does not know takes no Value: the bytes of a text would become an amount
// of money or a position in the WAL.
func TestValueOfATypeThatPgxDoesNotKnow(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TYPE pair AS (a int, b text); CREATE DOMAIN price AS money; CREATE TYPE mood AS ENUM ('glad');
		CREATE TABLE odd (amount money, price price, place pg_lsn, pair pair, prices money[], path jsonpath, mood mood)`)
	type odd struct{ v any }
	for column, values := range map[string][]any{
		"amount": {"12345.00", []byte("12345678"), int64(700), time.Second, true}, "price": {"12345.00"}, "place": {"0/123456", int64(1)},
		"pair": {"(1,a)"}, "prices": {[]string{"1"}, []int64{7}}, "path": {"$.a"},
	} {
		tab := newTable(t, pool, "odd", staging.Config[odd]{Columns: []staging.Column{{Name: column}}, Fill: func(o *odd, r *staging.Row) { r.Value(o.v) }})
		for _, v := range values {
			_, err := tab.Stage(t.Context(), load(odd{v}))
			if !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), fmt.Sprintf("%q", column)) {
				t.Errorf("%T into %s: %v, want ErrConfig with the column", v, column, err)
			}
		}
		stage(t, tab, load(odd{nil}), staging.OutcomeStaged) // NULL needs no type
		promote(t, tab)
	}
	tab := newTable(t, pool, "odd", staging.Config[odd]{Columns: []staging.Column{{Name: "mood"}}, Fill: func(o *odd, r *staging.Row) { r.Value(o.v) }})
	stage(t, tab, load(odd{"glad"}, odd{mood("glad")}, odd{true}, odd{int64(7)}), staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 2 || p.Rejected != 2 {
		t.Errorf("an enum takes %d rows and rejects %d, want the two texts and neither of the others: %+v", p.Rows, p.Rejected, p)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM odd WHERE num_nonnulls(amount, price, place, pair, prices, path) > 0"); n != 0 {
		t.Errorf("%d rows hold a value that no program wrote", n)
	}
}

// A slice of bytes is a uuid if it has sixteen of them.
func TestUUIDOfBytes(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE ids (id uuid)`)
	type row struct {
		ID []byte `db:"id"`
	}
	tab := newTable(t, pool, "ids", staging.Config[row]{})
	stage(t, tab, load(row{[]byte("0123456789abcdef")}, row{[]byte("01234567")}, row{[]byte{}}, row{[]byte("0123456789abcdefg")}, row{nil}), staging.OutcomeStaged)
	if p := promote(t, tab); p.Rows != 2 {
		t.Errorf("%+v, want the row of sixteen bytes and that of NULL", p)
	}
	rejects, err := tab.Rejects(t.Context(), staging.RejectFilter{Code: staging.CodeUUID})
	if err != nil || len(rejects) != 3 {
		t.Errorf("%d rejects with code %s, want 3: %v", len(rejects), staging.CodeUUID, err)
	}
}
