package staging

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
)

// side is one set of staging tables. A lane has two: lane 0 has the sides 0 and 1, lane 1 has the
// sides 2 and 3, and so on.
type side int

const (
	sideA side = iota
	sideB
	noSide side = -1
)

// String is the end of the names of the side's tables: a, b, a2, b2, a3 …
func (s side) String() string {
	if s.lane() == 0 {
		return s.letter()
	}
	return s.letter() + strconv.Itoa(s.lane()+1)
}

// letter is a or b: the control row has one for each lane, that of the side that is open.
func (s side) letter() string { return [...]string{"a", "b"}[s%2] }
func (s side) other() side    { return s ^ 1 }
func (s side) lane() int      { return int(s / 2) }

// sideOf is the side of a lane that the control row says is open.
func sideOf(open string, lane int) side {
	s := side(2 * lane)
	if lane < len(open) && open[lane] == 'b' {
		s++
	}
	return s
}

// names are the quoted, schema-qualified names of all tables of one target.
type names struct {
	name         pgschema.Name // of the target, not quoted
	target       string        // quoted, like all that follow
	staging      []string      // by side; so are the next two
	registry     []string
	numbers      []string // the sequences that number the batches of a registry
	refused      []string
	epoch        string
	ledger       string
	ledgerAt     string // an index: no schema; so are the next three
	ledgerRoot   string
	rejectsBatch string
	rejectsKey   string
	rejects      string
	rejectCounts string
	rewrites     string
	control      string
	stagingName  []string // by side, not quoted, no schema
	own          []string // all the tables, not quoted, no schema
}

func newNames(target pgschema.Name, lanes int) names {
	n := names{name: target, target: target.String()}
	full := func(suffix string) string {
		own := target.With(suffix)
		n.own = append(n.own, own.Table)
		return own.String()
	}
	for s := range side(2 * lanes) {
		n.stagingName = append(n.stagingName, target.With("_staging_"+s.String()).Table)
		n.staging = append(n.staging, full("_staging_"+s.String()))
		n.registry = append(n.registry, full("_registry_"+s.String()))
		n.numbers = append(n.numbers, target.With("_registry_"+s.String()+"_no_seq").String())
		n.refused = append(n.refused, full("_refused_"+s.String()))
	}
	n.epoch, n.ledger, n.rejects, n.control = full("_epoch"), full("_ledger"), full("_rejects"), full("_control")
	n.rejectCounts, n.rewrites = full("_reject_counts"), target.With("_rewrites").String()
	n.ledgerAt, n.ledgerRoot = quote(target.With("_ledger_at").Table), quote(target.With("_ledger_root").Table)
	n.rejectsKey, n.rejectsBatch = quote(target.With("_rejects_key").Table), quote(target.With("_rejects_batch").Table)
	return n
}

// parseName reads a target's name as pgschema.ParseName does.
func parseName(s string) (pgschema.Name, error) {
	n, err := pgschema.ParseName(s)
	if err != nil {
		return n, fmt.Errorf("%w: the target's name is %q, %w", ErrConfig, s, err)
	}
	return n, nil
}

func quote(name string) string { return pgschema.Quote(name) }

// list quotes columns, each with a prefix such as "s.", and joins them.
func list(prefix string, columns []string) string {
	return strings.Join(pgschema.QuoteAll(prefix, columns), ", ")
}

func literal(s string) string { return pgschema.Literal(s) }
