package staging

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// call is one statement with its parameters, nearly always in text form; the SQL casts them.
type call struct {
	sql     string
	args    [][]byte
	formats []int16 // of the parameters; nil: text
}

// do is a call of a short statement without a template.
func do(sql string, args ...string) call {
	c := call{sql: sql}
	for _, a := range args {
		c.args = append(c.args, []byte(a))
	}
	return c
}

// send runs statements in one round trip, whatever mode the pool's connections have. Each
// statement is parsed when its turn comes. Parsing takes the tables' locks: a statement that pgx
// prepared before the transaction would wait for a promoter's lock without a timeout. So no
// prepared statement is needed, and every PgBouncer works. A statement that fails ends the rest.
// The results are those of the statements before it.
func send(ctx context.Context, q *pgx.Conn, calls ...call) ([]result, error) {
	fresh, closed := q.PgConn().TxStatus() == 'I', q.IsClosed()
	b := new(pgconn.Batch)
	for _, c := range calls {
		b.ExecParams(c.sql, c.args, nil, c.formats, nil)
	}
	raw, err := q.PgConn().ExecBatch(ctx, b).ReadAll()
	for n := len(raw); n > 0 && raw[n-1].Err != nil; n-- {
		raw = raw[:n-1]
	}
	out := make([]result, len(raw))
	for i, r := range raw {
		out[i] = result{r}
	}
	if err != nil && len(out) == 0 && (closed || fresh && pgschema.IsEnded(err)) {
		err = &idleEnd{err}
	}
	if pgschema.MayBeStandby(err) && (calls[0].sql == beginOwn || calls[0].sql == beginReading) {
		// The transaction is this message's, so it can end here.
		if _, rerr := q.Exec(ctx, "rollback"); rerr == nil {
			err = pgschema.NameStandby(ctx, q, err)
		}
	}
	return out, err
}

// sendOne runs one statement.
func sendOne(ctx context.Context, q *pgx.Conn, c call) (result, error) {
	out, err := send(ctx, q, c)
	if err != nil {
		return result{}, err
	}
	return out[0], nil
}

// result is what a statement returned, in text form. Values are read by the name of their column.
type result struct{ *pgconn.Result }

// affected is the number of rows that the statement wrote.
func (r result) affected() int64 { return r.CommandTag.RowsAffected() }

// row returns one row.
func (r result) row(i int) record { return record{r, r.Rows[i]} }

// each returns the rows one by one.
func (r result) each() iter.Seq[record] {
	return func(yield func(record) bool) {
		for _, row := range r.Rows {
			if !yield(record{r, row}) {
				return
			}
		}
	}
}

// texts returns one column of all rows.
func (r result) texts(column string) []string {
	out := make([]string, 0, len(r.Rows))
	for row := range r.each() {
		out = append(out, row.text(column))
	}
	return out
}

// record is one row of a result.
type record struct {
	of     result
	values [][]byte
}

func (r record) value(column string) []byte {
	i := slices.IndexFunc(r.of.FieldDescriptions, func(f pgconn.FieldDescription) bool { return f.Name == column })
	if i < 0 {
		panic("staging: a statement has no column " + column)
	}
	return r.values[i]
}

func (r record) null(column string) bool   { return r.value(column) == nil }
func (r record) text(column string) string { return string(r.value(column)) }
func (r record) bool(column string) bool   { return r.text(column) == "t" }

// int reads a number. The statements cast to integers whatever they return as numbers.
func (r record) int(column string) int64 {
	n, err := strconv.ParseInt(r.text(column), 10, 64)
	if err != nil {
		panic("staging: column " + column + ": " + err.Error())
	}
	return n
}

// micros reads a time that the statement gives as microseconds since 1970. NULL is the zero time.
func (r record) micros(column string) time.Time {
	if r.null(column) {
		return time.Time{}
	}
	return time.UnixMicro(r.int(column))
}

// fatesOf reads batch ids and kinds.
func fatesOf(r result) map[string]Fate {
	out := make(map[string]Fate, len(r.Rows))
	for row := range r.each() {
		f := FatePromoted
		if row.text("kind") == "void" {
			f = FateVoid
		}
		out[row.text("id")] = f
	}
	return out
}

// countsOf reads counts by batch number.
func countsOf(r result) (map[int32]int64, error) {
	out := make(map[int32]int64, len(r.Rows))
	for row := range r.each() {
		if row.null("no") {
			return nil, fmt.Errorf("staging: a row in a staging table has no %s: another program has written it", colRecord)
		}
		out[int32(row.int("no"))] = row.int("n")
	}
	return out, nil
}

// array prints numbers, or ids that are known to be uuids, as an array.
func array[E int32 | int64 | string](in []E) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, x := range in {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, x)
	}
	b.WriteByte('}')
	return b.String()
}

func text[N int | int32 | int64](n N) string { return strconv.FormatInt(int64(n), 10) }

func timeText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z07:00") }

// boundText prints a time that bounds what is read or deleted. Postgres has no year 0, and Go has
// years that Postgres has not: they bound nothing, or everything.
func boundText(t time.Time) string {
	switch y := t.UTC().Year(); {
	case y < 1:
		return "-infinity"
	case y > 9999:
		return "infinity"
	}
	return timeText(t)
}

func millis(d time.Duration) string { return text(d.Milliseconds()) }
