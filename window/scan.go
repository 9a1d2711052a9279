package window

import (
	"context"
	"strconv"

	"github.com/headrace/headrace/internal/redisx"
)

// zscan visits the members of a sorted set.
func (s *Store) zscan(ctx context.Context, key string, visit func(member string)) error {
	for cursor := uint64(0); ; {
		e, err := s.server.Read(ctx, "ZSCAN", key, strconv.FormatUint(cursor, 10), "COUNT", "500").AsScanEntry()
		if err != nil {
			return err
		}
		for i := 0; i < len(e.Elements); i += 2 {
			visit(e.Elements[i])
		}
		if cursor = e.Cursor; cursor == 0 {
			return nil
		}
	}
}

// scanKeys visits the keys of this package under the name, on every node.
func (s *Store) scanKeys(ctx context.Context, visit func(key string)) error {
	for _, node := range s.server.Nodes() {
		for cursor := uint64(0); ; {
			e, err := node.Do(ctx, node.B().Scan().Cursor(cursor).Match(redisx.EscapeGlob(s.prefix)+"*").Count(1000).Build()).AsScanEntry()
			if err != nil {
				return err
			}
			for _, key := range e.Elements {
				visit(key)
			}
			if cursor = e.Cursor; cursor == 0 {
				break
			}
		}
	}
	return nil
}
