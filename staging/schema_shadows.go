package staging

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

// shadows finds what the statements of this package would mean instead of what Postgres has.
var shadows = sync.OnceValue(func() call {
	var all strings.Builder
	for _, name := range slices.Sorted(maps.Keys(templates)) {
		all.WriteString(templates[name])
	}
	return do(pgschema.Shadows(all.String()))
})

// refuseShadows refuses a search path in which an operator or a function of the user stands before
// that of Postgres: every statement of this package would mean the user's. One of other operands is
// no shadow, but may fit better; operators on keys are named with their schema.
func (t *table) refuseShadows(ctx context.Context, q *pgx.Conn) error {
	r, err := sendOne(ctx, q, shadows())
	if err != nil {
		return t.explain("reading the search path", err)
	}
	if name := r.row(0).text("name"); name != "" {
		return fmt.Errorf("%w: %s", ErrConfig, pgschema.Shadowed(name))
	}
	return nil
}

// refuseShadowsOnPool does it on a connection of the pool, before a transaction is begun on it.
func (t *table) refuseShadowsOnPool(ctx context.Context) error {
	return retryIdle(ctx, t.pool, func() error {
		conn, err := pgschema.Acquire(ctx, t.pool)
		if err != nil {
			return t.explain("reading the search path", err)
		}
		defer conn.Release()
		return t.refuseShadows(ctx, conn.Conn())
	})
}
