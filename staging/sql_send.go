package staging

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// stmt is one statement with its parameters in text form; the SQL casts them.
type stmt struct {
	sql  string
	args []string
}

func do(sql string, args ...string) stmt { return stmt{sql, args} }

// send runs statements one behind the other in one round trip, whatever mode the pool's connections have. Each is parsed
// when its turn comes. That is the point: parsing takes the tables' locks, and what pgx prepares ahead of the transaction
// would wait for a promoter's lock without a time-out. So no prepared statement is needed either, which any PgBouncer likes.
// A statement that fails ends the rest; the results are those before it.
func send(ctx context.Context, q *pgx.Conn, stmts ...stmt) ([]*pgconn.Result, error) {
	b := new(pgconn.Batch)
	for _, s := range stmts {
		var args [][]byte
		for _, a := range s.args {
			args = append(args, []byte(a))
		}
		b.ExecParams(s.sql, args, nil, nil, nil)
	}
	out, err := q.PgConn().ExecBatch(ctx, b).ReadAll()
	for n := len(out); n > 0 && out[n-1].Err != nil; n-- {
		out = out[:n-1]
	}
	return out, err
}

// one runs one statement.
func one(ctx context.Context, q *pgx.Conn, sql string, args ...string) (*pgconn.Result, error) {
	out, err := send(ctx, q, stmt{sql, args})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// texts returns the first column of a result.
func texts(r *pgconn.Result) []string {
	out := make([]string, len(r.Rows))
	for i, row := range r.Rows {
		out[i] = string(row[0])
	}
	return out
}

// kindsOf reads rows of batch id and kind.
func kindsOf(r *pgconn.Result) map[string]Fate {
	out := make(map[string]Fate, len(r.Rows))
	for _, row := range r.Rows {
		f := FatePromoted
		if string(row[1]) == "void" {
			f = FateVoid
		}
		out[string(row[0])] = f
	}
	return out
}

// countsOf reads rows of batch number and count.
func countsOf(r *pgconn.Result) (map[int32]int64, error) {
	out := make(map[int32]int64, len(r.Rows))
	for _, row := range r.Rows {
		if row[0] == nil {
			return nil, fmt.Errorf("staging: a row in a staging table has no %s: another program has written it", colRecord)
		}
		no, err := strconv.ParseInt(string(row[0]), 10, 32)
		if err != nil {
			return nil, err
		}
		if out[int32(no)], err = strconv.ParseInt(string(row[1]), 10, 64); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// array prints numbers, or ids that are known to be uuids, as an array.
func array[E int32 | string](in []E) string {
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

func millis(d time.Duration) string { return text(d.Milliseconds()) }
