package staging

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

// share is one table's part in the promotion of a group.
type share interface {
	state() *progress
	sql() *sideStatements
	readCalls() []call
	read(res []result) error
	inTurn(x suspicion) string
	enter(ctx context.Context, whole []*staged) error
	moveRejects(ctx context.Context) error
	applyRules(ctx context.Context) error
	rejectSuspects(ctx context.Context) error
	insert(ctx context.Context) error
	everyRowRefused(ctx context.Context) error
	finishMerges(ctx context.Context) error
	settle(ctx context.Context) error
	empty(ctx context.Context) (last string, err error)
	learn()
}

func (t *table) share(q *pgx.Conn, s side, leader string, how manner) share {
	return &promotion{t: t, progress: progress{q: q, s: s, leader: leader, byBatch: how.byBatch || t.recount.Load() > 0, times: how.times, multi: true, wroteBy: map[int32]int64{}}}
}

func (p *promotion) state() *progress { return &p.progress }

// groupPromotion is one promotion transaction of a group.
type groupPromotion[R any] struct {
	g       *TableGroup[R]
	q       *pgx.Conn
	s       side
	out     PromoteResult
	locked  bool // the side and the targets
	found   int
	settled int
	expect  int64
	shares  []share // of the tables, as they were given
	order   []int   // parents before children
	batches []string
	numbers []map[string]int32 // of the batches, by table
	gone    map[recordKey]cause
}

// Promote moves staged batches into the targets of all members: one transaction, whole batches,
// each exactly once, parents before children. If one table rejects a row of a record, the record is
// rejected in all of them. PromoteResult counts records once, and rows over all tables. It is
// otherwise as [Table.Promote].
func (g *TableGroup[R]) Promote(ctx context.Context, o PromoteOptions) (PromoteResult, error) {
	if err := g.Check(ctx); err != nil {
		return PromoteResult{}, err
	}
	out, err := attempts(ctx, o, &g.pace, &g.unconfirmed, g)
	if !errors.Is(err, ErrConfig) {
		g.lead().noteOutcome(ctx, 0, err)
	}
	return out, err
}

func (g *TableGroup[R]) promoteOnce(ctx context.Context, how manner) (attempt, error) {
	var p *groupPromotion[R]
	fatal := make([]fatalRecords, len(g.tables))
	if how.trial {
		for i, t := range g.tables {
			var err error
			if fatal[i], err = t.findFatal(ctx, how.limit); err != nil {
				return attempt{}, err
			}
		}
	}
	err := retryIdle(ctx, g.views[0].pool, func() error {
		p = &groupPromotion[R]{g: g, gone: map[recordKey]cause{}}
		return p.once(ctx, how, fatal)
	})
	a := attempt{out: p.out, found: p.found, settled: p.settled, expect: p.expect, learn: p.learn, resolve: p.resolve, locked: p.locked, slow: p.slow(), lost: p.endsSession(ctx, err)}
	if err != nil {
		a.settled = 0
	}
	return a, err
}

func (p *groupPromotion[R]) once(ctx context.Context, how manner, fatal []fatalRecords) error {
	g := p.g
	c, err := pgschema.Acquire(ctx, g.views[0].pool)
	if err != nil {
		return err
	}
	defer c.Release()
	p.q = c.Conn()
	defer g.lead().rollback(p.q)
	if p.s, p.out.Epoch, err = g.choose(ctx, p.q); err != nil || p.s == noSide {
		return err
	}
	for i, t := range g.tables {
		x := t.share(p.q, p.s, g.leader, how)
		x.state().fatal = fatal[i]
		p.shares = append(p.shares, x)
	}
	p.found = 1
	err = p.run(ctx, how.limit)
	endStale(ctx, p.q, err)
	return err
}

// endsSession is true for a promotion that has lost its connection, other than in its commit.
func (p *groupPromotion[R]) endsSession(ctx context.Context, err error) bool {
	x := progress{q: p.q, locked: p.locked}
	return x.endsSession(ctx, err)
}

// slow is true if one of the tables has rejected records that took too long.
func (p *groupPromotion[R]) slow() bool {
	return slices.ContainsFunc(p.shares, func(x share) bool { return x.state().slow })
}

func (p *groupPromotion[R]) learn() {
	for _, x := range p.shares {
		x.learn()
	}
}

