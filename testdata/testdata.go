// Package testdata holds what the example programs and the tests of this repository share: the
// tables of the order domain, its lookup data, the three dashboard views and a few sample orders.
//
// It is a package, and not only a directory, so that `go run ./examples/demo` and a test in any
// directory find the files: they are embedded. Read the files themselves; package
// [github.com/headrace/headrace/examples/orders] turns them into Go values.
package testdata

import "embed"

// Schema creates the lookup tables and the orders table. Every statement may run again.
//
//go:embed schema.sql
var Schema string

// ProductsCSV is the product catalog: 15 products in four categories.
//
//go:embed products.csv
var ProductsCSV string

// CurrencyRatesCSV is seven currencies, in units per US dollar.
//
//go:embed currency_rates.csv
var CurrencyRatesCSV string

// ZipCodesCSV is eight zip codes of the US and two of Canada.
//
//go:embed zip_codes.csv
var ZipCodesCSV string

// OrdersJSONL is 21 orders, one a line: 12 good ones, 2 repeated, 7 to be refused for different
// reasons.
//
//go:embed orders.jsonl
var OrdersJSONL string

// Views holds the query of each dashboard view as views/<name>.sql.
//
//go:embed views/*.sql
var Views embed.FS
