package staging

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

// promotion is one promotion transaction.
type promotion struct {
	t *table
	progress
}

// progress is what a promotion knows and has done, whatever the type of its rows.
type progress struct {
	q         *pgx.Conn
	s         side
	out       PromoteResult
	leader    string            // takes the batches of the group that this table leads; empty: those of the table alone
	locked    bool              // the side and the target
	backend   int64             // process of the server
	found     int               // batches in the side's registry that this promotion may take
	others    int               // batches of another kind there: they stay
	list      []*staged         // the batches that were found
	counts    map[int32]int64   // staged rows by batch
	early     map[int32]int64   // records that were rejected before they were staged, by batch
	partial   bool              // the side holds more batches than this transaction settles
	otherFull bool              // the other side, or another lane, held batches when this promotion began
	take      map[int32]*staged // batches that this transaction commits, by number
	chosen    []int32           // numbers of all batches that it settles
	every     bool              // the side holds nothing but what is taken
	multi     bool              // a record has several rows
	expect    int64             // rows of the taken batches
	lo, hi    string            // the least and the greatest key in the side, if known
	blind     bool              // the insert does not look for keys that are there
	again     bool              // records that lacked their parents are tried again
	each      bool              // row by row, by the program
	inOrder   bool              // rows of one key are tried one after the other
	clash     int64             // the first record whose key was there, if known
	clashed   bool              // it is known

	beforeRow   bool     // a trigger runs before a row is written
	children    bool     // the target has child tables, whose keys its index does not have
	suppress    bool     // rows that such a trigger drops are looked for
	guarded     bool     // something besides the key can refuse a row
	triggers    bool     // the target has triggers
	parentsCome bool     // a row's parent may come with this promotion
	suspects    []string // conditions of rows that the target's constraints will probably refuse
	orphans     []string // in a group: conditions of rows whose parent is neither in the target nor staged
	suspicions  []suspicion
	target      int64 // the target's oid

	written   int64           // rows that the target has taken
	refused   int64           // rows that a rule or the target has rejected, or that went with their record
	dropped   int64           // of these, rows that went with their record
	postponed int64           // rows that lack their parent
	judged    int64           // rows that were refused record by record
	lastPass  bool            // no longer postponed
	alone     bool            // no promotion of another lane writes until the commit
	waits     bool            // for other promotions: for its turn, or for what they have written
	yielding  bool            // the insert leaves a key to another lane that writes it meanwhile
	byBatch   bool            // batch by batch, to count each batch's conflicts
	wroteBy   map[int32]int64 // rows written, by batch

	fatal   fatalRecords   // known to end the session
	times   statementTimes // of a promotion that looks for slow records
	late    []recordSpan   // records that were too slow alone, to be tried again
	lastTry bool           // this is done now
	inTime  int            // statements that kept to the limit
	slow    bool           // one of them was rejected

	soft     int64 // rows rejected for a reason that may be the surroundings'
	softSeen int   // records that the program has tried itself
	softErr  error // one of their errors
}

// sql returns the statements of the promotion's side.
func (p *promotion) sql() *sideStatements { return &p.t.sql.side[p.s] }

// staged is a row of the registry.
type staged struct {
	no                                           int32
	id, tables                                   string
	rows, rejected, records, kept, dups, filters int64
	conflicts, ruled                             int64
}

// Promote moves staged batches into the target: one transaction, whole batches, each exactly once.
// With nothing staged, PromoteResult has no batches. Call Promote again while PromoteResult.More is
// set. Promoters of one lane take turns; calls for different lanes run at the same time. A promoter
// that gets no turn within Config.LockTimeout returns [ErrBusy]. A promotion that exceeds its
// Timeout changes nothing, and the next one takes half as many rows. After two such promotions in a
// row, the next ones with a Timeout of at least 8 s look for records that take too long alone, such
// as those on which a trigger never ends, and reject them. After two promotions in a row that lost
// their connection, and without lanes, records that end the session are rejected too. If no
// synchronous standby confirms the commit, Promote returns [ErrNotDurable]. The next call then
// returns the result of this promotion, as soon as it is confirmed.
func (t *table) Promote(ctx context.Context, o PromoteOptions) (PromoteResult, error) {
	if o.Lane < 0 || o.Lane > len(t.lane) {
		return PromoteResult{}, fmt.Errorf("%w: PromoteOptions.Lane is %d, must be 0 to %d", ErrConfig, o.Lane, len(t.lane))
	}
	if len(t.lane) > 1 && t.alone() {
		waited, err := t.waitForWhole(ctx, o.Timeout)
		if err != nil {
			return PromoteResult{}, err
		}
		defer func() { <-t.whole }()
		if o.Timeout > 0 {
			o.Timeout -= waited
		}
	}
	l := &laneTarget{table: t, lane: o.Lane - 1, last: max(0, o.Lane-1)}
	out, err := attempts(ctx, o, &t.pace, &t.unconfirmed, l)
	if !errors.Is(err, ErrConfig) {
		t.noteOutcome(ctx, l.last, err)
	}
	return out, err
}