// resolve finds out whether a commit was done although its answer was lost.
func (p *groupPromotion[R]) resolve(ctx context.Context) (bool, error) {
	return allPromoted(ctx, p.batches, p.g.Fates)
}

func (g *TableGroup[R]) confirmed(ctx context.Context, u *unconfirmed) (PromoteResult, bool, error) {
	return g.lead().confirmed(ctx, u)
}

// endStalled disconnects workers whose COPY into a table of the group is stalled.
func (g *TableGroup[R]) endStalled(ctx context.Context) (ended int, err error) {
	for _, t := range g.tables {
		n, err := t.endStalled(ctx)
		if err != nil || n > 0 {
			return n, err
		}
	}
	return 0, nil
}

// busy names the processes that hold the lock that a promotion could not acquire.
func (g *TableGroup[R]) busy(ctx context.Context, err error) error {
	var out error
	for _, t := range g.tables {
		out = t.busy(ctx, err)
		if strings.Contains(out.Error(), "are held by") {
			return out
		}
	}
	return out
}

// choose finds the side to promote, as Table.choose does. The leader decides which side is open; in
// the other tables the same one is opened, for programs that stage into them alone.
func (g *TableGroup[R]) choose(ctx context.Context, q *pgx.Conn) (side, string, error) {
	run := g.lead().beginning(reads)
	begun := len(run)
	for _, i := range g.byName {
		run = append(run, g.views[i].sql.lane[0].fullSides.with(args{"leader": g.leader}))
	}
	res, err := send(ctx, q, append(run, do("commit"))...)
	if err != nil {
		return noSide, "", err
	}
	var full [2]bool
	var s side
	for n, i := range g.byName {
		row, err := g.tables[i].controlRow(res[begun+n])
		if err != nil {
			return noSide, "", err
		}
		full[sideA], full[sideB] = full[sideA] || row.bool("full_a"), full[sideB] || row.bool("full_b")
		if i == 0 {
			s = sideOf(row.text("open"), 0)
			g.views[0].failing.Store(row.bool("failing"))
		}
	}
	epoch, err := g.epoch(ctx, q)
	switch {
	case err != nil:
		return noSide, "", err
	case full[s.other()]:
		return s.other(), epoch, nil
	case !full[s]:
		return noSide, epoch, nil
	}
	g.hint.Store(int32(s.other()))
	if err := g.flip(ctx, q, s); err != nil {
		return noSide, "", err
	}
	return s, epoch, g.at("after flip")
}

// flip seals a side, unless another promoter has done so.
func (g *TableGroup[R]) flip(ctx context.Context, q *pgx.Conn, from side) error {
	defer g.lead().rollback(q)
	run := g.lead().beginning(writes)
	for _, i := range g.byName {
		if i == 0 {
			run = append(run, g.views[i].sql.lane[0].flip.with(args{"to": from.other().String(), "from": from.String()}))
		} else {
			run = append(run, g.views[i].sql.groupFollow.with(args{"to": from.other().String()}))
		}
	}
	_, err := send(ctx, q, append(run, do("commit"))...)
	return err
}

// run is the promotion transaction.
func (p *groupPromotion[R]) run(ctx context.Context, limit int64) error {
	g := p.g
	if err := p.lock(ctx); err != nil {
		return err
	}
	p.locked = true
	if err := g.at("after lock"); err != nil {
		return err
	}
	if p.found == 0 {
		return nil
	}
	if err := p.enter(ctx, p.pick(limit)); err != nil {
		return err
	}
	if err := g.at("after ledger"); err != nil {
		return err
	}
	if err := p.shares[0].moveRejects(ctx); err != nil {
		return err
	}
	if err := p.write(ctx); err != nil {
		return err
	}
	if err := g.at("after insert"); err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	if err := g.at("before commit"); err != nil {
		return err
	}
	var all strings.Builder
	for _, x := range p.shares {
		last, err := x.empty(ctx)
		if err != nil {
			return err
		}
		all.WriteString(last)
	}
	if err := g.lead().commitDurably(ctx, p.q, all.String()); err != nil {
		return err
	}
	return g.at("after commit")
}

// snapshot is the state of the shares, to go back to.
func (p *groupPromotion[R]) snapshot() []progress {
	out := make([]progress, len(p.shares))
	for i, x := range p.shares {
		out[i] = *x.state()
		out[i].wroteBy = maps.Clone(out[i].wroteBy)
	}
	return out
}
