package staging

import "time"

// A Row takes the values of one row, column by column, in the order of Config.Columns.
type Row struct{ buf []byte }

// Null writes NULL.
func (r *Row) Null() {}

// String writes a text, or any type that is written as its text: enum, numeric, jsonb, uuid.
func (r *Row) String(s string) {}

// Bytes writes a bytea, json or text.
func (r *Row) Bytes(b []byte) {}

// Int writes a number into an integer or numeric column.
func (r *Row) Int(n int64) {}

// Float writes a number into a floating-point column.
func (r *Row) Float(f float64) {}

// Bool writes a truth value.
func (r *Row) Bool(b bool) {}

// Time writes a timestamp or date.
func (r *Row) Time(t time.Time) {}

// UUID writes a uuid.
func (r *Row) UUID(u [16]byte) {}

// Value writes any value that pgx can encode; it is slower than the others.
func (r *Row) Value(v any) {}
