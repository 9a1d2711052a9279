package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/examples/internal/program"
)

// doctor checks what a pipeline needs of its servers. It only reads.
type doctor struct{}

// check is one finding.
type check struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Found string `json:"found"`
	Fix   string `json:"fix,omitempty"` // what to do if it is not OK
}

// Run prints the findings. Its error counts those that are not OK.
func (doctor) Run(ctx context.Context, s *session) error {
	redis, err := s.redis(ctx)
	if err != nil {
		return err
	}
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	checks, err := checkRedis(ctx, redis)
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	more, err := checkPostgres(ctx, pool)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	checks = append(checks, more...)
	if bouncer, ok := checkPgBouncer(ctx, pool); ok {
		checks = append(checks, bouncer)
	}
	width, _ := program.Width(s.Out)
	text, bad := "", 0
	for _, c := range checks {
		mark, note := "✓", c.Found
		if !c.OK {
			bad++
			mark, note = "✗", c.Found+": "+c.Fix
		}
		text += program.Wrap(fmt.Sprintf("%s %-22s ", mark, c.Name), note, width) + "\n"
	}
	if err := s.print(map[string]any{"checks": checks}, text); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d checks failed", bad, len(checks))
	}
	return nil
}

// checkPgBouncer asks the console of a pooler in front of the database. Without a pooler, ok is
// false. A console that does not let this user in leaves the mode unknown, which is no failure.
func checkPgBouncer(ctx context.Context, pool *pgxpool.Pool) (c check, ok bool) {
	cfg := pool.Config().ConnConfig.Copy()
	cfg.Database = "pgbouncer"
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		// A Postgres without such a database has answered 3D000; a pooler refuses the user.
		if pg := new(pgconn.PgError); errors.As(err, &pg) && strings.Contains(pg.Message, "not allowed") {
			return check{"PgBouncer mode", true, "unknown: the user is in neither admin_users nor stats_users", ""}, true
		}
		return check{}, false
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, "SHOW CONFIG")
	if err != nil {
		return check{}, false
	}
	list, err := pgx.CollectRows(rows, pgx.RowToMap)
	if err != nil {
		return check{}, false
	}
	settings := make(map[string]string)
	for _, r := range list {
		settings[fmt.Sprint(r["key"])] = fmt.Sprint(r["value"])
	}
	mode := settings["pool_mode"]
	found := fmt.Sprintf("%s, max_client_conn %s, default_pool_size %s", mode, settings["max_client_conn"], settings["default_pool_size"])
	return check{"PgBouncer mode", mode == "transaction" || mode == "session", found, "set pool_mode = transaction: a batch is a transaction of several statements"}, true
}

// maxSkew is the largest difference of clocks that does no harm.
const maxSkew = 5 * time.Second

func checkRedis(ctx context.Context, c rueidis.Client) ([]check, error) {
	text, err := c.Do(ctx, c.B().Info().Build()).ToString()
	if err != nil {
		return nil, err
	}
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	name, version, least := "Redis", info["redis_version"], 7
	if v := info["valkey_version"]; v != "" {
		name, version, least = "Valkey", v, 8
	}
	major, _ := strconv.Atoi(strings.Split(version, ".")[0])
	before := time.Now()
	now, err := c.Do(ctx, c.B().Time().Build()).AsStrSlice()
	if err != nil || len(now) != 2 {
		return nil, fmt.Errorf("TIME: unexpected reply %v, %w", now, err)
	}
	seconds, _ := strconv.ParseInt(now[0], 10, 64)
	micros, _ := strconv.ParseInt(now[1], 10, 64)
	policy := info["maxmemory_policy"]
	return []check{
		{"Redis version", major >= least, name + " " + version, fmt.Sprintf("use %s %d or later", name, least)},
		{"Redis role", info["role"] == "master", info["role"], "REDIS_URL must lead to the master"},
		{"Redis eviction", policy == "noeviction", "maxmemory-policy " + policy, "CONFIG SET maxmemory-policy noeviction, or keys get lost"},
		{"Redis append-only file", info["aof_enabled"] == "1", "aof_enabled " + info["aof_enabled"], "set appendonly yes, or a restart loses the queue"},
		{"Redis memory", info["maxmemory"] == "0" || share(info["used_memory"], info["maxmemory"]) < 0.8,
			info["used_memory_human"] + " of " + info["maxmemory_human"] + " (0B: no limit)", "raise maxmemory or lower the gate's watermark"},
		clock("Redis clock", before, time.Unix(seconds, micros*1000)),
	}, nil
}

