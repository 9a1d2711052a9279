package matview

import (
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/internal/pgschema"
)

//go:embed rollup_operators.sql
var operatorsSQL string

// Postgres chooses an operator or a function by the types of its operands, and one of the user fits
// varchar, or bigint and numeric, better than its own does. So operators on values are named with
// their schema where the type is one of Postgres' own. Operators on the roll-up's own columns are
// not, and have operands for which Postgres has an operator of exactly these types.

// operator is the operator of a type, to be put between two values of it. It binds less tightly
// than + and more tightly than <, whichever it is.
func operator(typ, symbol string) string {
	if isPostgres(typ) {
		return postgres(symbol)
	}
	return symbol
}

// postgres is an operator of Postgres.
func postgres(symbol string) string { return "OPERATOR(pg_catalog." + symbol + ")" }

// aggregate is the name of an aggregate function over values whose result is of a type.
func aggregate(typ, name string) string {
	if isPostgres(typ) {
		return "pg_catalog." + name
	}
	return name
}

// compared is a comparison of two values of one type in its own order, whatever operators the
// search path has: of rows that consist of them. No index serves it. NULL is the greatest value.
func compared(a, symbol, b string) string {
	return "ROW(" + a + ")::record " + postgres(symbol) + " ROW(" + b + ")::record"
}

// isPostgres is true for a type of Postgres, and for its arrays.
func isPostgres(typ string) bool {
	typ = strings.ToLower(typ)
	typ, _, _ = strings.Cut(collation.ReplaceAllString(typ, "\x00"), "\x00")
	typ = modifier.ReplaceAllString(typ, " ")
	typ = arrays.ReplaceAllString(strings.TrimSpace(typ), "")
	typ = strings.TrimPrefix(strings.Join(strings.Fields(schemaDot.ReplaceAllString(typ, ".")), " "), "pg_catalog.")
	return postgresTypes[typ]
}

var (
	collation = regexp.MustCompile(`\bcollate\b`)
	modifier  = regexp.MustCompile(`\([^()]*\)`)
	arrays    = regexp.MustCompile(`(\s+array)?\s*(\[\s*\d*\s*\]\s*)*$`)
	schemaDot = regexp.MustCompile(`\s*\.\s*`)
)

// postgresTypes are Postgres' own types that can be compared, by all their names.
var postgresTypes = func() map[string]bool {
	own := map[string]bool{}
	for names := range strings.SplitSeq(`text,varchar,character varying,char varying,national character varying,national char varying,nchar varying,
		character,char,national character,national char,nchar,bpchar,name,bool,boolean,bytea,uuid,inet,cidr,macaddr,macaddr8,jsonb,money,oid,
		smallint,integer,bigint,int,int2,int4,int8,numeric,decimal,dec,real,float,float4,float8,double precision,date,interval,
		timestamp,timestamptz,timestamp without time zone,timestamp with time zone,time,timetz,time without time zone,time with time zone,
		bit,varbit,bit varying,int4range,int8range,numrange,tsrange,tstzrange,daterange,int4multirange,int8multirange,nummultirange,
		tsmultirange,tstzmultirange,datemultirange`, ",") {
		own[strings.TrimSpace(names)] = true
	}
	return own
}()

// checkOperators refuses a type for whose values an operator or a function of the user would be
// taken instead of the type's own: keys would be other groups.
func (r Rollup) checkOperators(ctx context.Context, tx pgx.Tx) error {
	check := func(field, column, typ string, operators, functions []string) error {
		if isPostgres(typ) {
			return nil
		}
		var found string
		if err := tx.QueryRow(ctx, pgschema.Fill(operatorsSQL, "type", typ), operators, functions).Scan(&found); err != nil {
			return &contextError{field, err}
		}
		if found != "" {
			return invalid("%s.Type (column %s) is %s, for which %s would be taken instead of that of Postgres: "+
				"take a type of Postgres, or the schema of the %s out of the search_path", field, column, typ, found, strings.Fields(found)[0])
		}
		return nil
	}
	for i, c := range r.GroupBy {
		if !r.Replaces {
			break // only the groups of replaced rows are looked up
		}
		if err := check(fmt.Sprintf("Rollup.GroupBy[%d]", i), c.Name, c.Type, []string{"="}, nil); err != nil {
			return err
		}
	}
	for i, m := range r.Measures {
		var operators, functions []string
		switch m.Aggregate {
		case AggregateSum, AggregateAverage:
			operators, functions = []string{"+"}, []string{"sum"}
		case AggregateMin, AggregateMax:
			functions = []string{map[Aggregate]string{AggregateMin: "min", AggregateMax: "max"}[m.Aggregate]}
		default:
			continue
		}
		if err := check(fmt.Sprintf("Rollup.Measures[%d]", i), m.Name, m.sqlType(), operators, functions); err != nil {
			return err
		}
	}
	return nil
}
