package staging

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// arrayBytes is about how many bytes of rows one statement takes as its parameter. Postgres takes
// up to a gigabyte.
const arrayBytes = 32 << 20

// rowArray sends rows to Postgres as the parameter of a statement: an array of the staging table's
// row type, in the binary format. So rows get into a statement without a table, and the role needs
// no privilege to create one.
type rowArray struct {
	rowType    uint32 // of the staging table
	attributes []rowAttribute
}

// rowAttribute is a column of the row type.
type rowAttribute struct {
	typ   uint32
	value int // its index in an encoded row; -1: a column of another version of the program, NULL
}

// readRowArray reads the row type of the staging table of side a. It takes no lock on the table: a
// Rewrite would hold up promotions. Postgres compares the types of the values with those of the
// columns, and checkRowArray compares the columns again.
func (t *table) readRowArray(ctx context.Context, q *pgx.Conn) (a rowArray, err error) {
	r, err := sendOne(ctx, q, t.sql.rowType.with(nil))
	if err != nil {
		return a, err
	}
	found := 0
	for row := range r.each() {
		name := row.text("name")
		value := slices.Index(t.colNames, name)
		if name == colRecord {
			value = len(t.cols)
		}
		if value >= 0 {
			found++
		}
		a.rowType = uint32(row.int("row_type"))
		a.attributes = append(a.attributes, rowAttribute{uint32(row.int("type")), value})
	}
	if found != len(t.cols)+1 {
		return a, t.driftOf(ctx, q)
	}
	return a, nil
}

// driftOf names the columns that the staging table lacks.
func (t *table) driftOf(ctx context.Context, q *pgx.Conn) error {
	r, err := sendOne(ctx, q, t.sql.side[sideA].shape.with(nil))
	if err != nil {
		return err
	}
	return &DriftError{Table: t.staging[sideA], Drifts: t.missing(foundColumns(r, "staging"), false)}
}

// checkRowArray returns an error if the columns of the row type are no longer those of a: a value
// could have got into another column of the same type.
func (t *table) checkRowArray(ctx context.Context, q *pgx.Conn, a rowArray) error {
	again, err := t.readRowArray(ctx, q)
	if err != nil {
		return err
	}
	if again.rowType != a.rowType || !slices.Equal(again.attributes, a.attributes) {
		return fmt.Errorf("%w: %s was changed meanwhile", ErrDrift, t.staging[sideA])
	}
	return nil
}

// each calls f with a parameter for about arrayBytes of rows at a time, until all records of the
// encoder are sent.
func (a rowArray) each(e interface {
	next() (rows []byte, more bool, err error)
}, f func(parameter []byte) error) error {
	var elements []byte
	n := 0
	for {
		rows, more, err := e.next()
		if err != nil {
			return err
		}
		for len(rows) > 0 {
			elements, rows = a.appendRow(elements, rows)
			n++
		}
		if n > 0 && (!more || len(elements) >= arrayBytes) {
			if err := f(append(a.head(n), elements...)); err != nil {
				return err
			}
			elements, n = elements[:0], 0
		}
		if !more {
			return nil
		}
	}
}

// head is that of an array: one dimension, no NULL, the type of the elements, their number, and the
// index of the first.
func (a rowArray) head(n int) []byte {
	var b []byte
	for _, x := range []uint32{1, 0, a.rowType, uint32(n), 1} {
		b = binary.BigEndian.AppendUint32(b, x)
	}
	return b
}

// appendRow appends the first of some rows in the format of COPY as an element of the array: for
// each attribute its type and its value. It returns the rows after it.
func (a rowArray) appendRow(to, rows []byte) (appended, rest []byte) {
	values := make([][]byte, binary.BigEndian.Uint16(rows))
	rest = rows[2:]
	for i := range values {
		n := max(0, int32(binary.BigEndian.Uint32(rest)))
		values[i], rest = rest[:4+n], rest[4+n:]
	}
	at := len(to)
	to = binary.BigEndian.AppendUint32(to, 0)
	to = binary.BigEndian.AppendUint32(to, uint32(len(a.attributes)))
	for _, x := range a.attributes {
		to = binary.BigEndian.AppendUint32(to, x.typ)
		if x.value < 0 {
			to = binary.BigEndian.AppendUint32(to, 0xffffffff)
			continue
		}
		to = append(to, values[x.value]...)
	}
	binary.BigEndian.PutUint32(to[at:], uint32(len(to)-at-4))
	return to, rest
}

// next encodes one record. The rows are good until the next call.
func (e *encoder[T]) next() (rows []byte, more bool, err error) {
	if e.from >= e.to {
		return nil, false, nil
	}
	e.row.buf = e.row.buf[:0]
	e.record(e.from)
	e.from++
	return e.row.buf, e.from < e.to, e.row.err
}

// insertArray inserts the rows of an encoder into the target, under the table's conflict policy. It
// returns how many rows it wrote. check, if not nil, is called with each part before its insert.
func (t *Table[T]) insertArray(ctx context.Context, q *pgx.Conn, e *encoder[T], insert statement, check func(parameter []byte) error) (wrote int64, err error) {
	a, err := t.readRowArray(ctx, q)
	if err != nil {
		return 0, err
	}
	err = a.each(e, func(parameter []byte) error {
		if check != nil {
			if err := check(parameter); err != nil {
				return err
			}
		}
		r, err := sendOne(ctx, q, binaryCall(insert, parameter))
		if err != nil {
			return err
		}
		if len(r.FieldDescriptions) > 0 { // with merges
			wrote += r.row(0).int("n")
		} else {
			wrote += r.affected()
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return wrote, t.checkRowArray(ctx, q, a)
}

// binaryCall is a call of a statement whose one parameter is in the binary format.
func binaryCall(s statement, parameter []byte) call {
	return call{sql: s.text, args: [][]byte{parameter}, formats: []int16{pgx.BinaryFormatCode}}
}
