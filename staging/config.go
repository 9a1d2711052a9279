package staging

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Defaults of a Config.
const (
	DefaultMaxRows       = 1_000_000
	DefaultLockTimeout   = 5 * time.Second
	DefaultIdleTimeout   = 10 * time.Second
	DefaultStageTimeout  = 3 * time.Second
	DefaultCommitTimeout = time.Minute
)

// MaxLanes bounds Config.Lanes.
const MaxLanes = 16

// A Conflict is what a promotion does with a row whose key is already in the target. If one record
// has several rows with the same key, any of them may come first.
type Conflict uint8

// The conflict policies.
const (
	// ConflictSkip keeps the existing row; the new one counts as a conflict. A promotion keeps, skips
	// and rejects the rows that INSERT … ON CONFLICT DO NOTHING does, row by row in the order of
	// arrival, however the batches are divided into promotions. So a row whose key is there is still
	// rejected if a trigger before the insert, a policy, NOT NULL or CHECK refuses it, and is a
	// conflict whatever a foreign key, another unique index or a trigger after the insert would
	// refuse. Triggers before the insert run for it, and the key that they leave decides. A row that
	// a trigger drops is a conflict if the key that it was staged with is there.
	ConflictSkip Conflict = iota
	// ConflictReplace puts the new row in its place, with the new spelling of the key. Config.Newer
	// and Config.ReplaceIf decide which row wins; one that loses counts as a conflict. Rejects are
	// those of INSERT … ON CONFLICT DO UPDATE, row by row. If a key comes several times in one
	// promotion, the rows that do not stay may count as conflicts or as rows: the sum of Rows and
	// Conflicts is the same, however the batches are divided into promotions.
	ConflictReplace
	// ConflictFail makes the promotion fail with a [ConflictError] where ConflictSkip counts a
	// conflict. Nothing is changed.
	ConflictFail
)

// A Rule rejects the rows for which Where is true. They go to the rejects table with Code, Reason
// and the row as JSON. The first rule that is true, in the given order, decides.
type Rule struct {
	// Code is for programs and stable: "negative_amount". It has up to 64 characters of a to z, 0 to 9
	// and _, begins with a letter, and does not begin with sqlstate_.
	Code   string
	Reason string // for people: "the amount is below zero"
	Where  string // SQL over the columns of the staged row (alias s); trusted text, never user input
}

// A Merge is a statement that runs inside the promotion. It reads the common table expression
// "promoted": the rows of the target that this promotion inserted or, with ConflictReplace,
// updated, as they are now. Only the columns that the merges name are kept for them. So name each
// column: * or the name of the rows alone keeps all columns.
type Merge struct {
	// Name is the name of the common table expression, unique among the merges. A later merge may read
	// what SQL returns.
	Name string
	// SQL is INSERT … SELECT … FROM promoted … ON CONFLICT … DO UPDATE …, or a SELECT for later
	// merges.
	SQL string
	// Replaced is true if SQL also takes out the values of the common table expression "replaced": the
	// rows that the promoted ones have replaced, as they were. ConflictReplace requires it for every
	// merge, or a row that replaces another would count twice. Other writers of the target wait while
	// such a promotion is under way.
	Replaced bool
	// Then, if set, is a statement that runs after the insert and all merges, in their transaction. It
	// sees what they wrote.
	Then string
}

// A Column is a column of the target and, optionally, the type that it is expected to have.
type Column struct {
	Name string
	Type string // SQL type, used to create and to check the target; "" accepts any type
}

