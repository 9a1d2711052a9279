package staging

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// merged puts the user's merges after the insert. Without any, the insert stays plain: RETURNING
// costs.
func (t *table) merged(insert statement) statement {
	return t.mergedWith(insert, t.cfg.Merges)
}

func (t *table) mergedWith(insert statement, merges []Merge) statement {
	if len(merges) == 0 {
		return insert
	}
	columns, known := t.returned(merges)
	if !known {
		columns = t.targetColumns
	}
	returning := columns
	replaced := slices.ContainsFunc(merges, func(m Merge) bool { return m.Replaced })
	if replaced {
		for _, k := range t.cfg.Key {
			if !slices.Contains(returning, k) {
				returning = append(slices.Clip(returning), k)
			}
		}
	}
	what := "true AS hr_row"
	if len(returning) > 0 {
		what = list("", returning)
	}
	var b strings.Builder
	b.WriteString("WITH promoted AS (" + insert.text + " RETURNING " + what + ")")
	if replaced {
		b.WriteString(", replaced AS (" + t.replacedRows(columns) + ")")
	}
	for _, m := range merges {
		b.WriteString(", " + quote(m.Name) + " AS (" + m.SQL + "\n)")
	}
	b.WriteString(" SELECT count(*) AS n FROM promoted")
	insert.text = b.String()
	return insert
}

// replacedRows is the query of what the promoted rows have replaced.
func (t *table) replacedRows(columns []string) string {
	of := func(prefix string) string {
		if len(columns) == 0 {
			return "true AS hr_row"
		}
		return list(prefix, columns)
	}
	if t.cfg.Conflict != ConflictReplace {
		return "SELECT " + of("") + " FROM promoted WHERE false"
	}
	return fill("replaced", pieces{
		"target": t.target, "old_columns": of("hr_old."), "replaced_columns": of("o."), "key_promoted": t.keyEquals("hr_old.", "p."),
	}).text
}

// alone is true if other writers of the target have to wait for the promotion: its merges read what
// it replaces, and that must not change between the reading and the replacing.
func (t *table) alone() bool {
	return t.cfg.Conflict == ConflictReplace && slices.ContainsFunc(t.cfg.Merges, func(m Merge) bool { return m.Replaced })
}

// finishMerges runs the statements that the merges need after the insert.
func (p *promotion) finishMerges(ctx context.Context) error {
	if p.written == 0 {
		return nil
	}
	return p.t.afterMerges(ctx, p.q)
}

func (t *table) afterMerges(ctx context.Context, q *pgx.Conn) error {
	for _, m := range t.cfg.Merges {
		if m.Then == "" {
			continue
		}
		if _, err := sendOne(ctx, q, do(m.Then)); err != nil {
			return fmt.Errorf("%w: merge %q: Then: %w", ErrMerge, m.Name, err)
		}
	}
	return nil
}

// blameMerge finds out whether a merge is at fault for the refusal of an insert: the rows are
// inserted without merges, and rolled back. If the server takes them, the first merge that fails
// after those before it is named: a merge may read what an earlier one returns.
func (p *promotion) blameMerge(ctx context.Context, condition string, refusal error) error {
	merges := p.t.cfg.Merges
	if len(merges) == 0 {
		return nil
	}
	attempt := func(s statement) error {
		_, err := p.limited(ctx, p.times.record, func() (int64, error) {
			if _, err := p.sendInsert(ctx, s.where(condition).with(nil)); err != nil {
				return 0, err
			}
			return 0, errRollBack
		})
		return err
	}
	_, plain := p.inserts()
	if err := attempt(plain); !errors.Is(err, errRollBack) {
		return nil // the rows are at fault, or the surroundings
	}
	for i, m := range merges {
		if err := attempt(p.t.mergedWith(plain, merges[:i+1])); !errors.Is(err, errRollBack) {
			return fmt.Errorf("%w: merge %q: %w", ErrMerge, m.Name, err)
		}
	}
	return fmt.Errorf("%w: the merges together: %w", ErrMerge, refusal)
}
