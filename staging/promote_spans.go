package staging

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
)

const (
	parts    = 8             // of a promotion that expects a refusal, and of a part that was refused
	lastPage = math.MaxInt32 // the greatest page number of a table, and more than enough
)

// partSizes are the sizes of parts, in rows.
type partSizes struct {
	least  int64 // the least size of a part of a promotion
	judged int64 // a refused part of up to this size is judged record by record; 0: never
}

// manyRefusals is how many rows of a promotion are refused before it judges whole parts at once.
const manyRefusals = 16

var defaultPartSizes = partSizes{least: 1000, judged: 4096}

// recordSpan is a piece of the staged records, in the order of arrival: by number of batch, then by
// position.
type recordSpan struct {
	first, last         int64 // hr_record of the first and the last record
	rows                int64 // an estimate
	firstPage, lastPage int64 // where they are in the staging table
}

// condition is true for the rows of the span.
func (s recordSpan) condition() string {
	return fmt.Sprintf("s.ctid >= '(%d,0)'::tid AND s.ctid < '(%d,0)'::tid AND s.%s BETWEEN %d AND %d",
		s.firstPage, s.lastPage+1, colRecord, s.first, s.last)
}

// single is true if the span is one record.
func (s recordSpan) single() bool { return s.first == s.last }

// one is the part of the span that is one record.
func (s recordSpan) one(record int64) recordSpan {
	s.first, s.last, s.rows = record, record, 1
	return s
}

// cut divides one batch's span by position, into n pieces at most.
func (s recordSpan) cut(n int64) []recordSpan {
	records := s.last - s.first + 1
	n = min(n, records)
	out := make([]recordSpan, 0, n)
	for i := range n {
		part := s
		part.first, part.last = s.first+records*i/n, s.first+records*(i+1)/n-1
		part.rows = max(1, s.rows/n)
		out = append(out, part)
	}
	return out
}

// spans lists where the rows of each taken batch are.
func (p *promotion) spans(ctx context.Context) ([]recordSpan, error) {
	r, err := sendOne(ctx, p.q, p.sql().spans.where(p.which()).with(nil))
	if err != nil {
		return nil, err
	}
	return spansOf(r), nil
}

func spansOf(r result) (out []recordSpan) {
	for row := range r.each() {
		no := int32(row.int("no"))
		out = append(out, recordSpan{first: recordOf(no, int32(row.int("first"))), last: recordOf(no, int32(row.int("last"))),
			rows: row.int("n"), firstPage: row.int("first_page"), lastPage: row.int("last_page")})
	}
	return out
}

// group joins the spans of small batches, and cuts those of large ones, into pieces of about the
// given number of rows.
func group(batches []recordSpan, rows int64) [][]recordSpan {
	var out [][]recordSpan
	var open []recordSpan
	var n int64
	for _, b := range batches {
		cut := []recordSpan{b}
		if b.rows > rows {
			cut = b.cut((b.rows + rows - 1) / rows)
		}
		for _, s := range cut {
			if n > 0 && n+s.rows > rows {
				out, open, n = append(out, open), nil, 0
			}
			open, n = append(open, s), n+s.rows
		}
	}
	if len(open) > 0 {
		out = append(out, open)
	}
	return out
}

// hull is the span from the first of some spans to the last.
func hull(spans []recordSpan) recordSpan {
	h := recordSpan{first: spans[0].first, last: spans[len(spans)-1].last, firstPage: math.MaxInt64}
	for _, s := range spans {
		h.rows += s.rows
		h.firstPage, h.lastPage = min(h.firstPage, s.firstPage), max(h.lastPage, s.lastPage)
	}
	return h
}

// split divides what was refused: between batches where there are several, by position otherwise.
func split(spans []recordSpan) [][]recordSpan {
	if len(spans) > 1 {
		return group(spans, max(1, (hull(spans).rows+parts-1)/parts))
	}
	var out [][]recordSpan
	for _, s := range spans[0].cut(parts) {
		out = append(out, []recordSpan{s})
	}
	return out
}

// work is what a promotion does with staged rows: it applies the rules to them, or inserts them.
type work struct {
	source string // of the rejects
	// run is the statement for the rows of a condition. It returns how many rows it wrote.
	run func(ctx context.Context, condition string) (int64, error)
	// judged is run for rows that were judged: of those of one key the last one counts.
	judged func(ctx context.Context, condition string) (int64, error)
	// plain is run without the merges.
	plain func(ctx context.Context, condition string) (int64, error)
	// judge tries record by record. With judgeThenRun it writes nothing but rejects, and run follows.
	judge        statement
	judgeThenRun bool
	// done counts what run or judge wrote.
	done func(spans []recordSpan, written int64)
	// blame returns an error if something else than the rows is at fault.
	blame func(ctx context.Context, condition string, refusal error) error
}

