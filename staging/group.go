package staging

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Member is a table of a group, with the function that makes its rows from a record. [Into]
// returns one.
type Member[R any] struct{ in member[R] }

// Into makes a table a member of a group: rows returns the rows that a record has in it: none, one
// or several. It runs on the hot path, once for each record of a batch that is staged.
func Into[R, T any](table *Table[T], rows func(R) []T) Member[R] {
	return Member[R]{&into[R, T]{table, rows}}
}

// into is a member with the type of its rows.
type into[R, T any] struct {
	t    *Table[T]
	rows func(R) []T
}

// member is a member of a group, whatever the type of its rows.
type member[R any] interface {
	table() groupTable
	open(l *Load[R]) memberLoad[R]
}

func (m *into[R, T]) table() groupTable {
	if m.t == nil || m.rows == nil {
		return nil
	}
	return &m.t.table
}

// groupTable is what a group uses of a [Table].
type groupTable interface {
	holder
	Void(ctx context.Context, b Batch) (Fate, error)
	RejectedKeys(ctx context.Context, ids []string) (map[string][]Reject, error)
	RejectsByBatch(ctx context.Context, ids []string) (map[string][]Reject, error)
	Rejects(ctx context.Context, f RejectFilter) ([]StoredReject, error)
	StageCounts(ctx context.Context, since time.Time) ([]StageCount, error)
	Clock(ctx context.Context) (time.Time, error)
	Advise(ctx context.Context) ([]Advice, error)
	CodeCounts(ctx context.Context) ([]CodeCount, error)
	FindKey(ctx context.Context, key string) (FoundKey, error)
	FindBatches(ctx context.Context, ids ...string) (FoundBatches, error)
	FindSealed(ctx context.Context, from, to time.Time, limit int) (SealedBatches, error)
	view() tableView
	lackingNow() (role string, lacks []pgschema.Lack)
	beginning(m mode) []call
	findFatal(ctx context.Context, limit int64) (fatalRecords, error)
	inSlices(ctx context.Context, q *pgx.Conn, locks, calls []call, between func() error) ([]result, error)
	registeredAt(ctx context.Context, q *pgx.Conn, s statement, ids []string, wait time.Duration) (result, error)
	inOwn(ctx context.Context, q *pgx.Conn, m mode, c call) (result, error)
	rollback(q *pgx.Conn)
	commit(ctx context.Context, q *pgx.Conn, last string) error
	commitDurably(ctx context.Context, q *pgx.Conn, last string) error
	confirm(ctx context.Context, q *pgx.Conn) error
	confirmed(ctx context.Context, u *unconfirmed) (PromoteResult, bool, error)
	confirmOutcome(ctx context.Context, q *pgx.Conn, out Outcome) error
	query(ctx context.Context, c call) (pgx.Rows, error)
	mark(ctx context.Context, q *pgx.Conn) (string, error)
	checkStage(ctx context.Context, q *pgx.Conn, s side, digest string) error
	controlRow(r result) (record, error)
	openSides(r result) (string, error)
	copyRejects(ctx context.Context, q *pgx.Conn, s side, no int32, rejects []Reject) error
	statsBy(ctx context.Context, leader string) (Stats, error)
	noteOutcome(ctx context.Context, lane int, outcome error)
	Prune(ctx context.Context, before time.Time) (int, error)
	begin(ctx context.Context, m mode) (*pgxpool.Conn, error)
	share(q *pgx.Conn, s side, leader string, how manner) share
}

// tableView is what a group reads of a table.
type tableView struct {
	pool       *pgxpool.Pool
	names      *names
	sql        *statements
	searchPath string
	columns    []string
	failing    *atomic.Bool
}

func (t *table) view() tableView {
	return tableView{t.pool, &t.names, &t.sql, t.searchPath, t.colNames, &t.lane[0].failing}
}

// A TableGroup stages and promotes several tables as one: a record has rows in each of them, and is
// kept in all or in none. It has the methods of a [Table], except StageTx. This type is concurrency
// safe.
type TableGroup[R any] struct {
	members     []member[R]
	tables      []groupTable // of the members
	views       []tableView
	byName      []int                 // the tables in the order in which their locks are taken
	leader      string                // begins the list of tables
	list        string                // the tables, as the registries name them
	err         error                 // the error of Group
	parents     atomic.Pointer[[]int] // the tables, parents before children, as Check has found them
	hint        atomic.Int32          // the side that was open when this program last looked
	pace        pace
	cutOffs     cutOffs     // batches whose COPY took too long
	unconfirmed unconfirmed // as in Table

	hook func(point string) error // tests stop, fail or kill here
}

// separator separates the tables of a list. It is in no list of one table: a name is quoted.
const separator = " + "

// mostMembers bounds a group, because the id of a reject holds the number of its table.
const mostMembers = 64