func share(used, limit string) float64 {
	u, _ := strconv.ParseFloat(used, 64)
	l, _ := strconv.ParseFloat(limit, 64)
	return u / math.Max(l, 1)
}

func clock(name string, before, server time.Time) check {
	middle := before.Add(time.Since(before) / 2)
	skew := server.Sub(middle).Round(time.Millisecond)
	return check{name, skew.Abs() <= maxSkew, fmt.Sprintf("differs from this machine by %v", skew), "synchronize the clocks (NTP)"}
}

func checkPostgres(ctx context.Context, pool *pgxpool.Pool) ([]check, error) {
	before := time.Now()
	type facts struct {
		Now                                            time.Time
		Number, Used, Most                             int
		Version, Encoding, Collation, Sync, Fsync, FPW string
		Recovery, MayCreate, MayTemp, OldCollation     bool
	}
	rows, err := pool.Query(ctx, `SELECT clock_timestamp() AS now, current_setting('server_version_num')::int AS number,
		(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS used, current_setting('max_connections')::int AS most,
		current_setting('server_version') AS version, pg_encoding_to_char(d.encoding) AS encoding, d.datcollate AS collation,
		current_setting('synchronous_commit') AS sync, current_setting('fsync') AS fsync, current_setting('full_page_writes') AS fpw,
		coalesce(d.datcollversion <> pg_database_collation_actual_version(d.oid), false) AS oldcollation,
		pg_is_in_recovery() AS recovery, coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS maycreate,
		has_database_privilege(current_database(), 'TEMPORARY') AS maytemp
		FROM pg_database d WHERE d.datname = current_database()`)
	if err != nil {
		return nil, err
	}
	f, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[facts])
	if err != nil {
		return nil, err
	}
	yes := func(ok bool) string {
		if ok {
			return "granted"
		}
		return "missing"
	}
	return []check{
		{"Postgres version", f.Number >= 150000, f.Version, "use PostgreSQL 15 or later"},
		{"Postgres role", !f.Recovery, map[bool]string{true: "standby", false: "primary"}[f.Recovery], "DATABASE_URL must lead to the primary"},
		{"Postgres encoding", f.Encoding == "UTF8", f.Encoding, "create the database with ENCODING 'UTF8'"},
		{"Postgres collation", !f.OldCollation, f.Collation + map[bool]string{true: " of another version of the system's library", false: ""}[f.OldCollation],
			"REINDEX the database, then ALTER DATABASE … REFRESH COLLATION VERSION"},
		{"Postgres durability", f.Fsync == "on" && f.FPW == "on", fmt.Sprintf("fsync %s, full_page_writes %s, synchronous_commit %s", f.Fsync, f.FPW, f.Sync),
			"set fsync and full_page_writes on, or a crash loses commits"},
		{"Postgres connections", f.Used < f.Most*9/10, fmt.Sprintf("%d of %d in use", f.Used, f.Most), "raise max_connections or put PgBouncer in between"},
		{"Privilege CREATE", f.MayCreate, yes(f.MayCreate), "GRANT CREATE on the schema, or create the tables with a migration (schema print)"},
		{"Privilege TEMPORARY", f.MayTemp, yes(f.MayTemp), "GRANT TEMPORARY on the database"},
		clock("Postgres clock", before, f.Now),
	}, nil
}