// Config configures a Table. The zero Config takes the columns from the `db` tags of T and promotes
// without a key.
type Config[T any] struct {
	// Columns are the columns of the target that a T fills. Nil: the fields of T that have a
	// `db:"name"` tag. If the Go type of a field does not determine the SQL type, add a tag like
	// `dbtype:"numeric(12,2)"`. With `db:"name,nullzero"`, the zero value of the field is written as
	// NULL. Columns requires Fill.
	Columns []Column
	// Fill writes the values of one T: one call of a method of Row for each of Columns, in order. It
	// runs on the hot path and must not keep the Row.
	Fill func(*T, *Row)
	// Create creates the target if it does not exist, from the types of the columns, with Key as its
	// primary key. Tables that the Merges write may then follow, until the first promotion.
	Create bool

	// AllowUnlogged accepts a target that is UNLOGGED, or has such a partition. A crash of the server
	// empties it, and the batches that were promoted into it stay promoted in the ledger: nothing
	// stages them again. Without it, New and Promote return [ErrUnlogged].
	AllowUnlogged bool

	// NoCreate makes New check the companion tables of the target, and create and change nothing. A
	// missing table is an [ErrMissing]. [SQL] returns the schema for a migration tool.
	NoCreate bool
	// Role is what the program does with the table; it decides which privileges New checks. Default
	// RoleAll.
	Role Role

	// Key names the columns of a unique index of the target, all NOT NULL. Without a key there are no
	// conflicts: the ledger alone gives exactly-once.
	Key []string
	// Conflict is the policy for rows whose key already exists.
	Conflict Conflict
	// Newer, with ConflictReplace, names the column by which a row replaces another one only if its
	// value is greater, or if the other one has none. Without Newer the row that was staged last
	// replaces.
	Newer string
	// ReplaceIf, with ConflictReplace, is an SQL condition over the existing row (alias old) and the
	// new one (EXCLUDED). The new row replaces the old one only if the condition is true, and if Newer
	// holds too. It is trusted text, never user input. Of several rows with one key in one promotion,
	// the last is tried, or the greatest by Newer. Whether others are tried before it depends on how
	// the rows are divided into promotions, so the condition must not depend on that.
	ReplaceIf string

	// Lanes is the number of pairs of staging tables, up to [MaxLanes]. One promoter at a time works
	// in a lane, so with two lanes two backends of Postgres promote at once. The id of a batch decides
	// its lane. 0: as many as the target has; a new target has one.
	//
	// New adds lanes; only [RetireLanes] removes them. With a smaller number than the target has,
	// Stage uses the first lanes, and all lanes are promoted. A program that was started before the
	// number grew promotes nothing and returns [ErrDrift] until it is restarted. See "Lanes" in the
	// package comment for what lanes change.
	Lanes int

	// Rules reject rows at promotion. NOT NULL, CHECK and foreign key constraints of the target act as
	// rules without being listed.
	Rules []Rule
	// Merges are statements that run inside the promotion. The tables that they write exist before
	// New, unless Create is set.
	Merges []Merge

	// ID names the column with the record's id in the dedup window. Default: the key, if it is one
	// column.
	ID string
	// IDOf returns the same id from a T, for rows that are rejected before they reach Postgres.
	// Default: the tagged field of column ID.
	IDOf func(*T) string

	// LockTimeout is how long a statement waits for a lock. A promotion waits that long in total for
	// the lock on its side, and lets others through in between. For promotions of other lanes, it
	// waits a minute, or LockTimeout if that is longer. Default [DefaultLockTimeout].
	LockTimeout time.Duration
	// IdleTimeout is how long a transaction may be idle before Postgres ends it. Default
	// [DefaultIdleTimeout].
	IdleTimeout time.Duration
	// StageTimeout is how long a COPY may make no progress while a promotion waits for its lock. After
	// this time the promoter disconnects the worker. A COPY that makes progress is left alone. Default
	// [DefaultStageTimeout].
	StageTimeout time.Duration
	// CommitTimeout is how long a COMMIT may take: a server with synchronous standbys waits for them
	// without a limit of its own. After this time the wait is cancelled, and the error is
	// [ErrNotDurable]. The limit is at most three quarters of the time that the caller's context has
	// left. Default [DefaultCommitTimeout].
	CommitTimeout time.Duration
}

// colRecord is the staging tables' own column: the number of the batch, and in the lower 32 bits
// the record's position in it. It is one column instead of two, because each costs a COPY 2 %.
const colRecord = "hr_record"

// postponedBit marks the rows that a promotion comes back to at its end. It is the sign, so the
// order stays.
const postponedBit = "(-9223372036854775808)::int8"

func recordOf(no, pos int32) int64 { return int64(no)<<32 | int64(pos) }

// batchOf and posOf take it apart again. A statement that groups or joins uses them too: Postgres
// hashes a bigint to the exclusive or of its halves, so 100 batches of 5,000 records have 5,000
// values, and a hash table becomes a list.
func batchOf(prefix string) string {
	return "((" + prefix + colRecord + " & ~" + postponedBit + ") >> 32)"
}
func posOf(prefix string) string { return "(" + prefix + colRecord + " & 4294967295)::int4" }

