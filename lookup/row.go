package lookup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/uid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// row is the current row of a query.
type row struct {
	rows    pgx.Rows
	n       int // from 1
	columns []pgconn.FieldDescription
	into    targets
}

// eachRow runs a query and calls f for each of its rows.
//
// A prepared statement outlives an ALTER TABLE of its tables, in the connection or in a pooler
// behind it, and the server refuses it from then on. The same statement with another text is a new
// one.
func eachRow(ctx context.Context, db Querier, query string, args []any, f func(*row) error, bind func([]pgconn.FieldDescription) (targets, error)) error {
	n, err := eachRowOnce(ctx, db, query, args, f, bind)
	if n > 0 || !isStalePlan(err) {
		return err
	}
	_, again := eachRowOnce(ctx, db, query+"\n-- "+uid.New(), args, f, bind)
	if sqlState(again) == sqlStateFailedTransaction {
		return err // the caller's transaction ended with the first error
	}
	return again
}

// eachRowOnce also returns the number of rows.
func eachRowOnce(ctx context.Context, db Querier, query string, args []any, f func(*row) error, bind func([]pgconn.FieldDescription) (targets, error)) (int, error) {
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return 0, fmt.Errorf("query: %w", err)
	}
	defer rows.Close()
	r := &row{rows: rows, columns: rows.FieldDescriptions()}
	for rows.Next() {
		if r.n++; r.into == nil {
			r.columns = rows.FieldDescriptions()
			if r.into, err = bind(r.columns); err != nil {
				return r.n, err
			}
		}
		if err := f(r); err != nil {
			return r.n, err
		}
	}
	if err := rows.Err(); err != nil {
		return r.n, fmt.Errorf("query: %w", err)
	}
	if columns := rows.FieldDescriptions(); r.n == 0 && len(columns) > 0 {
		if _, err := bind(columns); err != nil { // also a query without rows must match the types
			return 0, err
		}
	}
	return r.n, nil
}

const sqlStateFailedTransaction = "25P02"

// isStalePlan reports whether the server may have refused a statement because it was prepared for
// another shape of its tables, or in another connection.
func isStalePlan(err error) bool {
	switch sqlState(err) {
	case "0A000", // cached plan must not change result type
		"26000", "42P05", // a prepared statement that is missing, or there already
		"08P01",          // bind message has too few result formats
		"42883", "42804": // parameters were described for another type
		return true
	}
	return false
}

func sqlState(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// scan reads the key and the value of a row.
func scan[K comparable, V any](r *row) (k K, v V, err error) {
	for i, raw := range r.rows.RawValues() {
		if raw == nil && r.into[i].isKey {
			return k, v, fmt.Errorf("%w: column %s of row %d", ErrNullKey, r.columns[i].Name, r.n)
		}
	}
	key := reflect.ValueOf(&k).Elem()
	// Twice, because a column may go into both.
	err = r.rows.Scan(r.into.keys(key)...)
	if err == nil {
		err = r.rows.Scan(r.into.values(reflect.ValueOf(&v).Elem())...)
	}
	if err != nil {
		return k, v, fmt.Errorf("row %d: %w", r.n, err)
	}
	for i, to := range r.into {
		if to.isKey {
			normalize(to.in(key, to.key), r.columns[i].DataTypeOID)
		}
	}
	return k, v, nil
}

// target is the destination of a column: the key, the value, or both.
type target struct {
	isKey, isValue bool
	key, value     []int // field indexes; empty means the whole key or value
}

type targets []target

// bindTo returns a function that matches the columns of a query, after the first few, with the
// fields of K and V.
func bindTo[K comparable, V any](skip int) func([]pgconn.FieldDescription) (targets, error) {
	return func(columns []pgconn.FieldDescription) (targets, error) {
		into, err := bind(columns[skip:], reflect.TypeFor[K](), reflect.TypeFor[V]())
		if err != nil {
			return nil, fmt.Errorf("%w: query: %w", ErrConfig, err)
		}
		return append(make(targets, skip), into...), nil
	}
}

// bind matches the columns of a query with the fields of K and V.
func bind(columns []pgconn.FieldDescription, k, v reflect.Type) (targets, error) {
	into := make(targets, len(columns))
	keys, values := fieldsOf(k), fieldsOf(v)
	scalar := 0 // the columns that scalars take, in order
	if keys == nil && len(columns) > 0 {
		into[0].isKey = true
		scalar = 1
	}
	if values == nil {
		if keys != nil {
			for scalar < len(columns) && keys[plain(columns[scalar].Name)] != nil {
				scalar++
			}
		}
		if scalar < len(columns) {
			into[scalar].isValue = true
		} else {
			return nil, fmt.Errorf("no column for the value %v", v)
		}
	}
	for i, c := range columns {
		name := plain(c.Name)
		if f := keys[name]; f != nil {
			into[i].isKey, into[i].key = true, f
			delete(keys, name)
		}
		if f := values[name]; f != nil {
			into[i].isValue, into[i].value = true, f
			delete(values, name)
		}
		if !into[i].isKey && !into[i].isValue {
			return nil, fmt.Errorf("column %s has no field in %v or %v", c.Name, k, v)
		}
	}
	for name := range keys {
		return nil, fmt.Errorf("field %s of %v has no column", name, k)
	}
	for name := range values {
		return nil, fmt.Errorf("field %s of %v has no column", name, v)
	}
	return into, nil
}

// keys returns the destinations of the columns of a row in its key; nil skips a column.
func (t targets) keys(k reflect.Value) []any {
	dest := make([]any, len(t))
	for i, to := range t {
		if to.isKey {
			dest[i] = to.in(k, to.key).Addr().Interface()
		}
	}
	return dest
}

// values returns the same for the value.
func (t targets) values(v reflect.Value) []any {
	dest := make([]any, len(t))
	for i, to := range t {
		if to.isValue {
			dest[i] = to.in(v, to.value).Addr().Interface()
		}
	}
	return dest
}

// in returns a field of v or, without an index, v itself.
func (target) in(v reflect.Value, index []int) reflect.Value {
	if len(index) > 0 {
		return v.FieldByIndex(index)
	}
	return v
}

var (
	scanner = reflect.TypeFor[sql.Scanner]()
	timeT   = reflect.TypeFor[time.Time]()
)

// fieldsOf returns the fields of a struct by plain name; nil for a type that one column fills.
func fieldsOf(t reflect.Type) map[string][]int {
	if t.Kind() != reflect.Struct || t == timeT || reflect.PointerTo(t).Implements(scanner) {
		return nil
	}
	fields := make(map[string][]int)
	for _, f := range reflect.VisibleFields(t) {
		tag := f.Tag.Get("db")
		if !f.IsExported() || f.Anonymous && tag == "" || tag == "-" {
			continue
		}
		name := f.Name
		if tag != "" {
			name = tag
		}
		fields[plain(name)] = f.Index
	}
	if len(fields) == 0 && t.NumField() > 0 {
		return nil // like netip.Addr: pgx knows it as a whole
	}
	return fields
}

// plain is the form in which names of columns and fields are compared.
func plain(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }
