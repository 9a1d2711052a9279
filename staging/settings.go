package staging

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/pgschema"
)

// beginOwn begins a transaction that sees what was committed while it waited for a lock, and may
// write, whatever the defaults are. With a default of REPEATABLE READ a promotion would not see a
// batch whose COPY it waited for, and would truncate it unread.
const beginOwn = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE"

// beginReading begins a transaction that only reads, also at a standby.
const beginReading = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE"

// mode is what a transaction does.
type mode uint8

const (
	reads   mode = iota // nothing but read, also at a standby
	writes              // what no crash has to keep
	durably             // write what the disk and the synchronous standbys must have
)

// The statements of settings.sql, which hold no names.
var (
	ownSettings    = fill("own_settings", nil)
	ownDurability  = fill("own_durability", nil).with(nil)
	ownMemory      = fill("own_memory", nil).with(nil)
	ownLockTimeout = fill("own_lock_timeout", nil)
	ownTimes       = fill("own_times", nil)
	ownPlans       = fill("own_plans", nil).with(nil)
	searchPath     = fill("search_path", nil).with(nil)
	standbyNames   = fill("standby_names", nil).with(nil)
	barrier        = fill("barrier", nil).with(nil)
)

// beginning opens a transaction with settings of its own, of which the time limits keep a frozen
// program from holding up others. If it writes durably, its commit waits for the disk and for
// synchronous standbys, whatever the server's default is. Otherwise it waits for neither.
func (t *table) beginning(m mode) []call {
	switch m {
	case reads:
		return t.reading(t.cfg.LockTimeout)
	case writes:
		return append([]call{do(beginOwn)}, t.ownSettings(t.cfg.LockTimeout, t.cfg.IdleTimeout, commitsAtOnce)...)
	}
	return append(append([]call{do(beginOwn)}, t.ownSettings(t.cfg.LockTimeout, t.cfg.IdleTimeout, "")...), ownDurability)
}

// reading opens a transaction that reads, with a time limit for its locks.
func (t *table) reading(lock time.Duration) []call {
	return append([]call{do(beginReading)}, t.ownSettings(lock, t.cfg.IdleTimeout, commitsAtOnce)...)
}

// commitsAtOnce is the synchronous_commit of a transaction that nothing depends on after a crash.
const commitsAtOnce = "off"

// ownSettings takes over the settings of the current transaction. Before New has read the search
// path, it stays as it is. So does synchronous_commit if commit is empty.
func (t *table) ownSettings(lock, idle time.Duration, commit string) []call {
	own := ownSettings.with(args{"lock_timeout": millis(lock), "idle_timeout": millis(idle), "search_path": t.searchPath, "commit": commit})
	if utf, _ := textOK(t.searchPath); len(t.searchPath) > 0 && (!utf || !isASCII(t.searchPath)) {
		// The search path is a parameter, and the server must read it in UTF-8 too.
		return []call{do("SET LOCAL client_encoding TO 'UTF8'"), own}
	}
	return []call{own}
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// readSearchPath remembers the search path of New for all later transactions.
func (t *table) readSearchPath(ctx context.Context, q *pgx.Conn) error {
	r, err := sendOne(ctx, q, searchPath)
	if err != nil {
		return err
	}
	if t.searchPath = r.row(0).text("path"); t.searchPath == "" {
		t.searchPath = `""` // an empty value would leave the setting as it is
	}
	return nil
}

// inOwn runs one statement in a transaction of its own with its own settings.
func (t *table) inOwn(ctx context.Context, q *pgx.Conn, m mode, c call) (result, error) {
	defer t.rollback(q)
	calls := append(t.beginning(m), c)
	if m != durably {
		calls = append(calls, do("commit"))
	}
	out, err := send(ctx, q, calls...)
	if err != nil {
		return result{}, err
	}
	if m != durably {
		return out[len(out)-2], nil
	}
	return out[len(out)-1], t.commit(ctx, q, "")
}

// exec runs one statement on a connection of the pool, in a transaction of its own, and returns how
// many rows it wrote.
func (t *table) exec(ctx context.Context, m mode, c call) (int64, error) {
	var n int64
	err := retryIdle(ctx, t.pool, func() error {
		conn, err := pgschema.Acquire(ctx, t.pool)
		if err != nil {
			return err
		}
		defer conn.Release()
		r, err := t.inOwn(ctx, conn.Conn(), m, c)
		if err != nil {
			return err
		}
		n = r.affected()
		return nil
	})
	return n, err
}

// query runs one statement in a transaction of its own and returns its rows, to be read by the
// names of their columns. Closing the rows ends the transaction and gives the connection back.
func (t *table) query(ctx context.Context, c call) (pgx.Rows, error) {
	conn, err := t.begin(ctx, reads)
	if err != nil {
		return nil, err
	}
	values := make([]any, len(c.args))
	for i, a := range c.args {
		values[i] = string(a)
	}
	end := func() { t.rollback(conn.Conn()); conn.Release() }
	rows, err := conn.Query(ctx, c.sql, unnamed(conn.Conn(), values...)...)
	if err != nil {
		end()
		return nil, err
	}
	return &ownRows{Rows: rows, end: end}, nil
}

// unnamed puts a mode of pgx before the arguments of a query inside a transaction: it prepares no
// named statement. Behind a pooler that does not follow those, the server's connection may have the
// statement of another client. A mode of the pool that prepares nothing stays.
func unnamed(q *pgx.Conn, args ...any) []any {
	switch q.Config().DefaultQueryExecMode {
	case pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe:
		return append([]any{pgx.QueryExecModeDescribeExec}, args...)
	}
	return args
}

// ownRows are rows whose end is also the end of their transaction.
type ownRows struct {
	pgx.Rows
	end func()
}

func (r *ownRows) Close() {
	r.Rows.Close()
	if r.end != nil {
		r.end()
		r.end = nil
	}
}

func (r *ownRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *ownRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

// begin opens a transaction of its own on a connection of the pool.
func (t *table) begin(ctx context.Context, m mode) (*pgxpool.Conn, error) {
	var conn *pgxpool.Conn
	err := retryIdle(ctx, t.pool, func() error {
		c, err := pgschema.Acquire(ctx, t.pool)
		if err != nil {
			return err
		}
		if _, err := send(ctx, c.Conn(), t.beginning(m)...); err != nil {
			t.rollback(c.Conn())
			c.Release()
			return err
		}
		conn = c
		return nil
	})
	return conn, err
}
