package orders

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// Table is the durable table that rows are promoted into.
const Table = "orders"

// A Beginner starts a transaction. A *pgxpool.Pool is one, and so is a *pgx.Conn.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Setup creates the tables and loads the lookup data. It may run any number of times and in
// several programs at once; lookup rows that are there already stay as they are.
func Setup(ctx context.Context, db Beginner) error {
	return errors.New("orders: Setup is not written yet")
}

// A View is a dashboard view over the orders table.
type View struct {
	Name   string
	SQL    string   // its query
	Unique []string // the columns that tell its rows apart
}

// Views returns the three dashboard views.
func Views() []View { return nil }

// SampleCatalog returns the lookup data of testdata, for examples and tests without a database.
func SampleCatalog() Catalog { return Catalog{} }
