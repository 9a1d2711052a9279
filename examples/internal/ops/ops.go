// Package ops reads a pipeline by the names of its queue and its table, without its row type. It
// runs no DDL and needs no more than SELECT.
package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

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

	pool    *pgxpool.Pool
	names   Names
	signals *pipeline.Signals // what programs have reported as stuck
}

// Names are the names by which a pipeline is found.
type Names struct {
	Queue string // of the queue, and of its dedup window
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
	if p.signals, err = pipeline.NewSignals(redis, names.Queue); err != nil {
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
	Queue  string
	Table  string // the table's name; "" if the database has no such table yet
	Window int64  // ids in the dedup window, estimated
	Views  []View
	// Windows are those that the caller has asked for by [Windows].
	Windows []Window
}

// Stats reads the state of the pipeline.
func (p *Pipeline) Stats(ctx context.Context) (Stats, error) {
	s := Stats{At: time.Now(), Queue: p.names.Queue}
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
	flow := pipeline.Flow[struct{}]{Queue: p.Queue, Chain: pass, Table: p.Ledger, Signals: p.signals}
	if s.Books, err = flow.Books(ctx); err != nil {
		return s, err
	}
	s.Views, err = Views(ctx, p.pool, p.names.Views)
	return s, err
}

// View is the state of a materialized view.
type View struct {
	Name        string     `json:"view"`
	Populated   bool       `json:"populated"`
	RefreshedAt *time.Time `json:"refreshed_at"` // nil: never
	AsOf        *time.Time `json:"as_of"`        // the view holds everything that was committed before; nil: unknown
	AgeSeconds  float64    `json:"age_seconds"`  // since AsOf, by the server's clock
	Seconds     float64    `json:"refresh_seconds"`
	Refreshes   int64      `json:"refreshes"`
	Bytes       int64      `json:"bytes"`
	Rows        int64      `json:"rows"` // the planner's estimate; -1: unknown
}

// Text is the state of the view in one sentence.
func (v View) Text() string {
	if !v.Populated {
		return v.Name + ": never refreshed"
	}
	return fmt.Sprintf("%s: as of %.0f s ago, refreshed in %.3f s, %d bytes, about %d rows", v.Name, v.AgeSeconds, v.Seconds, v.Bytes, v.Rows)
}

// Views describes the views of a set of package matview. A set that does not exist has none.
func Views(ctx context.Context, pool *pgxpool.Pool, set string) ([]View, error) {
	views := []View{}
	r, err := matview.Open(ctx, pool, set, matview.Config{})
	if errors.Is(err, matview.ErrMissing) {
		return views, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := r.Freshness(ctx)
	for _, f := range list {
		v := View{
			Name: f.View, Populated: f.Populated, AgeSeconds: f.Age.Seconds(), Seconds: f.Duration.Seconds(),
			Refreshes: f.Refreshes, Bytes: f.Bytes, Rows: f.Rows,
		}
		if !f.RefreshedAt.IsZero() {
			v.RefreshedAt = &f.RefreshedAt
		}
		if !f.AsOf.IsZero() {
			v.AsOf = &f.AsOf
		}
		views = append(views, v)
	}
	return views, err
}

// Balanced returns nil, or an error that names the line of the books that is off and by how much.
func (s Stats) Balanced() error {
	err := s.Books.Balanced()
	if q := s.Books.Redis; err != nil && q.Taken == 0 && s.Books.Postgres.Batches > 0 {
		err = fmt.Errorf("%w: no record was ever taken from the queue %s, so it may not be the queue of the table %s (--queue, --table)", err, s.Queue, s.Table)
	}
	for _, w := range s.Windows {
		err = errors.Join(err, w.off)
	}
	return err
}

// MarshalJSON prints the state as the command line documents it.
func (s Stats) MarshalJSON() ([]byte, error) {
	type line struct {
		Name      string `json:"name"`
		Imbalance int64  `json:"imbalance"`
		Sum       string `json:"sum"`
	}
	lines := []line{}
	for i, l := range s.Books.Lines() {
		if s.Table != "" || i == 0 {
			lines = append(lines, line{l.Name, l.Imbalance(), l.Sum})
		}
	}
	type stage struct {
		Name       string `json:"name"`
		Entered    int64  `json:"entered"`
		Duplicates int64  `json:"duplicates"`
		Filtered   int64  `json:"filtered"`
		Rejected   int64  `json:"rejected"`
	}
	stages := []stage{}
	for _, x := range s.Books.Stages {
		stages = append(stages, stage{x.Stage, x.Entered, x.Duplicates, x.Filtered, x.Rejected})
	}
	stalls := append([]pipeline.Stall{}, s.Books.Stalls...)
	q, t := s.Books.Redis, s.Books.Postgres
	queue := map[string]any{
		"ready": q.Ready, "delayed": q.Delayed, "in_flight": q.InFlight, "handed_off": q.HandedOff, "dead": q.Dead,
		"taken": q.Taken, "acked": q.Acked, "discarded": q.Discarded, "redelivered": q.Redelivered, "requeued": q.Requeued,
		"splits": q.Splits, "oldest_seconds": q.OldestAge.Seconds(), "paused": q.Paused,
	}
	var table any
	if s.Table != "" {
		table = map[string]any{
			"name": s.Table, "batches": t.Batches, "void": t.Void, "records": t.Records, "kept": t.Kept, "duplicates": t.Duplicates,
			"filtered": t.Filtered, "rejected": t.Rejected, "staged": t.Staged, "rows": t.Rows, "conflicts": t.Conflicts,
			"rejected_by_rule": t.RejectedByRule,
		}
	}
	views := s.Views
	if views == nil {
		views = []View{}
	}
	return json.Marshal(map[string]any{
		"at": s.At, "balanced": s.Balanced() == nil, "quiet": s.Books.Quiet, "unacked": s.Books.Unacked, "books": lines, "stages": stages, "stalls": stalls,
		"queue": queue, "table": table, "window": s.Window, "views": views, "windows": append([]Window{}, s.Windows...),
	})
}

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
	for _, x := range s.Books.Stages {
		line("stage", "%s: entered %d, duplicates %d, filtered %d, rejected %d, passed %d", x.Stage, x.Entered, x.Duplicates, x.Filtered, x.Rejected, x.Passed())
	}
	if err := s.Books.Stuck(); err != nil {
		line("stuck", "%v", err)
	}
	for _, v := range s.Views {
		line("view", "%s", v.Text())
	}
	for _, w := range s.Windows {
		line("windows", "%s", w.Text())
	}
	return b.String()
}
