package staging

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// verdict is what an error of the server means for the rows of the statement.
type verdict uint8

const (
	verdictSurroundings verdict = iota // not the rows' fault: the connection, a lock, a resource, the server
	verdictData                        // the rows'
	verdictUnlessAll                   // the rows', unless every row is refused so: a missing privilege in a trigger, say
)

// The SQLSTATEs, and classes of them, that name the surroundings, and those that may. The judge
// statement has the same lists.
var (
	surroundingsClasses = []string{"08", "25", "40", "53", "57", "58", "F0"}
	surroundingsCodes   = []string{lockNotAvailable, "55006", "XX001", "XX002", "2200H", "HV00N"} // 2200H: a sequence is exhausted; HV00N: a foreign server is away
	perhapsClasses      = []string{"0A", "28", "2D", "2F", "3D", "3F", "42", "55", "HV", "XX"}
	perhapsCodes        = []string{"54001"} // max_stack_depth
)

// verdictOf judges an error by its SQLSTATE. Whatever a trigger raises on purpose is data: RAISE
// may use any SQLSTATE.
func verdictOf(err error) verdict {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) != 5 {
		return verdictSurroundings
	}
	switch {
	case pg.Routine == "exec_stmt_raise", pg.Routine == "exec_stmt_assert":
		return verdictData
	case pg.Routine == "ExecWithCheckOptions": // a policy of row-level security, which shares its code with missing privileges
		return verdictData
	case staleSession(err):
		return verdictSurroundings
	case pg.Where != "" && slices.Contains([]string{"58P01", "58P02", "2200H"}, pg.Code): // a function met it, not the insert
		return verdictUnlessAll
	case slices.Contains(surroundingsClasses, pg.Code[:2]), slices.Contains(surroundingsCodes, pg.Code):
		return verdictSurroundings
	case slices.Contains(perhapsClasses, pg.Code[:2]), slices.Contains(perhapsCodes, pg.Code):
		return verdictUnlessAll
	}
	return verdictData
}

// staleSession is true if a function in PL/pgSQL expects the type that a column had when this
// session first ran it. It does so until the session ends.
func staleSession(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42804" && strings.HasPrefix(pg.Routine, "plpgsql_param_eval")
}

// endStale ends the session of such an error, at the server: a PgBouncer would hand it out again.
func endStale(ctx context.Context, q *pgx.Conn, err error) {
	if !staleSession(err) || q.IsClosed() {
		return
	}
	q.Exec(ctx, "rollback")                                      //nolint:errcheck // the next statement ends the session
	q.Exec(ctx, "SELECT pg_terminate_backend(pg_backend_pid())") //nolint:errcheck // its answer is that the connection has ended
	q.Close(ctx)                                                 //nolint:errcheck // it has ended
}

// mayBeData returns nil if an error may be due to the rows, or the error that the promotion fails
// with. A statement that the server refuses without any row fails the promotion.
func (p *promotion) mayBeData(ctx context.Context, w *work, err error) error {
	switch verdictOf(err) {
	case verdictSurroundings:
		return err
	case verdictUnlessAll:
		if _, empty := p.try(ctx, func() (int64, error) { return w.run(ctx, "false") }); empty != nil {
			if berr := w.blame(ctx, "false", empty); berr != nil {
				return berr
			}
			return empty
		}
	}
	return nil
}

// everyRowRefused fails a promotion of which every row was refused for a reason that may be the
// surroundings': a trigger that lacks a privilege or a table. If the target accepts a row of
// another promotion, the rows are at fault: a few bad rows alone must not keep the target from all
// others.
func (p *promotion) everyRowRefused(ctx context.Context) error {
	if err := p.refusedWithoutRows(ctx); err != nil {
		return err
	}
	if p.softErr == nil || p.written > 0 || p.soft < p.expect-p.dropped {
		return nil
	}
	accepts, err := p.acceptsOthers(ctx)
	switch {
	case accepts || err != nil:
		return err
	case p.slow:
		return allSlow(p.softErr)
	}
	return fmt.Errorf("staging: every row was refused, probably not because of the rows: %w", p.softErr)
}

// refusedWithoutRows fails a promotion of which every row was refused, if the target refuses a
// statement without rows too: a trigger for each statement closes the table while it is maintained.
// What such a trigger raises on purpose looks like the fault of a row. So does a default that
// fails: a sequence has passed the end of its column's type.
func (p *promotion) refusedWithoutRows(ctx context.Context) error {
	every := p.written == 0 && p.refused >= p.expect
	if p.refused == 0 || !every && len(p.t.sequences) == 0 {
		return nil
	}
	err := p.defaultsFail(ctx)
	if err == nil && every {
		_, plain := p.inserts()
		if _, err = p.try(ctx, func() (int64, error) { return p.execPlain(ctx, plain.where("false").with(nil)) }); err != nil {
			err = fmt.Errorf("staging: the target refuses a statement without rows: %w", err)
		}
	}
	if err == nil || !every {
		return err
	}
	if accepts, aerr := p.acceptsOthers(ctx); accepts || aerr != nil {
		return aerr
	}
	return err
}

