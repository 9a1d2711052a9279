package staging

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// judgement is what one run of the judge statement did.
type judgement struct {
	Written   int64 `json:"written"`
	Refused   int64 `json:"refused"`   // rows that were moved to the rejects
	Soft      int64 `json:"soft"`      // of these, for a reason that may be the surroundings'
	Stop      int64 `json:"stop"`      // the record at which it stopped for the program to judge, or -1
	Postponed int64 `json:"postponed"` // rows that lack their parent
	Clash     int64 `json:"clash"`     // the first record whose key was there, or -1; known with suppress
}

// judgeMode chooses how the judge statement tries records (promote_judge.sql).
type judgeMode struct{ alone, undo, postpone, leave, suppress bool }

// softStops is how many records the program judges itself, whose SQLSTATE may be due to the
// surroundings, before it leaves them to the judge statement.
const softStops = 8

// modePieces are in the judge statement until its mode is known.
var modePieces = pieces{"alone": "\x01alone\x01", "undo": "\x01undo\x01", "postpone": "\x01postpone\x01", "leave": "\x01leave\x01", "suppress": "\x01suppress\x01", "soft": "\x01soft\x01",
	"defers": "\x01defers\x01", "again": "\x01again\x01", "children": "\x01children\x01"}

// judge runs a judge statement over the rows of a condition.
func (p *promotion) judge(ctx context.Context, s statement, condition string, m judgeMode) (judgement, error) {
	var j judgement
	s.text = strings.NewReplacer(modePieces["alone"], strconv.FormatBool(m.alone), modePieces["undo"], strconv.FormatBool(m.undo),
		modePieces["postpone"], strconv.FormatBool(m.postpone), modePieces["leave"], strconv.FormatBool(m.leave),
		modePieces["suppress"], strconv.FormatBool(m.suppress), modePieces["soft"], strconv.FormatBool(p.softOK()),
		modePieces["defers"], strconv.FormatBool(p.triggers), modePieces["again"], strconv.FormatBool(p.again),
		modePieces["children"], strconv.FormatBool(p.children)).Replace(s.text)
	_, err := p.try(ctx, func() (int64, error) {
		res, err := send(ctx, p.q, s.where(condition).with(nil), p.t.sql.judged.with(nil))
		if err != nil {
			return 0, err
		}
		if err := json.Unmarshal(res[1].row(0).value("judged"), &j); err != nil {
			return 0, fmt.Errorf("staging: unexpected result of the judge statement: %w", err)
		}
		return 0, nil
	})
	if err != nil {
		return judgement{}, err
	}
	p.refused += j.Refused
	p.soft += j.Soft
	p.postponed += j.Postponed
	if j.Clash >= 0 {
		p.clashes(j.Clash)
	}
	return j, nil
}

// softOK is true when a SQLSTATE that may be due to the surroundings can be taken for the record's
// fault: some row was accepted, or the program has seen enough of them itself.
func (p *promotion) softOK() bool { return p.written > 0 || p.softSeen >= softStops }

// judgeRows judges the records of a condition, and does the work on those that are left. It returns
// false if the server cannot run the judge statement, or a trigger raises what the statement cannot
// catch.
func (p *promotion) judgeRows(ctx context.Context, w *work, base string, spans []recordSpan) (bool, error) {
	m := judgeMode{undo: w.judgeThenRun, postpone: p.postpones(w), suppress: p.suppressed(w) || p.again && p.beforeRow}
	for rest := base; ; {
		j, err := p.judge(ctx, w.judge, rest+" AND "+p.which(), m)
		if err != nil {
			if p.cannotJudge(err) {
				if rest == base {
					return false, nil
				}
				// A part is judged, and the callers know nothing of parts: all of it is done again without
				// the judge statement, by this program from now on.
				p.t.noJudge.Store(true)
				return false, errUnjudged
			}
			return false, err
		}
		if !m.undo {
			w.done(spans, j.Written)
		}
		p.judged += j.Refused + j.Postponed
		if j.Stop < 0 {
			break
		}
		if err := p.judgeOne(ctx, w, hull(spans).one(j.Stop), m.undo); err != nil {
			return false, err
		}
		rest = fmt.Sprintf("%s AND s.%s > %d", base, colRecord, j.Stop)
	}
	if !m.undo {
		return true, nil
	}
	condition := base + " AND " + p.which()
	n, err := p.try(ctx, func() (int64, error) { return w.judged(ctx, condition) })
	if err == nil {
		w.done(spans, n)
		return true, nil
	}
	if !p.inOrder { // else it has left rows out that blame would not: it blames record by record
		if berr := w.blame(ctx, condition, err); berr != nil {
			return false, berr
		}
	}
	if hull(spans).single() || w.source != "insert" || p.mayBeData(ctx, w, err) != nil {
		return false, err
	}
	return true, p.inOrderOfArrival(ctx, w, base, spans)
}

// inOrderOfArrival inserts records that were judged and that one statement is refused for. Where a
// key comes twice, the statement takes them in the order of their keys: a row may come before the
// one that makes room for it in a further unique index.
func (p *promotion) inOrderOfArrival(ctx context.Context, w *work, base string, spans []recordSpan) error {
	for _, part := range split(spans) {
		whole := hull(part)
		run := w.run
		if whole.single() { // its rows may have one key
			run = w.judged
		}
		n, err := p.try(ctx, func() (int64, error) { return run(ctx, base+" AND "+p.of(whole)) })
		if err == nil {
			w.done(part, n)
			continue
		}
		if err := p.mayBeData(ctx, w, err); err != nil {
			return err
		}
		if !whole.single() {
			err = p.inOrderOfArrival(ctx, w, base, part)
		} else if berr := w.blame(ctx, p.of(whole), err); berr != nil {
			return berr
		} else {
			err = p.rejectOne(ctx, w, whole, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errUnjudged is the error of a promotion that has to be done again without the judge statement.
var errUnjudged = errors.New("staging: a trigger raises what the judge statement cannot catch")

// cannotJudge is true if the judge statement failed for another reason than the surroundings. A
// role or a server without PL/pgSQL is remembered.
func (p *promotion) cannotJudge(err error) bool {
	if code := sqlState(err); code == "42704" || code == "42501" {
		p.t.noJudge.Store(true)
	}
	return verdictOf(err) != verdictSurroundings
}

// judgeOne tries one record. With undo, the record is rolled back if it is accepted.
func (p *promotion) judgeOne(ctx context.Context, w *work, s recordSpan, undo bool) error {
	n, err := p.try(ctx, func() (int64, error) {
		n, err := w.plain(ctx, p.of(s))
		if err == nil && undo {
			err = errRollBack
		}
		return n, err
	})
	switch {
	case err == nil:
		w.done([]recordSpan{s}, n)
		return nil
	case errors.Is(err, errRollBack):
		return nil
	case verdictOf(err) == verdictSurroundings:
		return err
	}
	return p.rejectOne(ctx, w, s, err)
}

// rejectSuspects tries, each alone, the records with rows that the target's constraints will
// probably refuse, and rejects those that the server refuses. So many bad rows stay cheap. A record
// that the server accepts stays where it is.
//
// So does one that only lacks its parent, unless the parent is neither in the target nor staged: in
// its turn, the parent is there.
func (p *promotion) rejectSuspects(ctx context.Context) error {
	if p.expect == 0 || !p.judges() {
		return nil
	}
	m := judgeMode{alone: true, postpone: p.postpones(p.insertWork())}
	if !m.postpone {
		return p.rejectSuspectsOf(ctx, p.suspects, m)
	}
	var others, orphans []string
	lacksParent := p.orphanConditions()
	for _, condition := range p.suspects {
		if slices.Contains(lacksParent, condition) {
			orphans = append(orphans, condition)
		} else {
			others = append(others, condition)
		}
	}
	m.leave = true
	if err := p.rejectSuspectsOf(ctx, others, m); err != nil {
		return err
	}
	m.leave = false
	return p.rejectSuspectsOf(ctx, orphans, m)
}

// rejectSuspectsOf does so for the rows of some conditions.
func (p *promotion) rejectSuspectsOf(ctx context.Context, conditions []string, m judgeMode) error {
	if len(conditions) == 0 {
		return nil
	}
	w := p.insertWork()
	condition := "(" + strings.Join(conditions, "\n OR ") + "\n)"
	if p.multi { // a record is refused with all of its rows, as where the insert meets it
		condition = "s." + colRecord + " IN (SELECT s." + colRecord + " FROM " + p.t.staging[p.s] + " s WHERE " + p.which() + " AND " + condition + ")"
	}
	after := ""
	for {
		j, err := p.judge(ctx, p.sql().judgeInsert, p.which()+" AND "+condition+after, m)
		switch {
		case err == nil && j.Stop < 0:
			return nil
		case err == nil:
			if err := p.judgeOne(ctx, w, recordSpan{first: j.Stop, last: j.Stop, lastPage: lastPage}, true); err != nil {
				return err
			}
			after = " AND s." + colRecord + " > " + text(j.Stop)
		case p.cannotJudge(err): // a constraint's expression raises: the insert will find the row
			p.guarded = true
			return nil
		default:
			return err
		}
	}
}
