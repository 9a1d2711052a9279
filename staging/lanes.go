package staging

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
)

// A lane is a pair of staging tables with their registries. A batch belongs to one lane, and one
// promoter at a time works in a lane. Promotions of different lanes meet in the ledger, in the
// target, and in what merges write. They wait for each other there, and all in one order, so no two
// wait for each other in a circle:
//
//   - the sides of a lane, which no other lane needs;
//   - batch ids in the ledger, sorted;
//   - the turn of the target: shared by promotions that write as below, or alone;
//   - keys of the target, sorted, in one statement;
//   - the groups of merges, after all keys, each merge in the order of its own key.
//
// A promotion that cannot keep the order of keys and groups writes while none of the others does:
// it takes the turn alone. It does so before it has written anything, or after a savepoint has
// rolled back what it has written, together with its share of the turn.

// laneState is what a program knows of a lane.
type laneState struct {
	hint    atomic.Int32              // the side that was open when this program last looked
	working atomic.Int32              // promotions of this program in the lane
	failing atomic.Bool               // the last promotion, as far as this program knows, has failed
	digest  [2]atomic.Pointer[string] // of the columns of a side that were compared last
}

// Lanes returns the number of lanes that the target had when this program was started, at least 1.
// As many promotions can run at once.
func (t *table) Lanes() int { return len(t.lane) }

// readLanes finds out how many lanes a target has, and names all its tables. The tables that are
// there are the record of their number.
func (t *table) readLanes(ctx context.Context, q *pgx.Conn, target pgschema.Name) error {
	var registries []string
	for lane := 1; lane < MaxLanes; lane++ {
		registries = append(registries, target.With("_registry_"+side(2*lane).String()).Table)
	}
	r, err := sendOne(ctx, q, missingTables.with(args{"schema": target.Schema, "names": namesText(registries)}))
	if err != nil {
		return t.explain("looking for the lanes of "+target.String(), err)
	}
	t.found = MaxLanes - len(r.Rows)
	lanes := max(1, t.cfg.Lanes, t.found)
	t.names, t.lane, t.whole = newNames(target, lanes), make([]laneState, lanes), make(chan struct{}, 1)
	t.setHint("")
	return nil
}

// checkLanes returns an error for a target that cannot have several lanes.
func (t *table) checkLanes(ctx context.Context, q *pgx.Conn) error {
	if len(t.lane) == 1 {
		return nil
	}
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s has %d lanes (Config.Lanes): "+format, append([]any{ErrConfig, t.target, len(t.lane)}, a...)...)
	}
	if t.cfg.Role.onTarget() && t.cfg.Conflict == ConflictReplace && t.cfg.Newer == "" && t.cfg.ReplaceIf == "" {
		return bad("Config.Newer and ReplaceIf are empty, must choose between rows of one key, because batches of two lanes have no order")
	}
	if t.cfg.Lanes <= t.found { // a constraint that is newer than the lanes: see checkGuards
		return nil
	}
	r, err := sendOne(ctx, q, t.sql.refersToItself.with(nil))
	if err != nil {
		return t.explain("reading the foreign keys of "+t.target, err)
	}
	if names := r.texts("name"); len(names) > 0 {
		return bad("the foreign key %s refers to the table itself, must not be, because a row's parent may come in another lane", names[0])
	}
	return nil
}

// checkGroup returns an error if lanes would be added to a member of a group, which has one.
func (t *table) checkGroup(ctx context.Context, q *pgx.Conn, missing []string) error {
	if t.cfg.Lanes <= t.found || slices.ContainsFunc([]string{"_registry_a", "_registry_b", "_ledger"}, func(s string) bool { return slices.Contains(missing, t.name.With(s).Table) }) {
		return nil
	}
	r, err := sendOne(ctx, q, fill("group_batches", pieces{"registry_a": t.registry[sideA], "registry_b": t.registry[sideB], "ledger": t.ledger}).with(nil))
	if err != nil {
		return t.explain("looking for batches of a group in "+t.target, err)
	}
	if r.row(0).bool("any") {
		return fmt.Errorf("%w: Config.Lanes is %d, must be at most 1: %s has batches of a group, whose tables have one lane each", ErrConfig, t.cfg.Lanes, t.target)
	}
	return nil
}

// laneOf is the lane of a batch. A batch that is delivered again comes into the same lane, unless
// the number of lanes has changed: then it may be staged twice, and the ledger takes one of the
// two.
func (t *table) laneOf(id string) int {
	n := min(len(t.lane), max(1, int(t.used.Load())))
	if t.cfg.Lanes > 0 {
		n = min(n, t.cfg.Lanes)
	}
	u, ok := parseUUID(id)
	if !ok || n == 1 {
		return 0
	}
	// All of the id: that of a queue's batch ends in the slot of the queue, and begins with the time.
	h := fnv.New64a()
	h.Write(u[:]) //nolint:errcheck // documented never to return an error
	return int(h.Sum64() % uint64(n))
}

// usedLanes is the number of lanes into which batches are staged: those before the retired ones.
func usedLanes(open string) int { return len(strings.TrimRight(open, "r")) }

// retired is true for a lane that takes no more batches, or is gone.
func retired(open string, lane int) bool { return lane > 0 && lane >= usedLanes(open) }

// isGone is true for the error of a statement on the tables of a lane that RetireLanes may have
// dropped.
func isGone(err error, lane int) bool { return lane > 0 && sqlState(err) == undefinedTable }

// gone returns nil if lanes whose tables were not found have been taken away.
func (t *table) gone(open string, missing []int) error {
	for _, lane := range missing {
		if lane < len(open) {
			return fmt.Errorf("%w: the tables of lane %d of %s are missing; restore them, or call RetireLanes", ErrDrift, lane+1, t.target)
		}
	}
	return nil
}

