package orders_test

import (
	"errors"
	"fmt"
	"strings"

	"github.com/headrace/headrace/examples/orders"
)

// An order in yen becomes a row in dollars.
func Example() {
	payload := []byte(`{"order_id":"ord-1","customer_id":"cust-1","product_id":"ELEC-003","quantity":2,
		"unit_price":"4410","currency":"JPY","zip":"98101","at":"2026-01-05T10:02:47Z"}`)
	order, err := orders.Decode(payload)
	if err != nil {
		fmt.Println(err)
		return
	}
	row, err := orders.Enrich(order, orders.SampleCatalog())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(row.OrderID, row.Quantity, row.ProductName, row.City, row.TotalUSD, "USD")
	// Output: ord-1 2 Wireless Mouse Seattle 59.00 USD
}

// A refusal has a code to count by and a reason for people.
func ExampleInvalid() {
	_, err := orders.Decode([]byte(`{"order_id":"ord-1","customer_id":"cust-1","product_id":"ELEC-003","quantity":2,
		"unit_price":"12,50","currency":"EUR","zip":"98101","at":"2026-01-05T10:02:47Z"}`))
	var refused *orders.Invalid
	if errors.As(err, &refused) {
		fmt.Println(refused.Code)
		field, _, _ := strings.Cut(refused.Reason, ", must be") // what follows is the range
		fmt.Println(field)
	}
	// Output:
	// bad_price
	// unit_price is "\"12,50\""
}

// The generator counts what it made, so that a result can be checked against it.
func ExampleGenerator() {
	g, err := orders.NewGenerator(orders.Config{Seed: 1, Orders: 10_000, Duplicates: 0.05, Bad: 0.005})
	if err != nil {
		fmt.Println(err)
		return
	}
	for payload := range g.All() {
		_ = payload // push it
	}
	want := g.Expected()
	fmt.Println(want.Orders, want.Unique, want.Duplicates)
	fmt.Println(want.Rejected)
	// Output:
	// 10000 9450 500
	// map[malformed_json:11 too_large:5 unknown_currency:11 unknown_product:12 zero_quantity:11]
}
