package console

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// Check is one finding about a server. [CheckRedis] and [CheckPostgres] make them.
type Check struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Found string `json:"found"`
	// Fix is what to do if it is not OK.
	Fix string `json:"fix,omitempty"`
}

// maxSkew is the largest difference of clocks that does no harm.
const maxSkew = 5 * time.Second

// CheckRedis checks what a queue needs of its server: version, role, eviction policy, append-only
// file, memory, connections and clock. The Health page shows these checks. It reads INFO and TIME.
// It returns an error only if the server does not answer. The client of a cluster asks one node.
func CheckRedis(ctx context.Context, c rueidis.Client) ([]Check, error) {
	if err := redisx.CheckClient(c); err != nil {
		return nil, fmt.Errorf("%w: CheckRedis: %w", ErrConfig, err)
	}
	text, err := c.Do(ctx, c.B().Info().Build()).ToString()
	if err != nil {
		return nil, fmt.Errorf("console: INFO: %w", err)
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
	if err != nil {
		return nil, fmt.Errorf("console: TIME: %w", err)
	}
	if len(now) != 2 {
		return nil, fmt.Errorf("console: TIME: unexpected reply: got %d elements, want 2", len(now))
	}
	secs, _ := strconv.ParseInt(now[0], 10, 64)
	micros, _ := strconv.ParseInt(now[1], 10, 64)
	policy := info["maxmemory_policy"]
	return []Check{
		{"Redis version", major >= least, name + " " + version, fmt.Sprintf("Use %s %d or later.", name, least)},
		{"Redis role", info["role"] == "master", info["role"], "Connect to the master."},
		{"Redis eviction", policy == "noeviction", "maxmemory-policy " + policy, "CONFIG SET maxmemory-policy noeviction, or keys get lost."},
		{"Redis append-only file", info["aof_enabled"] == "1", "aof_enabled " + info["aof_enabled"], "Set appendonly yes, or a restart loses the queue."},
		{"Redis memory", info["maxmemory"] == "0" || part(info["used_memory"], info["maxmemory"]) < 0.8,
			info["used_memory_human"] + " of " + info["maxmemory_human"] + " (0B: no limit)", "Raise maxmemory or lower the gate's watermark."},
		{"Redis connections", true, info["connected_clients"] + " clients", ""},
		clockCheck("Redis clock", before, time.Unix(secs, micros*1000)),
	}, nil
}

func part(used, limit string) float64 {
	u, _ := strconv.ParseFloat(used, 64)
	l, _ := strconv.ParseFloat(limit, 64)
	return u / math.Max(l, 1)
}

func clockCheck(name string, before, server time.Time) Check {
	middle := before.Add(time.Since(before) / 2)
	skew := server.Sub(middle).Round(time.Millisecond)
	return Check{name, skew.Abs() <= maxSkew, "differs from this machine by " + duration(skew), "Synchronize the clocks (NTP)."}
}

// CheckPostgres checks what a table needs of its server: version, role, encoding, collation,
// durability, connections and clock. The Health page shows these checks. It runs one query, which
// any role may run, and returns an error only if the query fails.
func CheckPostgres(ctx context.Context, pool *pgxpool.Pool) ([]Check, error) {
	if pool == nil {
		return nil, fmt.Errorf("%w: CheckPostgres: pool is nil, must be a *pgxpool.Pool", ErrConfig)
	}
	type facts struct {
		Now                                            time.Time
		Number, Used, Most                             int
		Version, Encoding, Collation, Sync, Fsync, FPW string
		Recovery, OldCollation                         bool
	}
	before := time.Now()
	found, err := pool.Query(ctx, `SELECT clock_timestamp() AS now, current_setting('server_version_num')::int AS number,
		(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS used, current_setting('max_connections')::int AS most,
		current_setting('server_version') AS version, pg_encoding_to_char(d.encoding) AS encoding, d.datcollate AS collation,
		current_setting('synchronous_commit') AS sync, current_setting('fsync') AS fsync, current_setting('full_page_writes') AS fpw,
		coalesce(d.datcollversion <> pg_database_collation_actual_version(d.oid), false) AS oldcollation,
		pg_is_in_recovery() AS recovery
		FROM pg_database d WHERE d.datname = current_database()`, unprepared)
	if err != nil {
		return nil, fmt.Errorf("console: settings of Postgres: %w", err)
	}
	f, err := pgx.CollectExactlyOneRow(found, pgx.RowToStructByName[facts])
	if err != nil {
		return nil, fmt.Errorf("console: settings of Postgres: %w", err)
	}
	role := "primary"
	if f.Recovery {
		role = "standby"
	}
	collation := f.Collation
	switch {
	case f.OldCollation:
		collation += " of another version of the system's library"
	case collation != "C":
		collation += " (text keys sort faster under COLLATE \"C\")"
	}
	return []Check{
		{"Postgres version", f.Number >= 150000, f.Version, "Use PostgreSQL 15 or later."},
		{"Postgres role", !f.Recovery, role, "Connect to the primary."},
		{"Postgres encoding", f.Encoding == "UTF8", f.Encoding, "Create the database with ENCODING 'UTF8'."},
		{"Postgres collation", !f.OldCollation, collation, "REINDEX the database, then ALTER DATABASE … REFRESH COLLATION VERSION."},
		{"Postgres durability", f.Fsync == "on" && f.FPW == "on", fmt.Sprintf("fsync %s, full_page_writes %s, synchronous_commit %s", f.Fsync, f.FPW, f.Sync),
			"Set fsync and full_page_writes on, or a crash loses commits."},
		{"Postgres connections", f.Used < f.Most*9/10, fmt.Sprintf("%d of %d in use", f.Used, f.Most), "Raise max_connections or put PgBouncer in between."},
		clockCheck("Postgres clock", before, f.Now),
	}, nil
}
