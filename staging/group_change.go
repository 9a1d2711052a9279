package staging

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A batch keeps the list of the tables that it was staged for. The registries have it, and after
// the promotion the ledgers and the rejects. A program with other members recognizes what was
// promoted into other tables than its own.

// tablePattern matches a quoted target with its schema.
var tablePattern = regexp.MustCompile(`"(?:[^"]|"")+"\."(?:[^"]|"")+"`)

// tablesOf takes the list of a group's tables apart. For a table alone it returns none.
func tablesOf(list string) []string { return tablePattern.FindAllString(list, -1) }

// composition names the tables that a batch of a table was staged for.
func composition(list, target string) string {
	if list == "" {
		return target + " alone"
	}
	return "the group " + strings.TrimSuffix(list, separator)
}

// ledgerEntry is what the ledger of one table has of a batch.
type ledgerEntry struct {
	kind   string // empty: nothing
	tables string // the group that has promoted it; empty: the table alone
	older  bool   // of an older layout, which did not record the tables
}

func entryOf(r record) ledgerEntry {
	return ledgerEntry{kind: r.text("kind"), tables: r.text("tables"), older: r.null("tables")}
}

// settled judges what the ledgers of the members have of a batch. FateUnknown: nothing. The error
// names the tables that the batch was promoted into if a member is not among them.
func (g *TableGroup[R]) settled(id string, of []ledgerEntry) (Fate, error) {
	fate, other := FateUnknown, ""
	for i, e := range of {
		switch {
		case e.kind == "":
		case e.kind == "void":
			fate = FateVoid
		case e.older && i == 0, g.within(i, e.tables):
			return FatePromoted, nil
		case other == "":
			other = composition(e.tables, g.views[i].names.target)
		}
	}
	if other == "" {
		return fate, nil
	}
	return FateUnknown, fmt.Errorf("%w: Group: batch %s was promoted into %s, and this group is %s: drain the queue (Flow.Drain) with the members of before, then change them",
		ErrConfig, id, other, g.Name())
}

// within reports whether all members are among the tables that member i shares a batch with.
func (g *TableGroup[R]) within(i int, list string) bool { return len(g.notIn(i, list)) == 0 }

// notIn returns the members that are not among the tables that member i shares a batch with.
func (g *TableGroup[R]) notIn(i int, list string) (targets []string) {
	tables := append(tablesOf(list), g.views[i].names.target)
	for _, v := range g.views {
		if !slices.Contains(tables, v.names.target) {
			targets = append(targets, v.names.target)
		}
	}
	return targets
}

// kindsOf reads what the ledgers have of some batches, a call for each member.
func (g *TableGroup[R]) kindsOf(ids []string) []call {
	var out []call
	for _, v := range g.views {
		out = append(out, v.sql.ledgerKinds.with(args{"ids": array(ids)}))
	}
	return out
}

// entriesOf takes the results of kindsOf, by batch.
func (g *TableGroup[R]) entriesOf(res []result) map[string][]ledgerEntry {
	out := map[string][]ledgerEntry{}
	for i, r := range res {
		for row := range r.each() {
			id := row.text("id")
			if out[id] == nil {
				out[id] = make([]ledgerEntry, len(g.views))
			}
			out[id][i] = entryOf(row)
		}
	}
	return out
}

// fatesOf are the fates that the ledgers decide. A batch that was promoted into other tables is not
// among them: it is delivered again, and Stage returns the error.
func (g *TableGroup[R]) fatesOf(res []result, _ []int) (map[string]Fate, error) {
	out := map[string]Fate{}
	for id, of := range g.entriesOf(res) {
		if f, err := g.settled(id, of); err == nil {
			out[id] = f
		}
	}
	return out, nil
}

// stagedHere returns an error if a batch that a table has in its registry was not staged by the
// group. Promotions of the group would leave it there.
func (g *TableGroup[R]) stagedHere(ctx context.Context, q *pgx.Conn, s side, i int, b *Batch) error {
	r, err := sendOne(ctx, q, g.views[i].sql.side[s].registeredAs.with(args{"id": b.ID}))
	if err != nil {
		return err
	}
	for row := range r.each() {
		if list := row.text("tables"); !strings.HasPrefix(list, g.leader) {
			return fmt.Errorf("%w: Group: batch %s is staged for %s, and this group is %s: drain the queue with the members of before, or stop their programs and call DiscardStaged for %s",
				ErrConfig, b.ID, composition(list, g.views[i].names.target), g.Name(), g.views[i].names.target)
		}
	}
	return nil
}
