package matview

import "context"

// Merge says how a measure takes in new rows.
type Merge uint8

const (
	// Sum adds; NULLs are left out, as in SQL's sum.
	Sum Merge = iota + 1
	// Count counts the rows where Expr is not NULL, all of them if Expr is empty.
	Count
	// Min keeps the smallest.
	Min
	// Max keeps the greatest.
	Max
)

// Column is a column of a roll-up's key.
type Column struct {
	// Name of the column in the roll-up.
	Name string
	// Expr over the columns of the promoted row; default: the column of the same name. It is code: never build it from input.
	Expr string
	// Type of the column, as SQL writes it.
	Type string
}

// Measure is an aggregated column of a roll-up.
type Measure struct {
	Name string
	// Expr is what is aggregated, without the aggregate: "quantity * price", not "sum(quantity * price)".
	Expr string
	// Type of the column. Default bigint for Count, numeric for Sum; Min and Max need one.
	Type  string
	Merge Merge
}

// Rollup is a table of aggregates that is merged from the rows of each promotion, in the promotion's transaction.
type Rollup struct {
	// Table is the roll-up's own table, "table" or "schema.table".
	Table string
	// Name of the merge among others; default: the table's name.
	Name     string
	GroupBy  []Column
	Measures []Measure
}

// Create makes the table and its unique key where they are missing, and otherwise checks them: a difference is a
// [*DriftError]. A new roll-up is empty: if the target already has rows, call [Rollup.Rebuild] once.
func (r Rollup) Create(ctx context.Context, db DB) error { return nil }

// Merge returns a name and the text of a data-modifying statement that reads the rows of one promotion from the common table
// expression "promoted" and merges them. It begins with INSERT and ends without a semicolon, so it serves as the body of a
// further common table expression or as the main statement. Rows are merged in the order of the key, so that two promoters cannot deadlock.
func (r Rollup) Merge() (name, sql string, err error) { return r.Name, "", nil }

// Rebuild recomputes the roll-up from a table (the promotion's target) and returns how many groups it had to change.
// Promotions wait for it, readers do not.
func (r Rollup) Rebuild(ctx context.Context, db DB, from string) (int64, error) { return 0, nil }

// Check compares the roll-up with a recomputation from a table, in one snapshot. No differences means that they are
// equal; otherwise it returns the first limit of them in the order of the key (limit 0: 100).
func (r Rollup) Check(ctx context.Context, db DB, from string, limit int) ([]Difference, error) {
	return nil, nil
}

// Difference is one group in which roll-up and recomputation differ. The values are as Postgres prints them, NULL as "NULL".
type Difference struct {
	// Group has the values of the key columns.
	Group []string
	// Have has the roll-up's measures, nil if it lacks the group.
	Have []string
	// Want has the recomputed measures, nil if the group should not exist.
	Want []string
}
