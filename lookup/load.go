package lookup

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier is what [FromQuery] needs of a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// FromMap loads a table from a function that returns a map.
func FromMap[K comparable, V any](load func(ctx context.Context) (map[K]V, error)) Loader[K, V] {
	return func(ctx context.Context, put func(K, V) error) error {
		m, err := load(ctx)
		if err != nil {
			return err
		}
		for k, v := range m {
			if err := put(k, v); err != nil {
				return err
			}
		}
		return nil
	}
}

// FromQuery loads a table from a query, row by row:
//
//   - The key is the first column or, where K is a struct, the columns that are named like its fields.
//   - The value is made of the columns that are named like V's fields or, where V is no struct, of the column after
//     the key.
//
// A field is named by its db tag, otherwise by its own name without regard to case and underscores; "-" leaves it
// out. Each column must be used and each field must have a column, so a query and a type that have grown apart are an
// error, not zero values. Key columns may be fields of V too. A NULL in a key is [ErrNullKey]; elsewhere it needs a
// field that can hold it.
func FromQuery[K comparable, V any](db Querier, query string, args ...any) Loader[K, V] {
	return func(ctx context.Context, put func(K, V) error) error {
		return eachRow(ctx, db, query, args, put)
	}
}

// FetchQuery makes a [RemoteConfig.Fetch] of a query with one parameter, the array of keys that are wanted:
// "SELECT sku, name, price FROM products WHERE sku = ANY($1)". Its columns are read as those of [FromQuery].
func FetchQuery[K comparable, V any](db Querier, query string) func(ctx context.Context, keys []K) (map[K]V, error) {
	return func(ctx context.Context, keys []K) (map[K]V, error) {
		found := make(map[K]V, len(keys))
		err := eachRow(ctx, db, query, []any{keys}, func(k K, v V) error {
			if _, twice := found[k]; twice {
				return fmt.Errorf("%w: %v", ErrDuplicateKey, k)
			}
			found[k] = v
			return nil
		})
		return found, err
	}
}

func eachRow[K comparable, V any](ctx context.Context, db Querier, query string, args []any, put func(K, V) error) error {
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("lookup: query: %w", err)
	}
	defer rows.Close()
	columns := rows.FieldDescriptions()
	var into targets
	for n := 1; rows.Next(); n++ {
		if into == nil {
			if into, err = bind(columns, reflect.TypeFor[K](), reflect.TypeFor[V]()); err != nil {
				return err
			}
		}
		for i, raw := range rows.RawValues() {
			if raw == nil && into[i].isKey {
				return fmt.Errorf("%w: column %s of row %d", ErrNullKey, columns[i].Name, n)
			}
		}
		var k K
		var v V
		// Twice, because a column may go into both.
		err := rows.Scan(into.keys(reflect.ValueOf(&k).Elem())...)
		if err == nil {
			err = rows.Scan(into.values(reflect.ValueOf(&v).Elem())...)
		}
		if err != nil {
			return fmt.Errorf("lookup: row %d: %w", n, err)
		}
		if err := put(k, v); err != nil {
			return fmt.Errorf("row %d: %w", n, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("lookup: query: %w", err)
	}
	return nil
}

// target says where a column goes: into the key, the value, or both.
type target struct {
	isKey, isValue bool
	key, value     []int // field indexes; empty means the whole key or value
}

type targets []target

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
			return nil, fmt.Errorf("lookup: query: no column for the value %v", v)
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
			return nil, fmt.Errorf("lookup: query: column %s has no field in %v or %v", c.Name, k, v)
		}
	}
	for name := range keys {
		return nil, fmt.Errorf("lookup: query: field %s of %v has no column", name, k)
	}
	for name := range values {
		return nil, fmt.Errorf("lookup: query: field %s of %v has no column", name, v)
	}
	return into, nil
}

// keys returns what to scan the key from a row into; nil skips a column.
func (t targets) keys(k reflect.Value) []any {
	dest := make([]any, len(t))
	for i, to := range t {
		if to.isKey {
			dest[i] = addrOf(k, to.key)
		}
	}
	return dest
}

// values is the same for the value.
func (t targets) values(v reflect.Value) []any {
	dest := make([]any, len(t))
	for i, to := range t {
		if to.isValue {
			dest[i] = addrOf(v, to.value)
		}
	}
	return dest
}

// addrOf points at a field, or, without an index, at the whole.
func addrOf(v reflect.Value, index []int) any {
	if len(index) > 0 {
		v = v.FieldByIndex(index)
	}
	return v.Addr().Interface()
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
	return fields
}

// plain is the form in which names of columns and fields are compared.
func plain(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }
