package staging

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// StageDrops is what a stage of a chain dropped of a batch, in records.
type StageDrops struct {
	Stage                          string // its name
	Duplicates, Filtered, Rejected int
}

// StageCount is what a stage of a chain did with the records of promoted batches.
type StageCount struct {
	Stage      string
	Entered    int64 // records that came to the stage
	Duplicates int64 // of these, dropped as duplicates
	Filtered   int64 // of these, filtered
	Rejected   int64 // of these, rejected
}

// Passed returns how many records went on to the next stage.
func (s StageCount) Passed() int64 { return s.Entered - s.Duplicates - s.Filtered - s.Rejected }

// stagesText prints what stages dropped. Names are escaped: the database may have an encoding
// without their characters.
func stagesText(stages []StageDrops) string {
	var b strings.Builder
	for i, s := range stages {
		if i > 0 {
			b.WriteByte(';')
		}
		fmt.Fprintf(&b, "%s %d %d %d", url.QueryEscape(s.Stage), s.Duplicates, s.Filtered, s.Rejected)
	}
	return b.String()
}

// StageCounts sums what the stages of the chain did with the records of the batches committed
// since, in the order of the stages. It reads the ledger, so it covers what [Table.Books] covers,
// except pruned batches, batches without Load.Stages and those of an older layout. Stages of one
// name count as one.
// It costs a sum over the ledger.
func (t *table) StageCounts(ctx context.Context, since time.Time) ([]StageCount, error) {
	c, err := acquire(ctx, t.pool)
	if err != nil {
		return nil, fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	r, err := t.inOwn(ctx, c.Conn(), reads, t.sql.ledgerStages.with(args{"since": boundText(since)}))
	if err != nil {
		return nil, t.explain("summing the stages in the ledger", err)
	}
	out := make([]StageCount, 0, len(r.Rows))
	for row := range r.each() {
		name, err := url.QueryUnescape(row.text("stage"))
		if err != nil {
			return nil, t.explain("reading the name of a stage", err)
		}
		out = append(out, StageCount{Stage: name, Entered: row.int("entered"),
			Duplicates: row.int("duplicates"), Filtered: row.int("filtered"), Rejected: row.int("rejected")})
	}
	return out, nil
}

// Clock returns the time of the server, by which the ledger is stamped.
func (t *table) Clock(ctx context.Context) (time.Time, error) {
	c, err := acquire(ctx, t.pool)
	if err != nil {
		return time.Time{}, fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	r, err := t.inOwn(ctx, c.Conn(), reads, fill("clock", nil).with(nil))
	if err != nil {
		return time.Time{}, t.explain("reading the server's clock", err)
	}
	return r.row(0).micros("clock"), nil
}
