package staging

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// merged puts the user's merges behind the insert. Without any, the insert stays plain: RETURNING
// costs.
func (t *Table[T]) merged(insert statement) statement {
	return mergedWith(insert, t.cfg.Merges)
}

func mergedWith(insert statement, merges []Merge) statement {
	if len(merges) == 0 {
		return insert
	}
	var b strings.Builder
	b.WriteString("WITH promoted AS (" + insert.text + " RETURNING *)")
	for _, m := range merges {
		b.WriteString(", " + quote(m.Name) + " AS (" + m.SQL + "\n)")
	}
	b.WriteString(" SELECT count(*) AS n FROM promoted")
	insert.text = b.String()
	return insert
}

// blameMerge finds out whether a merge is at fault for the refusal of an insert: the rows are
// inserted without merges, and taken back. If the server takes them, the merge that fails alone is
// named.
func (p *promotion[T]) blameMerge(ctx context.Context, condition string, refusal error) error {
	merges := p.t.cfg.Merges
	if len(merges) == 0 {
		return nil
	}
	attempt := func(s statement) error {
		_, err := p.try(ctx, func() (int64, error) {
			if _, err := sendOne(ctx, p.q, s.where(condition).with(nil)); err != nil {
				return 0, err
			}
			return 0, errTakeBack
		})
		return err
	}
	plain := p.sql().insertPlain
	if err := attempt(plain); !errors.Is(err, errTakeBack) {
		return nil // the rows are at fault, or the surroundings
	}
	for _, m := range merges {
		if err := attempt(mergedWith(plain, []Merge{m})); !errors.Is(err, errTakeBack) {
			return fmt.Errorf("%w: merge %q: %w", ErrMerge, m.Name, err)
		}
	}
	return fmt.Errorf("%w: the merges together: %w", ErrMerge, refusal)
}
