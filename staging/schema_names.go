package staging

import (
	"fmt"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
)

// side is one of the two sets of staging tables.
type side int

const (
	sideA side = iota
	sideB
	noSide side = -1
)

func (s side) String() string { return [...]string{"a", "b"}[s] }
func (s side) other() side    { return 1 - s }

func sideOf(open string) side {
	if open == "b" {
		return sideB
	}
	return sideA
}

// names are the quoted, schema-qualified names of all tables of one target.
type names struct {
	name         pgschema.Name // of the target, not quoted
	target       string        // quoted, like all that follow
	staging      [2]string
	registry     [2]string
	refused      [2]string
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
	stagingName  [2]string // not quoted, no schema
	own          []string  // all the tables, not quoted, no schema
}

func newNames(target pgschema.Name) names {
	n := names{name: target, target: target.String()}
	full := func(suffix string) string {
		own := target.With(suffix)
		n.own = append(n.own, own.Table)
		return own.String()
	}
	for s := range n.staging {
		x := side(s).String()
		n.stagingName[s] = target.With("_staging_" + x).Table
		n.staging[s] = full("_staging_" + x)
		n.registry[s] = full("_registry_" + x)
		n.refused[s] = full("_refused_" + x)
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
		return n, fmt.Errorf("%w: the target's name is %q: %w", ErrConfig, s, err)
	}
	return n, nil
}

func quote(name string) string { return pgschema.Quote(name) }

// list quotes columns, each with a prefix such as "s.", and joins them.
func list(prefix string, columns []string) string {
	return strings.Join(pgschema.QuoteAll(prefix, columns), ", ")
}

func literal(s string) string { return pgschema.Literal(s) }
