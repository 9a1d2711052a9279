package staging

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Defaults of a Config.
const (
	DefaultMaxRows      = 1_000_000
	DefaultLockTimeout  = 5 * time.Second
	DefaultIdleTimeout  = 10 * time.Second
	DefaultStageTimeout = 3 * time.Second
)

// A Conflict says what a promotion does with a row whose key is in the target already.
type Conflict uint8

// The conflict policies.
const (
	ConflictSkip    Conflict = iota // keep the row that is there; the new one is counted as a conflict
	ConflictReplace                 // the new row replaces it (see Config.Newer and ReplaceIf); one that loses is counted as a conflict
	ConflictFail                    // the promotion fails with ErrConflict and changes nothing
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
	// ReplaceIf, with Replace, is an SQL condition over the row that is there (alias old) and the new one (EXCLUDED); only
	// where it is true the new row replaces the old one. Trusted text, never user input. With Newer, both must hold. Of
	// several rows with one key that a promotion finds, the last, or the greatest by Newer, is tried; whether others are tried
	// before it depends on how the rows fall into promotions, so let the condition not depend on that.
	ReplaceIf string

	// Rules reject rows at promotion. NOT NULL, CHECK and foreign key constraints of the target are rules by themselves.
	Rules []Rule
	// Merge holds statements that run inside the promotion.
	Merges []Merge

	// ID names the column that holds the record's id for the dedup window; default: the key, if it is one column.
	ID string
	// IDOf gives the same id from a T, for rows that are rejected before they are in Postgres; default: from the tagged
	// field of column ID.
	IDOf func(*T) string

	LockTimeout time.Duration // how long a statement waits for a lock; default 5 s
	IdleTimeout time.Duration // after which Postgres ends a transaction whose client says nothing; default 10 s
	// StageTimeout is how long a COPY may stand still while a promotion waits for its lock, until the
	// promoter disconnects its worker. A COPY that moves is left alone. Default 3 s.
	StageTimeout time.Duration
}

// colRecord is the staging tables' own column: the number of the batch, and in the lower 32 bits the record's position
// in it. One column instead of two, because each costs a COPY 2 %.
const colRecord = "hr_record"

// postponedBit marks the rows that a promotion comes back to at its end. It is the sign, so the order stays.
const postponedBit = "(-9223372036854775808)::int8"

func recordOf(no, pos int32) int64 { return int64(no)<<32 | int64(pos) }

// batchOf and posOf take it apart again. What groups or joins takes it apart, too: Postgres hashes a bigint to the exclusive
// or of its halves, so of 100 batches of 5,000 records it makes 5,000 values, and a hash table becomes a list.
func batchOf(prefix string) string {
	return "((" + prefix + colRecord + " & ~" + postponedBit + ") >> 32)"
}
func posOf(prefix string) string { return "(" + prefix + colRecord + " & 4294967295)::int4" }

// check fills in defaults and says what cannot be.
func (c *Config[T]) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: Config."+format, append([]any{ErrConfig}, args...)...)
	}
	if (c.Fill == nil) != (len(c.Columns) == 0) {
		return bad("Columns and Config.Fill go together: give both or none")
	}
	seen := map[string]bool{}
	for i, col := range c.Columns {
		if col.Name == "" {
			return bad("Columns[%d].Name is empty", i)
		}
		if seen[col.Name] {
			return bad("Columns[%d].Name is %q for the second time", i, col.Name)
		}
		seen[col.Name] = true
	}
	if c.Conflict > ConflictFail {
		return bad("Conflict is %d: must be Skip, Replace or Fail", c.Conflict)
	}
	if c.Newer != "" && c.Conflict != ConflictReplace {
		return bad("Newer is %q, which needs Conflict Replace", c.Newer)
	}
	if c.ReplaceIf != "" && c.Conflict != ConflictReplace {
		return bad("ReplaceIf is %q, which needs Conflict Replace", c.ReplaceIf)
	}
	if c.Conflict == ConflictReplace && len(c.Merges) > 0 {
		return bad("Merge does not go with Conflict Replace: a row that replaces another would be counted twice")
	}
	for i, k := range c.Key {
		if k == "" || slices.Contains(c.Key[:i], k) {
			return bad("Key[%d] is %q: empty or named twice", i, k)
		}
	}
	for i, r := range c.Rules {
		if r.Code == "" || r.Where == "" {
			return bad("Rules[%d] needs Code and Where", i)
		}
		if r.Reason == "" {
			c.Rules = slices.Clone(c.Rules)
			c.Rules[i].Reason = r.Code
		}
	}
	for i, m := range c.Merges {
		if m.Name == "" || m.SQL == "" {
			return bad("Merge[%d] needs Name and SQL", i)
		}
		if m.Name == "promoted" || slices.ContainsFunc(c.Merges[:i], func(o Merge) bool { return o.Name == m.Name }) {
			return bad("Merge[%d].Name is %q, which is taken", i, m.Name)
		}
	}
	for _, d := range []struct {
		name string
		p    *time.Duration
		def  time.Duration
	}{{"LockTimeout", &c.LockTimeout, DefaultLockTimeout}, {"IdleTimeout", &c.IdleTimeout, DefaultIdleTimeout}, {"StageTimeout", &c.StageTimeout, DefaultStageTimeout}} {
		*d.p = cmp.Or(*d.p, d.def)
		if *d.p < time.Millisecond || *d.p > 24*time.Hour {
			return bad("%s is %v: must be 1ms to 24h", d.name, *d.p)
		}
	}
	return nil
}
