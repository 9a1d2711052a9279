package matview

import (
	"context"
	"embed"
	"io/fs"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

//go:embed *.sql
var sqlFiles embed.FS

// ownCalls are the functions that statements outside the files call.
const ownCalls = `bit_and( bit_count( bit_or( bool_or( count( current_setting( exp( hashtextextended( length( lower( max( min( pg_advisory_xact_lock(
	pg_try_advisory_xact_lock( power( round( set_bit( set_config( sum( to_regclass( pg_collation_for( pg_typeof( ::text ::numeric ::record pg_class`

// shadows finds what the statements of this package would mean instead of what Postgres has.
var shadows = sync.OnceValue(func() string {
	all := ownCalls
	files, err := fs.Glob(sqlFiles, "*.sql")
	if err != nil {
		panic(err)
	}
	for _, f := range files {
		text, err := sqlFiles.ReadFile(f)
		if err != nil {
			panic(err)
		}
		all += "\n" + string(text)
	}
	return pgschema.Shadows(strings.ToLower(all))
})

// refuseShadows refuses a search path in which an operator or a function of the user stands before
// that of Postgres: the statements of this package would mean the user's.
func refuseShadows(ctx context.Context, tx pgx.Tx) error {
	var name string
	if err := tx.QueryRow(ctx, shadows()).Scan(&name); err != nil {
		return err
	}
	if name != "" {
		return invalid("%s", pgschema.Shadowed(name))
	}
	return nil
}
