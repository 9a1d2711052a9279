package staging

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// pgType is a row of pg_type.
type pgType struct {
	oid, base, elem uint32
	typtype, cat    string
	name            string
	typmod          int32
	notNull         bool
}

type typeLoader struct {
	q     querier
	known map[uint32]pgType
}

func (l *typeLoader) get(ctx context.Context, oid uint32) (pgType, error) {
	if t, ok := l.known[oid]; ok {
		return t, nil
	}
	var t pgType
	var o, b, e int64
	err := l.q.QueryRow(ctx, `SELECT oid::int8, typbasetype::int8, typelem::int8, typtype::text, typcategory::text, typname::text, typtypmod, typnotnull
		FROM pg_type WHERE oid = $1::int8::oid`, int64(oid)).Scan(&o, &b, &e, &t.typtype, &t.cat, &t.name, &t.typmod, &t.notNull)
	t.oid, t.base, t.elem = uint32(o), uint32(b), uint32(e)
	if err == nil {
		l.known[oid] = t
	}
	return t, err
}

// fill completes a column from its type: domains are resolved, arrays get their element.
func (l *typeLoader) fill(ctx context.Context, c *column, oid uint32, typmod int32) error {
	t, err := l.get(ctx, oid)
	if err != nil {
		return err
	}
	for t.typtype == "d" {
		c.notNull = c.notNull || t.notNull
		if typmod < 0 {
			typmod = t.typmod
		}
		if t, err = l.get(ctx, t.base); err != nil {
			return err
		}
	}
	c.oid = t.oid
	switch t.oid {
	case pgtype.TextOID:
		c.kind = kText
	case pgtype.VarcharOID, pgtype.BPCharOID:
		c.kind = kText
		if typmod > 4 {
			c.maxLen = int(typmod - 4)
		}
	case pgtype.Int2OID:
		c.kind = kInt2
	case pgtype.Int4OID:
		c.kind = kInt4
	case pgtype.Int8OID:
		c.kind = kInt8
	case pgtype.Float4OID:
		c.kind = kFloat4
	case pgtype.Float8OID:
		c.kind = kFloat8
	case pgtype.BoolOID:
		c.kind = kBool
	case pgtype.TimestamptzOID:
		c.kind = kTimestamptz
	case pgtype.TimestampOID:
		c.kind = kTimestamp
	case pgtype.DateOID:
		c.kind = kDate
	case pgtype.NumericOID:
		c.kind = kNumeric
	case pgtype.JSONOID:
		c.kind = kJSON
	case pgtype.JSONBOID:
		c.kind = kJSONB
	case pgtype.UUIDOID:
		c.kind = kUUID
	case pgtype.ByteaOID:
		c.kind = kBytea
	default:
		switch {
		case t.typtype == "e":
			c.kind = kText // an unknown value is left to Postgres: an enum may gain one while the program runs
		case t.name == "citext":
			c.kind = kText
		case t.cat == "A" && t.elem != 0:
			c.kind = kArray
			c.elem = &column{name: c.name, sqlType: c.sqlType}
			return l.fill(ctx, c.elem, t.elem, typmod)
		}
	}
	return nil
}

// shape is what a table looks like.
type shape struct {
	oid       uint32
	schema    string
	relkind   string
	columns   []column
	uniqueKey [][]string // columns of its unique, non-partial, plain indexes, in their order
}

func (s *shape) column(name string) *column {
	for i := range s.columns {
		if s.columns[i].name == name {
			return &s.columns[i]
		}
	}
	return nil
}

var relkinds = map[string]string{"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index", "c": "a composite type", "I": "an index"}

// find looks a relation up, by search_path if schema is empty. nil without an error: there is none.
func find(ctx context.Context, q querier, schema, table string) (*shape, error) {
	id := pgx.Identifier{table}
	if schema != "" {
		id = pgx.Identifier{schema, table}
	}
	s := new(shape)
	var oid int64
	err := q.QueryRow(ctx, `SELECT c.oid::int8, n.nspname::text, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = to_regclass($1::text)`, id.Sanitize()).Scan(&oid, &s.schema, &s.relkind)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s.oid = uint32(oid)
	return s, nil
}

// load reads the columns of a table.
func (s *shape) load(ctx context.Context, q querier) error {
	rows, err := q.Query(ctx, `SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid::int8, a.atttypmod, a.attnotnull, a.atthasdef,
			a.attidentity::text, a.attgenerated::text,
			coalesce((SELECT ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname) FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace
				WHERE co.oid = a.attcollation AND a.attcollation <> t.typcollation), ''),
			coalesce((SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated = ''),
				CASE WHEN a.attidentity <> '' THEN format('nextval(%L::regclass)', pg_get_serial_sequence(a.attrelid::regclass::text, a.attname)) END, '')
		FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
		WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, int64(s.oid))
	if err != nil {
		return err
	}
	type typed struct {
		oid    int64
		typmod int32
	}
	var types []typed
	for rows.Next() {
		var c column
		var t typed
		if err := rows.Scan(&c.name, &c.sqlType, &t.oid, &t.typmod, &c.notNull, &c.hasDefault, &c.identity, &c.generated, &c.collate, &c.def); err != nil {
			return err
		}
		s.columns = append(s.columns, c)
		types = append(types, t)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	l := typeLoader{q: q, known: map[uint32]pgType{}}
	for i := range s.columns {
		if err := l.fill(ctx, &s.columns[i], uint32(types[i].oid), types[i].typmod); err != nil {
			return err
		}
	}
	return nil
}

// loadKeys reads the unique keys of the target.
func (s *shape) loadKeys(ctx context.Context, q querier) error {
	rows, err := q.Query(ctx, `SELECT (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(att, n) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.att)
		FROM pg_index i WHERE i.indrelid = $1::int8::oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indimmediate
			AND i.indnkeyatts = i.indnatts`, int64(s.oid))
	if err != nil {
		return err
	}
	s.uniqueKey, err = pgx.CollectRows(rows, pgx.RowTo[[]string])
	return err
}

// check returns an error if the relation cannot be a target.
func (s *shape) check(name string) error {
	if s.relkind != "r" && s.relkind != "p" {
		what := relkinds[s.relkind]
		if what == "" {
			what = "of kind " + s.relkind
		}
		return fmt.Errorf("%w: %s is %s", ErrNotTable, name, what)
	}
	return nil
}
