package staging_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
)

// laned is a row of the tests of lanes. A row with a negative N is bad.
type laned struct {
	ID   string `db:"id"`
	N    int64  `db:"n"`
	Rank int64  `db:"rank"`
}

// lanes are programs on one target with two lanes. The target's schema is in ddl.
type lanes struct {
	t      *testing.T
	pool   *pgxpool.Pool // of the test
	work   *pgxpool.Pool // of the programs
	both   *staging.Table[laned]
	narrow *staging.Table[laned] // stages into the first lane only
}

func openLanes(t *testing.T, ddl string, cfg staging.Config[laned]) *lanes {
	t.Helper()
	x := &lanes{t: t, pool: servertest.Postgres(t)}
	exec(t, x.pool, ddl)
	c := x.pool.Config()
	c.MaxConns, c.ConnConfig.RuntimeParams["application_name"] = 12, "lanes"
	var err error
	if x.work, err = pgxpool.NewWithConfig(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.work.Close() })
	cfg.LockTimeout, cfg.IdleTimeout = time.Minute, time.Minute
	cfg.Lanes = 2
	x.both = newTable(t, x.work, "laned", cfg)
	cfg.Lanes = 1
	x.narrow = newTable(t, x.work, "laned", cfg)
	return x
}

// loadOf makes a batch of rows with the given keys that belongs to a lane, 1 or 2.
func (x *lanes) loadOf(lane int, rows ...laned) staging.Load[laned] {
	l := load(rows...)
	for x.both.LaneOf(l.Batch.ID) != lane {
		l.Batch.ID = uid.New()
	}
	return l
}

// promoting promotes a lane in the background.
func (x *lanes) promoting(lane int) <-chan result[staging.PromoteResult] {
	return background(func() (staging.PromoteResult, error) {
		return x.both.Promote(x.t.Context(), staging.PromoteOptions{Lane: lane})
	})
}

// hold keeps what a statement has locked until the test releases it.
func (x *lanes) hold(sql string, args ...any) (release func()) {
	x.t.Helper()
	tx, err := x.pool.Begin(x.t.Context())
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := tx.Exec(x.t.Context(), sql, args...); err != nil {
		x.t.Fatal(err)
	}
	return func() {
		x.t.Helper()
		if err := tx.Rollback(x.t.Context()); err != nil {
			x.t.Fatal(err)
		}
	}
}

// untilWaiting returns when so many backends wait for a lock.
func (x *lanes) untilWaiting(n int) {
	x.t.Helper()
	untilTrue(x.t, x.pool, fmt.Sprintf(
		"SELECT count(*) = %d FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'", n))
}

// noDeadlock ends the programs, whose backends then report what they have met.
func (x *lanes) noDeadlock() {
	x.t.Helper()
	x.work.Close()
	untilTrue(x.t, x.pool, "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'lanes'")
	if n := query[int](x.t, x.pool, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		x.t.Errorf("%d deadlocks, want 0", n)
	}
}

// keys are the rows with the keys from 0 to n-1, in an order that interleaves them.
func keys(n int, backwards bool) []laned {
	out := make([]laned, n)
	for i := range out {
		out[i] = laned{ID: fmt.Sprintf("k%04d", i), N: int64(i), Rank: int64(i)}
	}
	if backwards {
		slices.Reverse(out)
	}
	return out
}

// rowsAs reads the ids and numbers of the target.
func (x *lanes) rowsAs() map[string]int64 {
	x.t.Helper()
	rows, err := x.pool.Query(x.t.Context(), "SELECT id, n FROM laned")
	if err != nil {
		x.t.Fatal(err)
	}
	out := map[string]int64{}
	var id string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&id, &n}, func() error { out[id] = n; return nil }); err != nil {
		x.t.Fatal(err)
	}
	return out
}

// sums compares the roll-up with what the target holds.
func (x *lanes) sums() {
	x.t.Helper()
	wrong := query[string](x.t, x.pool, `SELECT coalesce(string_agg(format('%s: %s rows of sum %s, want %s of %s', g, s.rows, s.sum, t.rows, t.sum), '; '), '')
		FROM sums s FULL JOIN (SELECT n % 5 AS g, count(*) AS rows, sum(n) AS sum FROM laned GROUP BY 1) t USING (g)
		WHERE (coalesce(s.rows, 0), coalesce(s.sum, 0)) IS DISTINCT FROM (coalesce(t.rows, 0), coalesce(t.sum, 0))`)
	if wrong != "" {
		x.t.Errorf("roll-up: %s", wrong)
	}
}

const sumsTable = "CREATE TABLE sums (g bigint PRIMARY KEY, rows bigint NOT NULL, sum bigint NOT NULL);"

// sumsMerge keeps the sums of groups, in the order of the groups.
var sumsMerge = staging.Merge{Name: "sums", SQL: `INSERT INTO sums AS s SELECT n % 5, count(*), sum(n) FROM promoted GROUP BY 1 ORDER BY 1
	ON CONFLICT (g) DO UPDATE SET rows = s.rows + EXCLUDED.rows, sum = s.sum + EXCLUDED.sum`}

// sumsReplaced is the same where rows replace others.
var sumsReplaced = staging.Merge{Name: "sums", Replaced: true, SQL: `INSERT INTO sums AS s
	SELECT n % 5, sum(one), sum(one * n) FROM (SELECT n, 1 AS one FROM promoted UNION ALL SELECT n, -1 FROM replaced) x GROUP BY 1 ORDER BY 1
	ON CONFLICT (g) DO UPDATE SET rows = s.rows + EXCLUDED.rows, sum = s.sum + EXCLUDED.sum`}

// refusingTrigger refuses bad rows where nothing but the insert can find out.
const refusingTrigger = `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF NEW.n < 0 THEN RAISE EXCEPTION 'bad'; END IF; RETURN NEW; END $$;
	CREATE TRIGGER refuse AFTER INSERT ON laned FOR EACH ROW EXECUTE FUNCTION refuse();`

const lanedTable = "CREATE TABLE laned (id text PRIMARY KEY, n bigint NOT NULL, rank bigint NOT NULL);"

// allPromoted reports the batches that are not promoted.
func (x *lanes) allPromoted(ids []string) {
	x.t.Helper()
	for i, f := range fates(x.t, x.both, ids...) {
		if f != staging.FatePromoted {
			x.t.Errorf("batch %s is %v, want promoted", ids[i], f)
		}
	}
}

// drain promotes what is left.
func (x *lanes) drain() {
	x.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		p := promote(x.t, x.both)
		if len(p.Batches)+len(p.Mismatched) == 0 && !p.More {
			return
		}
		if time.Now().After(deadline) {
			x.t.Fatal("batches stay staged")
		}
	}
}