// eachSide calls read for the sides of the lanes from first to the one before end. It returns the
// lanes whose tables were not found.
func eachSide(first, end int, read func(s side) error) (missing []int, err error) {
	for s := side(2 * first); s < side(2*end); s++ {
		switch err := read(s); {
		case isGone(err, s.lane()):
			missing = append(missing, s.lane())
		case err != nil:
			return nil, err
		}
	}
	return missing, nil
}

// ofRegistry is a statement that names nothing but the registry of a side. A side may be newer than
// this program.
func (t *table) ofRegistry(s side, name string) statement {
	return fill(name, pieces{"registry": t.name.With("_registry_" + s.String()).String()})
}

// outgrown returns an error if another program has added lanes since this one was started: their
// batches would not be promoted, and would seem lost.
func (t *table) outgrown(open string) error {
	if len(open) <= len(t.lane) {
		return nil
	}
	return fmt.Errorf("%w: %s has %d lanes now, and this program was started with %d: start it again", ErrDrift, t.target, len(open), len(t.lane))
}

// laneWait is how long a promotion of several lanes waits for a row or for its turn. Another
// promotion may have it until it commits. One that is frozen is ended after Config.IdleTimeout.
const laneWait = time.Minute

// rowTimeout is how long a promotion waits for a row of another transaction.
func (t *table) rowTimeout() time.Duration {
	if len(t.lane) == 1 {
		return t.cfg.LockTimeout
	}
	return max(t.cfg.LockTimeout, laneWait)
}

// takeTurnAlone waits until no promotion of another lane writes into the target, and keeps them
// from it until the commit. What this promotion wrote before must have been rolled back.
func (p *promotion) takeTurnAlone(ctx context.Context) error {
	if len(p.t.lane) == 1 || p.alone {
		return nil
	}
	if err := p.waitFor(ctx, p.t.sql.turnAlone); err != nil {
		return err
	}
	p.alone = true
	return p.t.at("turn alone")
}

// shareTurn waits until no promotion has the turn alone. It is called after a savepoint: to go
// back there gives the share up.
func (p *promotion) shareTurn(ctx context.Context) error {
	if len(p.t.lane) == 1 || p.alone {
		return nil
	}
	return p.waitFor(ctx, p.t.sql.turn)
}

// waitFor gets a turn. If it does not, the promotion is not to blame: fewer rows would not help.
func (p *promotion) waitFor(ctx context.Context, turn statement) error {
	p.waits = true
	_, err := sendOne(ctx, p.q, turn.with(nil))
	p.waits = err != nil
	return err
}

// waitSamples is how often a promotion with a timeout is looked at.
const waitSamples = 8

// waitQuery reports whether a process waits for another transaction.
const waitQuery = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1::int4 AND NOT granted) AS waits"

// watchWaits finds out whether a promotion with a timeout spends at least half of it waiting for
// what other lanes have written: ids in the ledger, keys, groups of merges. Such a promotion is not
// too slow. The server keeps no sum of these waits, so samples are taken on another connection.
func (p *promotion) watchWaits(ctx context.Context) (stop func()) {
	deadline, ok := ctx.Deadline()
	interval := time.Until(deadline) / waitSamples
	if !ok || len(p.t.lane) == 1 || interval <= 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	samples, waits, done := 0, 0, make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if waiting, err := p.t.waiting(ctx, p.backend); err == nil {
				samples++
				if waiting {
					waits++
				}
			}
		}
	}()
	return func() {
		cancel()
		<-done
		p.waits = p.waits || samples > 0 && 2*waits >= samples
	}
}

func (t *table) waiting(ctx context.Context, backend int64) (bool, error) {
	c, err := acquire(ctx, t.pool)
	if err != nil {
		return false, err
	}
	defer c.Release()
	// Cancelling the query would close the connection, and it ends in a moment anyway.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	r, err := t.inOwn(ctx, c.Conn(), reads, do(waitQuery, text(backend)))
	if err != nil {
		return false, err
	}
	return r.row(0).bool("waits"), nil
}

// ordered is true for a promotion that writes its keys in one statement, sorted, and nothing but
// its merges after them. A trigger, a second unique index or a statement after the merges waits
// in an order of its own. So do the rows of one suspect record, which are tried together.
func (p *promotion) ordered() bool {
	if p.guarded || p.beforeRow || p.byBatch || p.multi && len(p.suspects) > 0 {
		return false
	}
	for _, m := range p.t.cfg.Merges {
		if m.Then != "" {
			return false
		}
	}
	return true
}

// order takes the turn alone where the promotion cannot keep the order of keys and groups.
func (p *promotion) order(ctx context.Context) error {
	if p.expect == 0 || p.ordered() {
		return nil
	}
	return p.takeTurnAlone(ctx)
}

// mayYield is true where the insert can still be tried in a way that leaves keys to other lanes.
func (p *promotion) mayYield() bool {
	return len(p.t.lane) > 1 && !p.yielding && p.sql().insertYield.text != ""
}

// idlest lists the lanes, those first in which this program has the fewest promotions at work.
func (t *table) idlest() []int {
	lanes := make([]int, len(t.lane))
	start := int(t.turns.Add(1))
	for i := range lanes {
		lanes[i] = (start + i) % len(lanes)
	}
	slices.SortStableFunc(lanes, func(a, b int) int { return cmp.Compare(t.lane[a].working.Load(), t.lane[b].working.Load()) })
	return lanes
}

// laneTarget promotes one lane of a table, or whichever is free.
type laneTarget struct {
	*table
	lane int // -1: whichever
	last int // the lane that was promoted last
}