// descend does the work on spans of records. When the server refuses the statement, it goes down to
// the records that the server refuses alone, and rejects those.
func (p *promotion) descend(ctx context.Context, w *work, spans []recordSpan) error {
	whole := hull(spans)
	if p.judged >= manyRefusals && !whole.single() && p.judges() {
		judged, err := p.judgeRows(ctx, w, whole.condition(), spans)
		if judged || err != nil {
			return err
		}
	}
	if done, err := p.descendInOrder(ctx, w, spans); done || err != nil {
		return err
	}
	n, err := p.limited(ctx, p.partTime(whole), func() (int64, error) { return w.run(ctx, p.of(whole)) })
	if err == nil {
		w.done(spans, n)
		return nil
	}
	slow := p.tooSlow(ctx, err)
	if slow && whole.single() {
		return p.slowRecord(ctx, w, whole, err)
	}
	if !slow {
		if err := p.mayBeData(ctx, w, err); err != nil {
			return err
		}
	}
	if err := p.t.at("refused"); err != nil {
		return err
	}
	if whole.single() {
		if err := w.blame(ctx, p.of(whole), err); err != nil {
			return err
		}
		return p.rejectOne(ctx, w, whole, err)
	}
	if whole.rows <= p.t.sizes.judged && p.judges() {
		judged, err := p.judgeRows(ctx, w, whole.condition(), spans)
		if judged || err != nil {
			return err
		}
	}
	for _, part := range split(spans) {
		if err := p.descend(ctx, w, part); err != nil {
			return err
		}
	}
	return nil
}

// judges is true where the judge statement can run. It tries many records, so it tells of none that
// it is the slow one.
func (p *promotion) judges() bool {
	return p.t.sizes.judged > 0 && !p.t.noJudge.Load() && !p.searches()
}

// of is the condition on the rows of a span that this promotion takes.
func (p *promotion) of(s recordSpan) string { return s.condition() + " AND " + p.which() }

// errRollBack makes try roll back what was done.
var errRollBack = errors.New("staging: roll it back")

// try runs statements after a savepoint, and rolls back to it if one fails.
func (p *promotion) try(ctx context.Context, run func() (int64, error)) (int64, error) {
	if _, err := sendOne(ctx, p.q, do("savepoint hr_try")); err != nil {
		return 0, err
	}
	n, err := run()
	if err == nil {
		_, err = sendOne(ctx, p.q, do("release savepoint hr_try"))
		return n, err
	}
	if p.q.IsClosed() || ctx.Err() != nil {
		return 0, err
	}
	if _, rerr := send(ctx, p.q, do("rollback to savepoint hr_try"), do("release savepoint hr_try")); rerr != nil {
		return 0, errors.Join(err, rerr)
	}
	return n, err
}

// rejectOne rejects a record that the server refused alone, or postpones it.
func (p *promotion) rejectOne(ctx context.Context, w *work, s recordSpan, refusal error) error {
	if p.postpones(w) && sqlState(refusal) == "23503" {
		r, err := sendOne(ctx, p.q, p.sql().postpone.where(p.of(s)).with(args{"record": text(s.first)}))
		if err == nil {
			p.postponed += r.affected()
		}
		return err
	}
	if conflict, err := p.conflicts(ctx, w, s, refusal); conflict || err != nil {
		return err // countConflicts finds its row missing
	}
	code, reason := refusalOf(refusal)
	slow := p.tooSlow(ctx, refusal)
	if slow {
		reason = p.slowReason(reason)
	}
	n, err := p.rejectRows(ctx, p.of(s), rejection{s.first, true, w.source, code, plain(reason)})
	if err != nil {
		return err
	}
	p.refused += n
	p.softSeen++
	if slow || verdictOf(refusal) == verdictUnlessAll {
		p.soft, p.softErr = p.soft+n, refusal
	}
	return nil
}

// rejection is why rows of a record are rejected.
type rejection struct {
	record               int64
	whole                bool // all rows of the record are
	source, code, reason string
}

// rejectRows rejects rows of one record, and returns how many.
func (p *promotion) rejectRows(ctx context.Context, condition string, x rejection) (int64, error) {
	r, err := sendOne(ctx, p.q, p.sql().rejectRecord.where(condition).with(
		args{"record": text(x.record), "whole": strconv.FormatBool(x.whole), "source": x.source, "code": x.code, "reason": x.reason}))
	if err != nil {
		return 0, err
	}
	return r.row(0).int("n"), nil
}

// conflicts is true if a record was refused alone because the target has its key. That is for the
// conflict policy to judge. A clash on another unique index rejects the record. Where ON CONFLICT
// DO NOTHING leaves out what meets the key, the clash was on another index.
func (p *promotion) conflicts(ctx context.Context, w *work, s recordSpan, refusal error) (bool, error) {
	there := p.sql().keyThere
	if w.source != "insert" || there.text == "" || p.t.cfg.Conflict == ConflictReplace || sqlState(refusal) != "23505" ||
		p.exact() && p.t.cfg.Conflict == ConflictSkip {
		return false, nil
	}
	r, err := sendOne(ctx, p.q, there.where(p.of(s)).with(nil))
	if err != nil {
		return false, err
	}
	return r.row(0).bool("there"), nil
}
