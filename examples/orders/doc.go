// Package orders is the domain that the example programs share: orders of a web shop that come
// in as JSON, are looked up in a product catalog, a table of exchange rates and one of zip codes,
// and end as rows of a durable table. It is an example of application code that uses headrace.
//
//	payload ──Decode──▶ Order ──Enrich(Catalog)──▶ Row
//
// What does not pass is an [*Invalid] with a code that is safe to count by and a reason that is
// meant for people; no input makes this package panic.
//
// # Money
//
// Prices are exact decimals from the JSON text to the numeric column; no float is involved
// anywhere. An exchange rate is units per US dollar, so an amount is divided by it:
//
//	total_usd = unit_price × quantity ÷ per_usd
//
// The product and the division are exact (a quotient and a remainder), and the result is rounded
// once, at the end, half to even, to cents. Five yen at 149.5 a dollar are 0.03, not 747.50.
//
// # Generator
//
// [NewGenerator] makes a stream of payloads out of a seed: the same seed, the same bytes. It
// counts what it handed out ([Expected]), so that a demonstration can check its result.
//
// # Files
//
// Tables, lookup data, views and sample orders are plain SQL, CSV and JSON in the directory
// testdata. [Setup] puts the tables and the lookup data into a database.
package orders