// tableConfig is a Config without the functions that know T.
type tableConfig = Config[struct{}]

// untyped returns all fields but Fill and IDOf.
func (c Config[T]) untyped() (u tableConfig, err error) {
	if (c.Fill == nil) != (len(c.Columns) == 0) {
		return u, fmt.Errorf("%w: Config.Columns and Config.Fill go together: give both or none", ErrConfig)
	}
	from, to := reflect.ValueOf(c), reflect.ValueOf(&u).Elem()
	for i := range from.NumField() {
		if from.Field(i).Type() == to.Field(i).Type() {
			to.Field(i).Set(from.Field(i))
		}
	}
	return u, nil
}

// check fills in defaults and returns an error about the first invalid field.
func check(c *tableConfig) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: Config."+format, append([]any{ErrConfig}, args...)...)
	}
	seen := map[string]bool{}
	for i, col := range c.Columns {
		if col.Name == "" {
			return bad("Columns[%d].Name is empty, must be a column", i)
		}
		if seen[col.Name] {
			return bad("Columns[%d].Name is %q, must not repeat an earlier one", i, col.Name)
		}
		seen[col.Name] = true
	}
	if c.Conflict > ConflictFail {
		return bad("Conflict is %d, must be ConflictSkip, ConflictReplace or ConflictFail", c.Conflict)
	}
	if c.Role > RoleReader {
		return bad("Role is %d, must be RoleAll, RoleWorker, RolePromoter or RoleReader", uint8(c.Role))
	}
	if c.Lanes < 0 || c.Lanes > MaxLanes {
		return bad("Lanes is %d, must be 0 to %d", c.Lanes, MaxLanes)
	}
	if c.Newer != "" && c.Conflict != ConflictReplace {
		return bad("Newer is %q, must be empty without ConflictReplace", c.Newer)
	}
	if c.ReplaceIf != "" && c.Conflict != ConflictReplace {
		return bad("ReplaceIf is %q, must be empty without ConflictReplace", c.ReplaceIf)
	}
	for i, k := range c.Key {
		if k == "" || slices.Contains(c.Key[:i], k) {
			return bad("Key[%d] is %q, must be a column, named once", i, k)
		}
	}
	for i, r := range c.Rules {
		if r.Code == "" || r.Where == "" {
			return bad("Rules[%d] has Code %q and Where %q, must have both", i, r.Code, r.Where)
		}
		if codeWord(r.Code) != r.Code || strings.HasPrefix(r.Code, codeSQL) {
			return bad("Rules[%d].Code is %q, must be a word of a to z, 0 to 9 and _, which begins with a letter, has at most %d bytes and does not begin with %s",
				i, r.Code, maxCode, codeSQL)
		}
		if r.Reason == "" {
			c.Rules = slices.Clone(c.Rules)
			c.Rules[i].Reason = r.Code
		}
	}
	for i, m := range c.Merges {
		if m.Name == "" || m.SQL == "" {
			return bad("Merges[%d] has Name %q and SQL %q, must have both", i, m.Name, m.SQL)
		}
		if c.Conflict == ConflictReplace && !m.Replaced {
			return bad("Merges[%d].Replaced is false, must be true with ConflictReplace, because a row that replaces another would count twice", i)
		}
		if m.Name == "promoted" || m.Name == "replaced" || slices.ContainsFunc(c.Merges[:i], func(o Merge) bool { return o.Name == m.Name }) {
			return bad("Merges[%d].Name is %q, must not be \"promoted\" or \"replaced\" or repeat an earlier one", i, m.Name)
		}
	}
	for _, d := range []struct {
		name string
		p    *time.Duration
		def  time.Duration
	}{{"LockTimeout", &c.LockTimeout, DefaultLockTimeout}, {"IdleTimeout", &c.IdleTimeout, DefaultIdleTimeout}, {"StageTimeout", &c.StageTimeout, DefaultStageTimeout}, {"CommitTimeout", &c.CommitTimeout, DefaultCommitTimeout}} {
		*d.p = cmp.Or(*d.p, d.def)
		if *d.p < time.Millisecond || *d.p > 24*time.Hour {
			return bad("%s is %v, must be 1ms to 24h", d.name, *d.p)
		}
	}
	return nil
}
