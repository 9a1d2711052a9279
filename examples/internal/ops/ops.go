package ops

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// Pipeline is a pipeline seen from outside.
type Pipeline struct {
	Queue  *queue.Queue
	Window *dedup.Deduplicator
	Ledger *Ledger // nil: the database has no such table yet

	pool  *pgxpool.Pool
	names Names
}

// Names are the names by which a pipeline is found.
type Names struct {
	Queue string // of the queue, and of the dedup window beside it
	Table string // "orders" or "shop.orders"
	Views string // of the set of views
}

// Open finds a pipeline. It creates nothing.
func Open(ctx context.Context, redis rueidis.Client, pool *pgxpool.Pool, names Names) (*Pipeline, error) {
	p := &Pipeline{pool: pool, names: names}
	var err error
	if p.Queue, err = queue.New(ctx, redis, names.Queue, queue.Config{Eviction: queue.EvictionIgnore}); err != nil {
		return nil, err
	}
	if p.Window, err = dedup.New(ctx, redis, names.Queue, dedup.Config{}); err != nil {
		return nil, err
	}
	if p.Ledger, err = OpenLedger(ctx, pool, names.Table); err != nil && !errors.Is(err, ErrNoTable) {
		return nil, err
	}
	return p, nil
}

// Stats is the state of a pipeline at one moment.
type Stats struct {
	At     time.Time
	Books  pipeline.Books
	Table  string // the table's name; "" if the database has no such table yet
	Window int64  // ids in the dedup window, estimated
	Views  []matview.Freshness
}

// Stats reads the state of the pipeline.
func (p *Pipeline) Stats(ctx context.Context) (Stats, error) {
	s := Stats{At: time.Now()}
	window, err := p.Window.Stats(ctx)
	if err != nil {
		return s, err
	}
	s.Window = window.IDs
	if p.Ledger == nil {
		s.Books.Redis, err = p.Queue.Stats(ctx)
		return s, err
	}
	s.Table = p.names.Table
	pass := pipeline.Decode(func([]byte) (struct{}, error) { return struct{}{}, nil }) // the books do not run it
	flow := pipeline.Flow[struct{}]{Queue: p.Queue, Chain: pass, Table: p.Ledger}
	if s.Books, err = flow.Books(ctx, time.Time{}); err != nil {
		return s, err
	}
	s.Views, err = Views(ctx, p.pool, p.names.Views)
	return s, err
}

// Views describes the views of a set of package matview, without their definitions. A set that does
// not exist has none.
func Views(ctx context.Context, pool *pgxpool.Pool, set string) ([]matview.Freshness, error) {
	state, found, err := relation(ctx, pool, set+"_views")
	if err != nil || !found {
		return nil, err
	}
	rows, err := pool.Query(ctx, `SELECT s.name, c.relispopulated, coalesce(s.refreshed_at, '-infinity'), coalesce(s.took, '0'), coalesce(s.as_of, '-infinity'),
		coalesce(greatest(clock_timestamp() - s.as_of, '0'), '0'), coalesce(s.version, ''), coalesce(s.refreshes, 0), pg_total_relation_size(c.oid),
		CASE WHEN c.relispopulated THEN c.reltuples::bigint ELSE -1 END FROM `+state+` s JOIN pg_class c ON c.oid = s.view ORDER BY s.name`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (f matview.Freshness, err error) {
		var refreshed, asOf pgtype.Timestamptz
		err = row.Scan(&f.View, &f.Populated, &refreshed, &f.Duration, &asOf, &f.Age, &f.Version, &f.Refreshes, &f.Bytes, &f.Rows)
		f.RefreshedAt, f.AsOf = refreshed.Time, asOf.Time // -infinity: the zero time
		return f, err
	})
}

// relation returns the quoted name of a table ("orders" or "shop.orders") and whether it exists.
func relation(ctx context.Context, pool *pgxpool.Pool, name string) (quoted string, found bool, err error) {
	quoted = pgx.Identifier(strings.Split(name, ".")).Sanitize()
	err = pool.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", quoted).Scan(&found)
	return quoted, found, err
}

// Balanced returns nil, or an error that names the line of the books that is off and by how much.
func (s Stats) Balanced() error { return s.Books.Balanced() }

// Text is the state in lines of at most width columns. With the state at an earlier time it
// contains rates.
func (s Stats) Text(width int, before *Stats) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintln(&b, program.Wrap(fmt.Sprintf("  %-8s ", name), fmt.Sprintf(format, args...), width))
	}
	state := "balanced"
	if s.Balanced() != nil {
		state = "NOT BALANCED"
	}
	fmt.Fprintf(&b, "%s  %s\n", s.At.Format(time.TimeOnly), state)
	q := s.Books.Redis
	if q.Paused {
		line("queue", "PAUSED: workers lease nothing")
	}
	line("queue", "ready %d, delayed %d, in flight %d (handed off %d), dead %d, redelivered %d, oldest %v",
		q.Ready, q.Delayed, q.InFlight, q.HandedOff, q.Dead, q.Redelivered, q.OldestAge.Round(time.Millisecond))
	if before != nil {
		seconds := max(s.At.Sub(before.At).Seconds(), 1e-3)
		old := before.Books
		line("rates", "taken %.0f/s, promoted %.0f/s, acked %.0f/s", float64(q.Taken-old.Redis.Taken)/seconds,
			float64(s.Books.Postgres.Rows-old.Postgres.Rows)/seconds, float64(q.Acked-old.Redis.Acked)/seconds)
	}
	line("window", "about %d ids", s.Window)
	for i, l := range s.Books.Lines() {
		if s.Table != "" || i == 0 {
			line(l.Name, "%s", l.Sum)
		}
	}
	if s.Table == "" {
		line("table", "not created yet: no worker has started")
	}
	for _, v := range s.Views {
		if !v.Populated {
			line("view", "%s: never refreshed", v.View)
			continue
		}
		line("view", "%s: as of %v ago, refreshed in %v, %d bytes, about %d rows", v.View,
			v.Age.Round(time.Second), v.Duration.Round(time.Millisecond), v.Bytes, v.Rows)
	}
	return b.String()
}
