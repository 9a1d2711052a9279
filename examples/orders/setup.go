package orders

import (
	"context"
	"encoding/csv"
	"fmt"
	"strings"

	"github.com/govalues/decimal"
	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/testdata"
)

// Table is the durable table that rows are promoted into.
const Table = "orders"

// A Beginner starts a transaction. A *pgxpool.Pool is one, and so is a *pgx.Conn.
type Beginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// Setup creates the tables and loads the lookup data. It may run any number of times and in
// several programs at once; lookup rows that are there already stay as they are.
func Setup(ctx context.Context, db Beginner) error {
	// READ COMMITTED sees what the program before has committed: under a stricter default of the
	// database, a snapshot from before the wait for the lock would end in 40001.
	options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}
	err := pgx.BeginTxFunc(ctx, db, options, func(tx pgx.Tx) error {
		// CREATE TABLE IF NOT EXISTS fails when two programs run it at the same moment. The lock
		// ends with the transaction, so it works through a transaction pooler.
		const settings = `
			SET LOCAL lock_timeout = '15s';
			SET LOCAL client_min_messages = warning;
			SELECT pg_advisory_xact_lock(hashtextextended('headrace/examples/orders', 0))`
		if _, err := tx.Exec(ctx, settings); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, testdata.Schema); err != nil {
			return err
		}
		for _, l := range []struct{ csv, sql string }{
			{testdata.ProductsCSV, `INSERT INTO product_catalog (product_id, name, category, base_price)
				SELECT a, b, c, d::numeric FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS t(a, b, c, d)
				ON CONFLICT DO NOTHING`},
			{testdata.CurrencyRatesCSV, `INSERT INTO currency_rates (currency, per_usd)
				SELECT a, b::numeric FROM unnest($1::text[], $2::text[]) AS t(a, b)
				ON CONFLICT DO NOTHING`},
			{testdata.ZipCodesCSV, `INSERT INTO zip_code_zones (zip, city, state, country, time_zone, shipping_zone)
				SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
				ON CONFLICT DO NOTHING`},
		} {
			if _, err := tx.Exec(ctx, l.sql, columns(l.csv)...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("orders: cannot set up the tables: %w", err)
	}
	return nil
}

// SampleCatalog returns the lookup data of testdata, for examples and tests without a database.
func SampleCatalog() Catalog {
	products, rates, zips := Map[Product]{}, Map[Rate]{}, Map[Zone]{}
	for _, r := range records(testdata.ProductsCSV) {
		products[r[0]] = Product{ID: r[0], Name: r[1], Category: r[2], BasePrice: decimal.MustParse(r[3])}
	}
	for _, r := range records(testdata.CurrencyRatesCSV) {
		rates[r[0]] = Rate{Currency: r[0], PerUSD: decimal.MustParse(r[1])}
	}
	for _, r := range records(testdata.ZipCodesCSV) {
		zips[r[0]] = Zone{Zip: r[0], City: r[1], State: r[2], Country: r[3], TimeZone: r[4], ShippingZone: r[5]}
	}
	return Catalog{Products: products, Rates: rates, Zips: zips}
}

// records returns the rows of an embedded CSV without its header.
func records(text string) [][]string {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		panic(err) // the files are part of the program
	}
	return rows[1:]
}

// columns turns the rows of an embedded CSV into one []string a column.
func columns(text string) []any {
	rows := records(text)
	out := make([]any, len(rows[0]))
	for c := range out {
		column := make([]string, len(rows))
		for r := range rows {
			column[r] = rows[r][c]
		}
		out[c] = column
	}
	return out
}
