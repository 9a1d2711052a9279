package pgschema

import (
	_ "embed"
	"strconv"
	"time"
)

// Settings is a statement that takes over settings of the current transaction, whatever the server,
// the database or the role set. Its parameters are milliseconds as text: the longest statement, the
// longest wait for a lock, the longest time that the transaction may be idle. "0" is no limit, ""
// leaves a setting as it is. The transaction as a whole has no limit (transaction_timeout is new in
// PostgreSQL 17). quote_all_identifiers is off: with it, PostgreSQL 15's own REFRESH … CONCURRENTLY
// fails at a name that it has quoted and then extended. The commit waits for no standby: what the
// transaction writes follows from the tables, and a commit that a standby has brings all earlier
// ones along.
//
//go:embed settings.sql
var Settings string

// Millis is a parameter of [Settings].
func Millis(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }

// Counts of records and times in milliseconds are ints in many places, and would overflow where an
// int has 32 bits. There the compiler refuses the program, and names this constant.
const headraceNeedsA64BitPlatform = 1 << 62

var _ int = headraceNeedsA64BitPlatform
