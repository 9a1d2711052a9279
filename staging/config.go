package staging

import (
	"time"
)

// Defaults of a Config.
const (
	DefaultMaxRows      = 1_000_000
	DefaultLockTimeout  = 5 * time.Second
	DefaultIdleTimeout  = 10 * time.Second
	DefaultStageTimeout = 30 * time.Second
)

// A Conflict says what a promotion does with a row whose key is in the target already.
type Conflict uint8

// The conflict policies.
const (
	Skip    Conflict = iota // keep the row that is there; the new one is counted as a conflict
	Replace                 // the new row replaces it (see Config.Newer); one that loses is counted as a conflict
	Fail                    // the promotion fails with ErrConflict and changes nothing
)

// A Rule rejects the rows for which Where is true: they go to the rejects table with Code and Reason and the row as
// jsonb. Rules are tried in order; the first that is true counts.
type Rule struct {
	Code   string // stable, for programs: "negative_amount"
	Reason string // for people: "the amount is below zero"
	Where  string // SQL over the columns of the staged row (alias s); trusted text, never user input
}

// A Merge is a data-modifying statement that runs inside the promotion, over the CTE promoted (the rows of the target
// that this promotion inserted, with all columns).
type Merge struct {
	Name string // a name for the CTE, unique among the merges
	SQL  string // INSERT … SELECT … FROM promoted … ON CONFLICT … DO UPDATE …
}

// A Column names a column of the target and, optionally, the type it is expected to have.
type Column struct {
	Name string
	Type string // SQL type, used to create the target and to check it; "" takes what is there
}

// Config says how rows of type T get into the target. The zero Config takes the columns from T's `db` tags and
// promotes without a key.
type Config[T any] struct {
	// Columns of the target that a T fills. nil: the fields of T that have a `db:"name"` tag (with `dbtype:"numeric(12,2)"`
	// beside it where the Go type does not say the SQL type). With Columns, Fill is needed.
	Columns []Column
	// Fill writes the values of one T, one call of a method of Row for each of Columns, in order. It runs on the hot
	// path and must not keep the Row.
	Fill func(*T, *Row)
	// Create makes the target if it does not exist, from the columns' types, with Key as its primary key.
	Create bool

	// Key names the columns of a unique index of the target, all NOT NULL. Without a key there are no conflicts: the
	// ledger alone gives exactly-once.
	Key []string
	// Conflict is the policy for rows whose key exists.
	Conflict Conflict
	// Newer, with Replace, names the column by which a row replaces another only if its value is greater. Without it the
	// row that was staged last replaces.
	Newer string

	// Rules reject rows at promotion. NOT NULL, CHECK and foreign key constraints of the target are rules by themselves.
	Rules []Rule
	// Merge holds statements that run inside the promotion.
	Merge []Merge

	// ID names the column that holds the record's id for the dedup window; default: the key, if it is one column.
	ID string
	// IDOf gives the same id from a T, for rows that are rejected before they are in Postgres; default: from the tagged
	// field of column ID.
	IDOf func(*T) string

	LockTimeout  time.Duration // how long a statement waits for a lock; default 5 s
	IdleTimeout  time.Duration // after which Postgres ends a transaction whose client says nothing; default 10 s
	StageTimeout time.Duration // after which a promoter disconnects a worker that stands in its COPY; default 30 s
}
