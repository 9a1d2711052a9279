package lookup

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Querier runs the queries of [FromQuery]: a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// FromMap returns a Loader that loads the table from a function returning a map.
func FromMap[K comparable, V any](load func(ctx context.Context) (map[K]V, error)) Loader[K, V] {
	return func(ctx context.Context, put func(K, V) error) error {
		if load == nil {
			return fmt.Errorf("%w: the function of FromMap is nil, must load a map", ErrConfig)
		}
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

// FromQuery returns a Loader that loads a table from a query, row by row:
//
//   - The key is the first column or, if K is a struct, the columns named like its fields.
//   - The value consists of the columns named like V's fields or, if V is no struct, of the column
//     after the key.
//
// A field's name is its db tag, or else its own name, compared without case and underscores; "-"
// leaves it out. Each column must be used, and each field must have a column. If query and type no
// longer match, that is an error ([ErrConfig]), and no field is silently zero. Key columns may also
// be fields of V. A NULL in a key is [ErrNullKey]; elsewhere it needs a field that can hold it.
//
// Keys are read as the source compares them. A key of type char(n) loses its padding, and one of
// type numeric its trailing zeros, if K is a string. A text key that the source compares without
// regard to case (citext, or a nondeterministic collation) is an error, [ErrConfig]: a map cannot
// compare that way. Select lower(key), and look up lower-case keys.
//
// A query survives ALTER TABLE on its tables, also through a pooler that keeps prepared statements.
func FromQuery[K comparable, V any](db Querier, query string, args ...any) Loader[K, V] {
	args = slices.Clone(args) // the slice is the caller's again
	return func(ctx context.Context, put func(K, V) error) error {
		if redisx.IsNil(db) {
			return fmt.Errorf("%w: the Querier of FromQuery is nil, must be a pool, a connection or a transaction", ErrConfig)
		}
		var columns []keyColumn
		err := eachRow(ctx, db, query, args, func(r *row) error {
			if r.n == 1 {
				columns = r.keyColumns()
			}
			k, v, err := scan[K, V](r)
			if err != nil {
				return err
			}
			if err := put(k, v); err != nil {
				return fmt.Errorf("row %d: %w", r.n, err)
			}
			return nil
		}, bindTo[K, V](0))
		if err != nil {
			return err
		}
		return checkKeys(ctx, db, columns)
	}
}

// FetchQuery returns a [RemoteConfig.Fetch] that runs a query with one parameter, the array of the
// keys: "SELECT sku, name, price FROM products WHERE sku = ANY($1)". Its columns are read like
// those of [FromQuery].
//
// The source matches keys and rows, with the = of the key column. So a key finds its row even if
// the source stores it padded (char(n)), in another case (citext, a case-insensitive collation) or
// with another scale (numeric).
//
// A key that no row can have is missing, and costs no other key of the call: a text with a NUL, a
// text that is not valid UTF-8, one that is not a number in a column of numbers, a number or a time
// that the column cannot hold, a fraction in a column of integers, NaN. A type K whose values do
// not fit the column is [ErrConfig]; the error names the column and both types.
func FetchQuery[K comparable, V any](db Querier, query string) func(ctx context.Context, keys []K) (map[K]V, error) {
	f := &fetcher[K, V]{db: db, query: query}
	f.plain.Store(fieldsOf(reflect.TypeFor[K]()) != nil) // SQL cannot compare a struct with columns
	return f.fetch
}

// fetcher reads the rows of given keys.
type fetcher[K comparable, V any] struct {
	db    Querier
	query string
	plain atomic.Bool // the source cannot match keys and rows of this query: Go's == must do
	fits  atomic.Bool // the source has accepted a key
}

func (f *fetcher[K, V]) fetch(ctx context.Context, keys []K) (map[K]V, error) {
	if redisx.IsNil(f.db) {
		return nil, fmt.Errorf("%w: the Querier of FetchQuery is nil, must be a pool, a connection or a transaction", ErrConfig)
	}
	keys = slices.DeleteFunc(slices.Clone(keys), func(k K) bool { return !isStorable(k) })
	if len(keys) == 0 {
		return map[K]V{}, nil
	}
	found, err := f.read(ctx, keys)
	if err == nil {
		f.fits.Store(true)
		return found, nil
	}
	if !mayBeOfKey(err) {
		return nil, err
	}
	column, probeErr := f.probe(ctx, "{}")
	switch unsent := sqlState(err) == ""; {
	case probeErr != nil && unsent:
		return nil, f.noArray()
	case probeErr != nil:
		return nil, err // the query does not work without keys either
	case unsent && !isEncodable[K](column.DataTypeOID):
		return nil, f.wrongType(ctx, column, errors.New(noEncodePlan))
	}
	possible, probeErr := f.possible(ctx, keys)
	switch {
	case probeErr != nil || len(possible) == len(keys):
		return nil, err // the error is that of a row
	case len(possible) > 0:
		if found, err = f.read(ctx, possible); err == nil {
			f.fits.Store(true)
		}
		return found, err
	case strings.HasSuffix(err.Error(), noEncodePlan):
		return nil, f.noArray()
	case onlyText[K](column) && isOfForm(err) && !f.fits.Load():
		return nil, f.wrongType(ctx, column, err)
	}
	return map[K]V{}, nil
}

// isStorable reports whether a row may have the key, as far as this does not depend on the column.
func isStorable[K comparable](k K) bool {
	if v := reflect.ValueOf(k); v.Kind() == reflect.String && strings.Contains(v.String(), "\x00") {
		return false
	}
	return isFindable(k)
}

// read reads the rows of keys that the source takes.
func (f *fetcher[K, V]) read(ctx context.Context, keys []K) (found map[K]V, err error) {
	if !f.plain.Load() {
		err := f.attempt(ctx, func(db Querier) (err error) {
			found, err = f.matched(ctx, db, keys)
			return err
		})
		var refused *pgconn.PgError
		if err == nil || !errors.As(err, &refused) || !strings.HasPrefix(refused.Code, sqlStateSyntaxOrAccess) {
			return found, err
		}
	}
	found = make(map[K]V, len(keys))
	err = f.attempt(ctx, func(db Querier) error {
		return eachRow(ctx, db, f.query, []any{parameter(keys)}, func(r *row) error {
			k, v, err := scan[K, V](r)
			if err != nil {
				return err
			}
			return addFound(found, k, v)
		}, f.bindTo(0))
	})
	if err != nil {
		return nil, err
	}
	f.plain.Store(true) // the query works as it is, so matching must have been what failed
	return found, nil
}

// attempt runs a statement that may fail. In a transaction it runs after a savepoint, because one
// that fails ends all that follow.
func (f *fetcher[K, V]) attempt(ctx context.Context, run func(db Querier) error) error {
	tx, ok := f.db.(pgx.Tx)
	if !ok {
		return run(f.db)
	}
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	if err := run(savepoint); err != nil {
		return errors.Join(err, savepoint.Rollback(context.WithoutCancel(ctx)))
	}
	return savepoint.Commit(ctx)
}

// mayBeOfKey reports whether the error may be that of a key which the type of the source's column
// cannot hold: no row has it.
func mayBeOfKey(err error) bool {
	switch state := sqlState(err); {
	case state == "": // pgx, in the type that the server has named
		return err != nil && strings.Contains(err.Error(), "unable to encode")
	case len(state) == 5:
		switch state[:2] {
		case "22", "23", "54", sqlStateSyntaxOrAccess: // 23: the CHECK of a domain; 42: ltree, regclass
			return true
		}
	}
	return false
}

// isOfForm reports whether the server has refused a text because it is no value of the type at all,
// in contrast to one that is out of range.
func isOfForm(err error) bool {
	switch sqlState(err) {
	case "22P02", "22007", "42601":
		return true
	}
	return false
}

// isEncodable reports whether pgx can encode a K for a type. What an error of a connection reports
// depends on what the connection has encoded before.
func isEncodable[K comparable](oid uint32) bool {
	types, k := pgtype.NewMap(), *new(K)
	return types.PlanEncode(oid, pgx.BinaryFormatCode, k) != nil || types.PlanEncode(oid, pgx.TextFormatCode, k) != nil
}

// noEncodePlan ends pgx's error about a type none of whose values the parameter can hold: K does
// not fit the column, or the query compares it with $1 and not with ANY($1).
const noEncodePlan = "cannot find encode plan"

func (f *fetcher[K, V]) noArray() error {
	return fmt.Errorf("%w: query: $1 is one value, or of a type that cannot hold a %v, must be an array of keys: %s",
		ErrConfig, reflect.TypeFor[K](), noEncodePlan)
}

// parameter returns the array of the keys as pgx can encode it: it takes a []uint8 for a bytea.
func parameter[K comparable](keys []K) any {
	bytes, ok := any(keys).([]uint8)
	if !ok {
		return keys
	}
	numbers := make([]int16, len(bytes))
	for i, b := range bytes {
		numbers[i] = int16(b)
	}
	return numbers
}

// probe runs a query that reads no row, and returns the key column. keys is the array of the keys,
// also as a text.
func (f *fetcher[K, V]) probe(ctx context.Context, keys any) (key pgconn.FieldDescription, err error) {
	query := "SELECT * FROM (\n" + strings.TrimRight(f.query, "; \t\r\n") + "\n) AS headrace_found LIMIT 0"
	err = f.attempt(ctx, func(db Querier) error {
		return eachRow(ctx, db, query, []any{keys}, func(*row) error { return nil }, func(columns []pgconn.FieldDescription) (targets, error) {
			if len(columns) > 0 {
				key = columns[0]
			}
			return nil, nil
		})
	})
	return key, err
}

// possible leaves out the keys that the type of the parameter cannot hold. It probes half the keys
// and half of these.
func (f *fetcher[K, V]) possible(ctx context.Context, keys []K) ([]K, error) {
	_, err := f.probe(ctx, parameter(keys))
	if !mayBeOfKey(err) {
		return keys, err
	}
	if len(keys) == 1 {
		return nil, nil
	}
	half := len(keys) / 2
	first, err := f.possible(ctx, keys[:half])
	if err != nil {
		return nil, err
	}
	second, err := f.possible(ctx, keys[half:])
	return slices.Concat(first, second), err
}

// bindTo is like the function of this name, and refuses a text column for keys of which pgx sends a
// text that no row has, or sends none.
func (f *fetcher[K, V]) bindTo(skip int) func([]pgconn.FieldDescription) (targets, error) {
	bind := bindTo[K, V](skip)
	return func(columns []pgconn.FieldDescription) (targets, error) {
		into, err := bind(columns)
		if err == nil && isNoText[K]() && into[skip].isKey {
			if name := textTypes[columns[skip].DataTypeOID]; name != "" {
				return nil, errWrongType[K](columns[skip].Name, name, errors.New("a text column needs keys of a string kind or with a String method"))
			}
		}
		return into, err
	}
}

// textTypes are the types whose values are texts.
var textTypes = map[uint32]string{
	pgtype.TextOID: "text", pgtype.VarcharOID: "character varying", pgtype.BPCharOID: "character", pgtype.NameOID: "name",
}

// isNoText reports whether K is a number, a bool or a time, without a text of its own.
func isNoText[K comparable]() bool {
	k := reflect.TypeFor[K]()
	if k == timeT {
		return true
	}
	return (k.Kind() >= reflect.Bool && k.Kind() <= reflect.Float64) && !sendsText[K]() && !k.Implements(stringer)
}

var stringer = reflect.TypeFor[fmt.Stringer]()

// sendsText reports whether K has a method that gives pgx the value to send.
func sendsText[K comparable]() bool {
	switch any(*new(K)).(type) {
	case pgtype.TextValuer, driver.Valuer:
		return true
	}
	return false
}

// onlyText reports whether pgx can send keys of type K to the column only as what their String
// method returns, although the column holds no text.
func onlyText[K comparable](column pgconn.FieldDescription) bool {
	return !sendsText[K]() && reflect.TypeFor[K]().Kind() != reflect.String && !comparesText(column.DataTypeOID)
}

// wrongType returns the error about a type K that does not fit the key column.
func (f *fetcher[K, V]) wrongType(ctx context.Context, column pgconn.FieldDescription, cause error) error {
	name := fmt.Sprintf("of OID %d", column.DataTypeOID)
	_ = f.attempt(ctx, func(db Querier) error {
		rows, err := db.Query(ctx, "SELECT pg_catalog.format_type($1, NULL)", column.DataTypeOID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := rows.Scan(&name); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return errWrongType[K](column.Name, name, cause)
}

func errWrongType[K any](column, columnType string, cause error) error {
	return fmt.Errorf("%w: query: the key type is %v, must be one whose values fit the key column %s of type %s: %w",
		ErrConfig, reflect.TypeFor[K](), column, columnType, cause)
}

// sqlStateSyntaxOrAccess is the class of the SQLSTATEs of a statement that can never work: a
// missing operator, a name that is ambiguous.
const sqlStateSyntaxOrAccess = "42"

// matched lets the source match keys and rows. The query becomes a subquery; r renames its first
// column, whatever its name is.
func (f *fetcher[K, V]) matched(ctx context.Context, db Querier, keys []K) (map[K]V, error) {
	query := "SELECT headrace_asked.ord, headrace_found.* FROM (\n" + strings.TrimRight(f.query, "; \t\r\n") + "\n) AS headrace_found " +
		"JOIN unnest($1) WITH ORDINALITY AS headrace_asked (key, ord) " +
		"ON (SELECT r.key FROM (SELECT headrace_found.*) AS r (key)) = headrace_asked.key"
	found := make(map[K]V, len(keys))
	err := eachRow(ctx, db, query, []any{parameter(keys)}, func(r *row) error {
		var ord int
		if err := r.rows.Scan(append([]any{&ord}, make([]any, len(r.columns)-1)...)...); err != nil {
			return fmt.Errorf("row %d: %w", r.n, err)
		}
		if ord < 1 || ord > len(keys) {
			return fmt.Errorf("row %d: unexpected position: got %d, want 1 to %d", r.n, ord, len(keys))
		}
		if isChanged(keys[ord-1], r.columns[1].DataTypeOID) {
			return nil // this is the row of another key
		}
		_, v, err := scan[K, V](r)
		if err != nil {
			return err
		}
		return addFound(found, keys[ord-1], v)
	}, f.bindTo(1))
	return found, err
}

// isChanged reports whether pgx sends another key in place of k to a column that cannot hold k: a
// floating-point number without its fraction, or a time that has overflowed.
func isChanged[K comparable](k K, oid uint32) bool {
	switch oid {
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID:
		v := reflect.ValueOf(k)
		return v.CanFloat() && !isInteger(v.Float())
	case pgtype.TimestampOID, pgtype.TimestamptzOID:
		const end = math.MaxInt64 / 1_000_000 // microseconds must fit
		t, ok := any(k).(time.Time)
		return ok && (t.Unix() >= end || t.Unix() <= -end)
	}
	return false
}

// isInteger reports whether an int64 can hold f.
func isInteger(f float64) bool {
	const end = 1 << 63
	return f == math.Trunc(f) && f >= -end && f < end
}

func addFound[K comparable, V any](found map[K]V, k K, v V) error {
	if _, twice := found[k]; twice {
		return fmt.Errorf("%w: %s", ErrDuplicateKey, keyText(fmt.Sprint(k)))
	}
	found[k] = v
	return nil
}