// waitForWhole waits until no other promotion of this program locks the target: promotions that do
// so go one after the other, and need not wait in the server. It leaves at least half of a timeout
// to the promotion.
func (t *table) waitForWhole(ctx context.Context, timeout time.Duration) (waited time.Duration, err error) {
	begun, wait := time.Now(), t.rowTimeout()
	if timeout > 0 {
		wait = min(wait, timeout/2)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case t.whole <- struct{}{}:
		return min(time.Since(begun), wait), nil
	case <-timer.C:
		return 0, fmt.Errorf("%w: promoting into %s: a promotion of another lane locks it", ErrBusy, t.target)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// attempt is the result of one attempt to promote.
type attempt struct {
	out     PromoteResult
	found   int   // batches in the side
	settled int   // batches that the try has settled
	expect  int64 // rows of the batches that it took
	locked  bool  // it has taken the locks on its side
	gone    bool  // its lane was taken away before
	waits   bool  // it has ended while it waited for promotions of other lanes
	slow    bool  // it has rejected records that took too long
	lost    bool  // its connection, before the commit
	learn   func()
	resolve func(ctx context.Context) (done bool, err error) // after a commit with an unknown outcome; err: ErrNotDurable
}

// target is what is promoted into: a table, or the tables of a group.
type target interface {
	holder
	promoteOnce(ctx context.Context, how manner) (attempt, error)
	confirmed(ctx context.Context, u *unconfirmed) (PromoteResult, bool, error)
}

// manner is how one attempt to promote proceeds.
type manner struct {
	limit   int64 // rows
	byBatch bool  // batch by batch, to count each batch's conflicts
	times   statementTimes
	trial   bool // records are tried first, because promotions have lost their connection
}

// holder is what a promotion may have to wait for.
type holder interface {
	Name() string
	endStalled(ctx context.Context) (int, error)
	busy(ctx context.Context, err error) error
	explain(doing string, err error) error
}

// mostTries is how often one call promotes again after its first try.
const mostTries = 5

// attempts promotes until it has an outcome. pace is what earlier calls have learned. early are
// their results that were not confirmed.
func attempts(ctx context.Context, o PromoteOptions, pace *pace, early *unconfirmed, t target) (PromoteResult, error) {
	if o.MaxRows < 0 || o.Timeout < 0 {
		return PromoteResult{}, fmt.Errorf("%w: PromoteOptions.MaxRows is %d, Timeout %v, must not be negative", ErrConfig, o.MaxRows, o.Timeout)
	}
	limit := int64(cmp.Or(o.MaxRows, DefaultMaxRows))
	if b := pace.bound.Load(); b > 0 {
		limit = min(limit, b)
	}
	inner := ctx
	if o.Timeout > 0 {
		var cancel context.CancelFunc
		inner, cancel = context.WithTimeout(ctx, o.Timeout)
		defer cancel()
	}
	switch out, ok, err := t.confirmed(inner, early); {
	case err != nil:
		return PromoteResult{}, t.explain("promoting into "+t.Name(), err)
	case ok:
		return out, nil
	}
	begun := time.Now()
	how := manner{limit: limit, times: pace.statementTimes(inner, o.Timeout), trial: pace.losses.Load() >= lostBeforeTrial}
	for try := 0; ; try++ {
		a, err := t.promoteOnce(inner, how)
		half := max(1, min(limit, max(a.expect, 2))/2) // of the rows, for the next one
		if a.lost {
			pace.lost(half)
		}
		if err == nil {
			if a.settled == 0 && a.found > 0 && try < mostTries {
				continue // another promoter has promoted them meanwhile
			}
			a.learn()
			pace.passed(time.Since(begun), o.Timeout, a.slow)
			return a.out, nil
		}
		switch {
		case errors.Is(err, ErrNotDurable): // done, but nothing may be acknowledged yet
			early.add(a.out)
		// Its time has passed. Why?
		case a.waits && ctx.Err() == nil && (sqlState(err) == lockNotAvailable || tookTooLong(err) || inner.Err() != nil):
			return PromoteResult{}, fmt.Errorf("%w: promoting into %s: a promotion of another lane writes into it: %w", ErrBusy, t.Name(), err)
		case errors.Is(err, errAllSlow), how.times.record > 0 && errors.Is(err, ErrMerge): // no record is at fault
			pace.giveTime()
		case tookTooLong(err) || o.Timeout > 0 && inner.Err() != nil && ctx.Err() == nil:
			pace.tookTooLong(half, err)
			return PromoteResult{}, &contextError{"promoting into " + t.Name() + " took too long, or too much of the server; the next promotion takes fewer rows", err, ""}
		// There is time left. Is it worth another try?
		case try >= mostTries || ctx.Err() != nil:
		case a.gone: // the lane was retired
			continue
		case errors.Is(err, ErrUnknown):
			done, rerr := a.resolve(inner)
			if done {
				return a.out, nil
			}
			if rerr == nil {
				continue // the commit has failed
			}
			early.add(a.out)
			err = rerr
		case errors.Is(err, errRecount) && !how.byBatch:
			how.byBatch = true
			continue
		case sqlState(err) == deadlockDetected, sqlState(err) == serializationFailure, errors.Is(err, errUnjudged), errors.Is(err, errNotKept), staleSession(err):
			continue
		// A lock: of a row that it was about to write, or of the side.
		case sqlState(err) == lockNotAvailable && a.locked:
			return PromoteResult{}, fmt.Errorf("%w: promoting into %s: another transaction has written one of its batches, keys or groups, and has not ended: %w", ErrBusy, t.Name(), err)
		case sqlState(err) == lockNotAvailable:
			ended, eerr := t.endStalled(inner)
			if eerr != nil {
				return PromoteResult{}, t.explain("ending workers that are stalled in their COPY into "+t.Name(), eerr)
			}
			if ended > 0 {
				continue
			}
			return PromoteResult{}, t.busy(inner, err)
		}
		return PromoteResult{}, t.explain("promoting into "+t.Name(), err)
	}
}

// tookTooLong is true for the server's own timeouts and for limits on temporary files, memory,
// locks and the disk: fewer rows help, and fewer partitions are locked. Where the disk is full, a
// smaller sort may still fit, and the next failure leaves fewer dead rows.
func tookTooLong(err error) bool {
	switch sqlState(err) {
	case queryCanceled, "25P04", "53400", "53200", "53100":
		return verdictOf(err) == verdictSurroundings
	}
	return false
}

// promoteOnce finds a side that is not empty and promotes it.
func (l *laneTarget) promoteOnce(ctx context.Context, how manner) (attempt, error) {
	var p *promotion
	var fatal fatalRecords
	if how.trial && len(l.table.lane) == 1 {
		var err error
		if fatal, err = l.findFatal(ctx, how.limit); err != nil {
			return attempt{}, err
		}
	}
	err := retryIdle(ctx, l.pool, func() error {
		p = &promotion{t: l.table, progress: progress{fatal: fatal, byBatch: how.byBatch || l.recount.Load() > 0, times: how.times, wroteBy: map[int32]int64{}}}
		return p.once(ctx, l, how.limit)
	})
	a := attempt{out: p.out, found: p.found, settled: len(p.chosen), expect: p.expect, learn: p.learn, resolve: p.resolve,
		locked: p.locked, gone: !p.locked && isGone(err, p.s.lane()), waits: p.waits, slow: p.slow, lost: p.endsSession(ctx, err)}
	if err != nil {
		a.settled = 0
	}
	return a, err
}

func (p *promotion) once(ctx context.Context, l *laneTarget, limit int64) error {
	t := p.t
	conn, err := pgschema.Acquire(ctx, t.pool)
	if err != nil {
		return err
	}
	defer conn.Release()
	p.q = conn.Conn()
	defer t.rollback(p.q)
	c, err := l.choose(ctx, p.q)
	p.s, p.otherFull, p.out.Epoch = c.s, c.more, c.epoch
	if err != nil || p.s == noSide {
		return err
	}
	l.last = p.s.lane()
	t.lane[l.last].working.Add(1)
	defer t.lane[l.last].working.Add(-1)
	p.found = 1
	err = p.run(ctx, limit)
	endStale(ctx, p.q, err)
	return err
}

// learn remembers what the promotion has met, for the next ones.
func (p *promotion) learn() {
	if p.expect == 0 {
		return
	}
	t := p.t
	t.learn(p.out.Conflicts)
	if n := t.drops.Load(); n > 0 && p.suppress {
		t.drops.CompareAndSwap(n, n-1)
	}
	if n := t.recount.Load(); n > 0 && p.out.Conflicts == 0 {
		t.recount.CompareAndSwap(n, n-1)
	}
	if n := t.guard.Load(); n > 0 && p.refused == 0 {
		t.guard.CompareAndSwap(n, n-1)
	}
}

// run is the promotion transaction.
func (p *promotion) run(ctx context.Context, limit int64) error {
	t := p.t
	if err := p.lock(ctx); err != nil {
		return err
	}
	p.locked = true
	defer p.watchWaits(ctx)()
	if err := t.at("after lock"); err != nil {
		return err
	}
	if len(p.list) == 0 && len(p.counts) == 0 {
		if len(t.lane) > 1 && p.otherFull { // another promoter has promoted this side meanwhile
			p.found, p.out.More = 1, true
		}
		return nil
	}
	if err := p.enter(ctx, p.pick(limit)); err != nil {
		return err
	}
	if err := t.at("after ledger"); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{p.moveRejects, p.applyRules, p.order, p.rejectSuspects, p.insert, p.finishMerges} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := t.at("after insert"); err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	if err := t.at("before commit"); err != nil {
		return err
	}
	last, err := p.empty(ctx)
	if err == nil {
		err = t.commitDurably(ctx, p.q, last)
	}
	if err != nil {
		return err
	}
	return t.at("after commit")
}

// empty removes from the side what was settled. It returns the statement for the commit's message
// that empties the whole side.
//
// TRUNCATE and COMMIT go in one message. The transaction must not be idle in between, because
// of how Postgres recovers. When the postmaster is killed, an idle backend aborts. It removes the
// init forks of the files that TRUNCATE has made, keeps an empty main fork until the next
// checkpoint, and does not flush its abort record. Recovery then replays the creation of the init
// fork, finds the main fork in its way ("could not create file …: File exists"), and the server
// does not start.
func (p *promotion) empty(ctx context.Context) (last string, err error) {
	p.out.More = p.partial || p.otherFull
	if !p.partial && p.others == 0 {
		return p.sql().truncate.text + "; ", nil
	}
	// The rows stay without their registry, so no promotion takes them, until the side's last part
	// truncates or deletes them.
	run := []call{p.sql().forget.with(args{"numbers": array(p.chosen)})}
	if !p.partial {
		// Batches of another kind keep the side from being truncated, perhaps for good.
		run = append(run, p.sql().deleteRows.with(nil), p.sql().deleteRefused.with(nil))
	}
	_, err = send(ctx, p.q, run...)
	return "", err
}

// resolve finds out whether a commit was done although its answer was lost: the ledger has all of
// its batches, or none. It returns true if the ledger has them, and [ErrNotDurable] if no standby
// has it.
func (p *promotion) resolve(ctx context.Context) (bool, error) {
	var ids []string
	for _, x := range p.take {
		ids = append(ids, x.id)
	}
	return allPromoted(ctx, ids, p.t.Fates)
}

func allPromoted(ctx context.Context, ids []string, read func(context.Context, []string) ([]Fate, error)) (bool, error) {
	if len(ids) == 0 {
		return false, nil
	}
	fates, err := read(ctx, ids)
	if errors.Is(err, ErrNotDurable) {
		return false, err
	}
	return err == nil && !slices.ContainsFunc(fates, func(f Fate) bool { return f != FatePromoted }), nil
}