// defaultsFail evaluates the defaults of the columns that the rows leave out, and names one that
// fails.
func (p *promotion) defaultsFail(ctx context.Context) error {
	r, err := sendOne(ctx, p.q, p.t.sql.defaults.with(nil))
	if err != nil {
		return err
	}
	for row := range r.each() {
		_, err := p.try(ctx, func() (int64, error) {
			if _, err := sendOne(ctx, p.q, do("SELECT "+row.text("value"))); err != nil {
				return 0, err
			}
			return 0, errRollBack
		})
		if !errors.Is(err, errRollBack) {
			return fmt.Errorf("staging: the default of column %q fails: %s: %w", row.text("name"), row.text("value"), err)
		}
	}
	return nil
}

// othersTried is how many records of other promotions acceptsOthers tries.
const othersTried = 64

// acceptsOthers is true if the target accepts a staged record that this promotion does not take.
// What it writes is rolled back.
func (p *promotion) acceptsOthers(ctx context.Context) (bool, error) {
	left := othersTried
	if p.searches() {
		left = slowOthersTried
	}
	for s := range p.t.sql.side {
		other, condition := &p.t.sql.side[s], everyRow
		if side(s) == p.s {
			condition = "NOT (" + p.which() + ")"
		}
		records, err := p.othersOf(ctx, other, condition)
		if err != nil {
			return false, err
		}
		for _, record := range records[:min(left, len(records))] {
			left--
			n, err := p.limited(ctx, p.times.record, func() (int64, error) {
				n, err := p.execPlain(ctx, other.insertPlain.where("s."+colRecord+" = "+text(record)+" AND "+condition).with(nil))
				if err == nil {
					err = errRollBack
				}
				return n, err
			})
			switch accepted := errors.Is(err, errRollBack); {
			case accepted && n > 0:
				return true, nil
			case !accepted && verdictOf(err) == verdictSurroundings && !p.tooSlow(ctx, err):
				return false, err
			}
		}
	}
	return false, nil
}

// othersOf lists some records of a side. One that another promotion works on has none, nor has one
// that was taken away with its lane.
func (p *promotion) othersOf(ctx context.Context, other *sideStatements, condition string) (records []int64, err error) {
	_, err = p.try(ctx, func() (int64, error) {
		res, err := send(ctx, p.q, other.share.with(nil), other.someRecords.where(condition).with(nil))
		if err != nil {
			return 0, err
		}
		for row := range res[1].each() {
			records = append(records, row.int("record"))
		}
		return 0, nil
	})
	if code := sqlState(err); code == lockNotAvailable || code == undefinedTable {
		return nil, nil
	}
	return records, err
}

// isData is true if a COPY failed because of a value. Where Postgres names a line, a function of a
// domain or of a default may have met what looks like a missing object.
func isData(err error) bool {
	var pg *pgconn.PgError
	v := verdictOf(err)
	return v == verdictData || v == verdictUnlessAll && errors.As(err, &pg) && pg.Where != ""
}

// isMissing is true for the errors of such a function that may be due to the surroundings: a
// privilege, a relation or a function that is missing, another server.
func isMissing(err error) bool {
	code := sqlState(err)
	return slices.Contains([]string{"42501", "42P01", "42883", "42704"}, code) ||
		verdictOf(err) == verdictUnlessAll && slices.Contains([]string{"28", "2F", "3D", "3F", "55", "58", "HV"}, code[:2])
}

// isTooWide is true if a row does not fit a page, even with its long values elsewhere.
func isTooWide(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "54000" && pg.Routine == "RelationGetBufferForTuple"
}

// refusalOf makes code and reason of a reject from Postgres' error.
func refusalOf(err error) (code, reason string) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return CodeEncode, cutReason(err.Error())
	}
	reason = pg.Message
	if pg.Detail != "" {
		reason += ": " + pg.Detail
	}
	switch {
	case pg.ConstraintName != "" && !strings.Contains(pg.Message, pg.ConstraintName):
		reason = "constraint " + quote(pg.ConstraintName) + ": " + reason
	case pg.ColumnName != "" && !strings.Contains(pg.Message, pg.ColumnName):
		reason = "column " + quote(pg.ColumnName) + ": " + reason
	default:
		if i := strings.Index(pg.Where, ", column "); i >= 0 {
			reason = pg.Where[i+2:] + ": " + reason
		}
	}
	return codeSQL + pg.Code, cutReason(reason)
}

// cutReason cuts a reason to MaxReason characters.
func cutReason(s string) string {
	if len(s) <= MaxReason {
		return s
	}
	n := 0
	for i := range s {
		if n++; n > MaxReason {
			return s[:i]
		}
	}
	return s
}