// Group makes several tables act as one. The first leads the group: its ledger is the one that
// decides, and it leads no other group. An error of the configuration is returned by
// [TableGroup.Validate], by [TableGroup.Check] and by every other call of the group.
//
// Drain the queue (Flow.Drain of package pipeline) and stop the old programs before you make a
// group of a table that batches were staged into alone, before you add a member, and before you let
// another one lead. Registries and ledgers record for which tables each batch was staged. A batch
// that was staged for other tables and missed by the drain is not treated as complete: Stage and
// Void return [ErrConfig] with both lists of tables, and it stays in the queue. Programs with the
// previous members can still process it. [DiscardStaged] gives what is staged and not promoted back
// to the queue. A group with only some of the tables treats as promoted what was promoted into all
// of them.
func Group[R any](members ...Member[R]) *TableGroup[R] {
	g := &TableGroup[R]{}
	bad := func(format string, args ...any) *TableGroup[R] {
		g.err = fmt.Errorf("%w: Group: "+format, append([]any{ErrConfig}, args...)...)
		return g
	}
	if len(members) == 0 || len(members) > mostMembers {
		return bad("%d members, must be 1 to %d", len(members), mostMembers)
	}
	var names []string
	for i, m := range members {
		if m.in == nil || m.in.table() == nil {
			return bad("member %d has a nil table or function, must have both", i+1)
		}
		t := m.in.table()
		v := t.view()
		switch {
		case slices.Contains(names, v.names.target):
			return bad("table %s is a member twice, must be one member that makes all its rows", v.names.target)
		case len(v.sql.lane) > 1:
			return bad("table %s has %d lanes (Config.Lanes), must have 1 (RetireLanes takes the others away)", v.names.target, len(v.sql.lane))
		case i > 0 && v.searchPath != g.views[0].searchPath:
			return bad("table %s was opened with search_path %q, must be %q like %s", v.names.target, v.searchPath, g.views[0].searchPath, names[0])
		}
		g.members, g.tables, g.views = append(g.members, m.in), append(g.tables, t), append(g.views, v)
		names, g.byName = append(names, v.names.target), append(g.byName, i)
	}
	slices.SortFunc(g.byName, func(a, b int) int { return cmp.Compare(names[a], names[b]) })
	g.leader = names[0] + separator
	g.list = g.leader + strings.Join(names[1:], separator)
	return g
}

// lead is the table that leads the group.
func (g *TableGroup[R]) lead() groupTable { return g.tables[0] }

// Name returns the quoted names of the targets with their schemas, joined by " + ".
func (g *TableGroup[R]) Name() string {
	if g.err != nil {
		return ""
	}
	return strings.TrimSuffix(g.list, separator)
}

// whereQuery identifies a database.
const whereQuery = "SELECT system_identifier::text AS server, current_database()::text AS database FROM pg_control_system()"

// Validate checks the group as far as possible without a server: the number of its members, that
// each is a member once, and that it has one lane. The constructors of package pipeline call it.
func (g *TableGroup[R]) Validate() error {
	if g.err == nil && len(g.tables) == 0 {
		return fmt.Errorf("%w: the TableGroup is empty, must come from Group", ErrConfig)
	}
	return g.err
}

// Check returns an error that wraps [ErrConfig] if the tables cannot be one group: each is a member
// once, all are in one database, and no foreign keys between them form a cycle. Every other call
// checks the same once.
func (g *TableGroup[R]) Check(ctx context.Context) error {
	if err := g.Validate(); err != nil || g.parents.Load() != nil {
		return err
	}
	var home string
	for i, v := range g.views {
		if i > 0 && v.pool == g.views[0].pool {
			continue
		}
		at, err := where(ctx, v.pool)
		switch {
		case err != nil:
			return g.tables[i].explain("identifying the database of "+v.names.target, err)
		case i == 0:
			home = at
		case at != home:
			return fmt.Errorf("%w: Group: table %s is in %s, must be in %s like %s", ErrConfig, v.names.target, at, home, g.views[0].names.target)
		}
	}
	c, err := acquire(ctx, g.views[0].pool)
	if err != nil {
		return fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	r, err := g.lead().inOwn(ctx, c.Conn(), reads, g.parentsCall())
	if err != nil {
		return g.explain("reading the foreign keys of "+g.Name(), err)
	}
	order, err := g.parentsFirst(r)
	if err != nil {
		return err
	}
	g.parents.Store(&order)
	return nil
}

func where(ctx context.Context, pool *pgxpool.Pool) (string, error) {
	c, err := acquire(ctx, pool)
	if err != nil {
		return "", err
	}
	defer c.Release()
	r, err := sendOne(ctx, c.Conn(), do(whereQuery))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("database %q of server %s", r.row(0).text("database"), r.row(0).text("server")), nil
}

var groupParents = fill("group_parents", nil)

// parentsCall reads the foreign keys between the tables.
func (g *TableGroup[R]) parentsCall() call {
	var targets []string
	for _, v := range g.views {
		targets = append(targets, v.names.target)
	}
	return groupParents.with(args{"targets": namesText(targets)})
}

// parentsFirst sorts the tables so that each comes after those that it refers to, and otherwise as
// they were given.
func (g *TableGroup[R]) parentsFirst(r result) ([]int, error) {
	parents := make([][]int, len(g.tables))
	for row := range r.each() {
		child := row.int("child") - 1
		parents[child] = append(parents[child], int(row.int("parent")-1))
	}
	var order []int
	for len(order) < len(g.tables) {
		next := slices.IndexFunc(parents, func(of []int) bool {
			return !slices.ContainsFunc(of, func(p int) bool { return !slices.Contains(order, p) })
		})
		if next < 0 {
			return nil, fmt.Errorf("%w: Group: foreign keys of %s form a cycle, must have an order, parents before children", ErrConfig, g.Name())
		}
		order = append(order, next)
		parents[next] = []int{-1} // not again
	}
	return order, nil
}

// explain wraps an error from Postgres with what was being done. What is missing may concern any of
// the tables.
func (g *TableGroup[R]) explain(doing string, err error) error {
	if sqlState(err) != insufficientPrivilege {
		return g.lead().explain(doing, err)
	}
	var role string
	var lacks []pgschema.Lack
	for _, t := range g.tables {
		to, more := t.lackingNow()
		role, lacks = cmp.Or(to, role), append(lacks, more...)
	}
	return unprivileged(doing, err, role, lacks)
}

// at runs the tests' hook.
func (g *TableGroup[R]) at(point string) error {
	if g.hook == nil {
		return nil
	}
	return g.hook(point)
}
