package staging

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// pgType is a row of pg_type.
type pgType struct {
	oid, base, element   uint32
	kind, category, name string
	typmod               int32
	notNull              bool
	textOnly             bool // it has no binary input
	compare              comparison
}

// comparison has the operators of a type's default order.
type comparison struct {
	atMost, equal, greater string
	own                    bool // a type of an extension brings them
}

type typeLoader struct {
	q     *pgx.Conn
	known map[uint32]pgType
}

func (l *typeLoader) get(ctx context.Context, oid uint32) (pgType, error) {
	if t, ok := l.known[oid]; ok {
		return t, nil
	}
	r, err := sendOne(ctx, l.q, readType.with(args{"oid": text(int64(oid))}))
	if err != nil {
		return pgType{}, err
	}
	row := r.row(0)
	t := pgType{oid: uint32(row.int("oid")), base: uint32(row.int("base")), element: uint32(row.int("element")),
		kind: row.text("kind"), category: row.text("category"), name: row.text("name"), typmod: int32(row.int("typmod")), notNull: row.bool("not_null"), textOnly: row.bool("text_only"),
		compare: comparison{row.text("at_most"), row.text("equal"), row.text("greater"), row.bool("own_order")}}
	l.known[oid] = t
	return t, nil
}

// typeOfColumn reads a type alone.
func typeOfColumn(ctx context.Context, q *pgx.Conn, oid uint32) (c column, err error) {
	l := typeLoader{q: q, known: map[uint32]pgType{}}
	return c, l.fill(ctx, &c, oid, -1)
}

// fill completes a column from its type: domains are resolved, arrays get their element.
func (l *typeLoader) fill(ctx context.Context, c *column, oid uint32, typmod int32) error {
	t, err := l.get(ctx, oid)
	if err != nil {
		return err
	}
	for t.kind == "d" {
		c.notNull = c.notNull || t.notNull
		if typmod < 0 {
			typmod = t.typmod
		}
		if t, err = l.get(ctx, t.base); err != nil {
			return err
		}
	}
	c.oid, c.compare, c.textOnly = t.oid, t.compare, t.textOnly
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
		case t.kind == "e":
			c.kind = kText // an unknown value is left to Postgres: an enum may gain one while the program runs
		case t.name == "citext":
			c.kind = kText
		case t.category == "A" && t.element != 0:
			c.kind = kArray
			c.elem = &column{name: c.name, sqlType: c.sqlType}
			err := l.fill(ctx, c.elem, t.element, typmod)
			c.textOnly = c.textOnly || c.elem.textOnly
			return err
		}
	}
	return nil
}

// oneSpelling are the types without a kind of which equal values have the same text.
var oneSpelling = []uint32{pgtype.InetOID, pgtype.CIDROID, pgtype.MacaddrOID, pgtype.Macaddr8OID, pgtype.OIDOID, pgtype.XID8OID, pgtype.TimeOID, pgtype.TimetzOID,
	pgtype.BitOID, pgtype.VarbitOID, pgtype.NameOID, pgtype.QCharOID}

// spells is true for a column whose equal values may be different texts: 1.0 and 1.00, 0 and -0, 24
// hours and a day, words of an extension's type or of a collation that ignores case. Ranges and
// composite values have the spellings of what is in them.
func (c *column) spells() bool {
	switch {
	case c.folding || c.compare.own:
		return true
	case c.kind == kArray:
		return c.elem.spells()
	case c.kind == kNumeric:
		return c.typ.modifier <= 0 // otherwise each value has as many decimals as the next; 0: in an array
	case c.kind == kOther:
		return !slices.Contains(oneSpelling, c.oid)
	}
	return c.kind == kFloat4 || c.kind == kFloat8 || c.kind == kJSONB
}

// shape is what a table looks like.
type shape struct {
	oid               uint32
	name              pgschema.Name
	kind, persistence string
	columns           []column
	uniqueKey         [][]string // columns of the indexes that can decide about a key, in their order
}

func (s *shape) column(name string) *column {
	for i := range s.columns {
		if s.columns[i].name == name {
			return &s.columns[i]
		}
	}
	return nil
}

// The statements of schema_read.sql that hold no name.
var (
	readRelation   = fill("relation", nil)
	readColumns    = fill("columns", pieces{"filled": filled()})
	readType       = fill("type", nil)
	readTypeName   = fill("type_name", nil)
	readUniqueKeys = fill("unique_keys", pieces{"arbiter": arbiter()})
)

// filled is the condition on a column a of type t that an insert may leave it out.
func filled() string { return fill("filled", pieces{"fires": fires("g.tgenabled")}).text }

// fires is the condition that a trigger or a rule, of which the mode is given, runs in this
// session.
func fires(mode string) string { return fill("fires", pieces{"enabled": mode}).text }

// arbiter is the condition on an index i by which ON CONFLICT can decide about a row.
func arbiter() string { return fill("arbiter", nil).text }

// find looks a relation up, by the search path if the name has no schema. nil without an error:
// there is none.
func find(ctx context.Context, q *pgx.Conn, name pgschema.Name) (*shape, error) {
	r, err := sendOne(ctx, q, readRelation.with(args{"name": name.String()}))
	if err != nil || len(r.Rows) == 0 {
		return nil, err
	}
	row := r.row(0)
	return &shape{oid: uint32(row.int("oid")), name: pgschema.Name{Schema: row.text("schema"), Table: row.text("name")},
		kind: row.text("kind"), persistence: row.text("persistence")}, nil
}

// load reads the columns of a table.
func (s *shape) load(ctx context.Context, q *pgx.Conn) error {
	r, err := sendOne(ctx, q, readColumns.with(args{"oid": text(int64(s.oid))}))
	if err != nil {
		return err
	}
	l := typeLoader{q: q, known: map[uint32]pgType{}}
	for row := range r.each() {
		c := column{name: row.text("name"), sqlType: row.text("type"), typ: typeOf(row), notNull: row.bool("not_null"), filled: row.bool("filled"),
			identity: row.text("identity"), generated: row.text("generated"), collate: row.text("collation"), def: row.text("default"), folding: row.bool("folding")}
		if err := l.fill(ctx, &c, uint32(row.int("type_oid")), int32(row.int("typmod"))); err != nil {
			return err
		}
		s.columns = append(s.columns, c)
	}
	return nil
}

// loadKeys reads the unique keys of the target.
func (s *shape) loadKeys(ctx context.Context, q *pgx.Conn) error {
	r, err := sendOne(ctx, q, readUniqueKeys.with(args{"oid": text(int64(s.oid))}))
	if err != nil {
		return err
	}
	for row := range r.each() {
		var columns []string
		if err := json.Unmarshal(row.value("columns"), &columns); err != nil {
			return fmt.Errorf("unexpected columns of an index: %w", err)
		}
		s.uniqueKey = append(s.uniqueKey, columns)
	}
	return nil
}

var relkinds = map[string]string{"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index", "c": "a composite type", "I": "an index"}

// check returns an error if the relation cannot be a target.
func (s *shape) check(name string) error {
	what := relkinds[s.kind]
	switch {
	case s.persistence == "t":
		what = "a temporary table, which other sessions do not see"
	case s.kind == "r" || s.kind == "p":
		return nil
	case what == "":
		what = "of kind " + s.kind
	}
	return fmt.Errorf("%w: %s is %s", ErrNotTable, name, what)
}
