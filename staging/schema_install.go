package staging

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
)

// install finds or makes the target and its companion tables, and checks what is there.
func (t *table) install(ctx context.Context, q *pgx.Conn, target string) error {
	defer t.rollback(q)
	if err := t.refuseShadows(ctx, q); err != nil {
		return err
	}
	// Programs that start at once take turns. The lock ends with the transaction, so it is good
	// through PgBouncer too.
	if err := t.lockInstall(ctx, q); err != nil {
		return err
	}
	if err := t.readShape(ctx, q, target); err != nil {
		return err
	}
	if err := errors.Join(t.refuseVolatile(ctx, q), t.refuseUnfit(ctx, q)); err != nil {
		return err
	}
	if err := t.checkLanes(ctx, q); err != nil {
		return err
	}
	missing, err := t.missingTables(ctx, q)
	if err != nil {
		return err
	}
	if !slices.Contains(missing, t.name.With("_control").Table) {
		if err := t.checkLayout(ctx, q); err != nil {
			return err
		}
	}
	if err := t.checkCompanions(ctx, q); err != nil {
		return err
	}
	if len(missing) > 0 && t.cfg.NoCreate {
		return fmt.Errorf("%w: %s (Config.NoCreate is set: apply the schema that SQL returns)", ErrMissing, strings.Join(missing, ", "))
	}
	if err := t.privileges(ctx, q, len(missing) > 0); err != nil {
		return err
	}
	if t.cfg.Role.onTarget() {
		if err := t.tryRules(ctx, q); err != nil {
			return err
		}
	}
	last, err := t.tables(ctx, q, missing)
	if err != nil {
		return err
	}
	if err := t.commit(ctx, q, last); err != nil {
		return t.explain("creating the tables of "+target, err)
	}
	return nil
}

// readShape finds or makes the target, compares it with the columns of T, and prepares all
// statements.
func (t *table) readShape(ctx context.Context, q *pgx.Conn, target string) error {
	name, err := parseName(target)
	if err != nil {
		return err
	}
	if err := t.readSearchPath(ctx, q); err != nil {
		return t.explain("reading the search path", err)
	}
	s, err := find(ctx, q, name)
	if err == nil && s == nil {
		if s, err = t.createTarget(ctx, q, name); err != nil {
			return err
		}
	}
	if err != nil {
		return t.explain("looking for the target "+target, err)
	}
	if err := s.check(target); err != nil {
		return err
	}
	if err := errors.Join(s.load(ctx, q), s.loadKeys(ctx, q)); err != nil {
		return t.explain("reading the shape of "+target, err)
	}
	if err := t.readLanes(ctx, q, s.name); err != nil {
		return err
	}
	if err := t.match(ctx, s, q); err != nil {
		return err
	}
	for i := range s.columns {
		t.targetColumns = append(t.targetColumns, s.columns[i].name)
	}
	t.prepare()
	res, err := send(ctx, q, t.sql.sequences.with(nil), t.sql.functions.with(nil))
	if err != nil {
		return t.explain("reading the sequences and functions of "+target, err)
	}
	t.sequences = res[0].texts("name")
	for row := range res[1].each() {
		t.functions = append(t.functions, calledFunction{row.text("name"), row.text("oid"), row.bool("copied")})
	}
	return nil
}

// namesText prints names as an array, for a parameter.
func namesText(names []string) string {
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(n) + `"`)
	}
	return "{" + b.String() + "}"
}

var (
	installLock   = fill("install_lock", nil).with(nil)
	missingTables = fill("missing_tables", nil)
	columnChecks  = fill("column_checks", nil)
)

// installTimeout bounds the wait for other programs that start. It is longer than
// Config.LockTimeout, because many may start at once, and the idle timeout ends the transaction
// of one that is frozen.
const installTimeout = time.Minute

// lockInstall begins a transaction in which this program alone makes or checks tables in this
// database.
func (t *table) lockInstall(ctx context.Context, q *pgx.Conn) error {
	calls := append([]call{do(beginOwn)}, t.ownSettings(installTimeout, t.cfg.IdleTimeout, "")...)
	calls = append(calls, installLock)
	if _, err := send(ctx, q, append(calls, t.ownSettings(t.cfg.LockTimeout, t.cfg.IdleTimeout, "")...)...); err != nil {
		return t.explain("waiting for other programs that start", err)
	}
	return nil
}

func (t *table) createTarget(ctx context.Context, q *pgx.Conn, name pgschema.Name) (*shape, error) {
	if !t.cfg.Create {
		return nil, fmt.Errorf("%w: %s (set Config.Create to create it)", ErrNoTarget, name)
	}
	for i, k := range t.cfg.Key {
		if !slices.ContainsFunc(t.wanted, func(c Column) bool { return c.Name == k }) {
			return nil, fmt.Errorf("%w: Key[%d] is %q, must be a column of the rows: Config.Create makes the target of them", ErrConfig, i, k)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s (", name)
	for i, c := range t.wanted {
		typ := c.Type
		if typ == "" && t.fields != nil {
			typ = defaultType(t.fields[i].typ)
		}
		if typ == "" {
			return nil, fmt.Errorf("%w: column %q: Config.Create needs its SQL type (Column.Type or the tag `dbtype`)", ErrConfig, c.Name)
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(c.Name) + " " + typ)
	}
	if len(t.cfg.Key) > 0 {
		b.WriteString(", PRIMARY KEY (" + list("", t.cfg.Key) + ")")
	}
	b.WriteString(")")
	if _, err := q.Exec(ctx, b.String()); err != nil {
		return nil, t.explain("creating the target "+name.String(), err)
	}
	return find(ctx, q, name)
}

// match compares the columns of T with those of the target.
func (t *table) match(ctx context.Context, s *shape, q *pgx.Conn) error {
	var drifts []Drift
	fix := ""
	for i, w := range t.wanted {
		c := s.column(w.Name)
		if c == nil {
			expected := w.Type
			if expected == "" && t.fields != nil {
				expected = "a type for " + t.fields[i].typ.String()
			}
			if expected == "" {
				expected = "any type"
			}
			drifts = append(drifts, Drift{Column: w.Name, Expected: expected})
			continue
		}
		if w.Name == colRecord {
			return fmt.Errorf("%w: column %q: this name is taken by the staging tables", ErrConfig, w.Name)
		}
		same, err := isType(ctx, q, w.Type, c)
		if err != nil {
			return t.explain(fmt.Sprintf("reading the type %s of column %q", w.Type, w.Name), err)
		}
		if !same {
			drifts = append(drifts, Drift{Column: w.Name, Expected: w.Type, Found: c.sqlType})
			continue
		}
		switch {
		case c.generated != "":
			return fmt.Errorf("%w: column %q of %s is GENERATED ALWAYS: leave it out of the columns", ErrConfig, w.Name, t.target)
		case c.textOnly:
			return fmt.Errorf("%w: column %q of %s is %s, which Postgres does not read in binary form, so COPY cannot load it: fill a text column, and let a trigger convert it", ErrConfig, w.Name, t.target, c.sqlType)
		case c.identity == "a":
			return fmt.Errorf("%w: column %q of %s is GENERATED ALWAYS AS IDENTITY: leave it out of the columns", ErrConfig, w.Name, t.target)
		}
		if t.fields != nil {
			f := &t.fields[i]
			if f.put = f.putter(c, q.TypeMap()); f.put == nil {
				drifts = append(drifts, Drift{Column: w.Name, Expected: "a type that takes a Go " + f.typ.String(), Found: c.sqlType})
				fix = "COPY takes the binary form: give the field a type that pgx writes so, such as netip.Addr for inet or one of package pgtype"
				if _, known := q.TypeMap().TypeForOID(c.oid); !known {
					fix = "pgx does not know " + c.sqlType + ": register it on each connection of the pool (pgxpool.Config.AfterConnect, pgx.Conn.LoadType and TypeMap), or fill a text column and let a trigger convert it"
				}
				continue
			}
		}
		t.cols = append(t.cols, *c)
		t.colNames = append(t.colNames, w.Name)
	}
	if len(drifts) > 0 {
		return &DriftError{Table: t.target, Drifts: drifts, Fix: fix}
	}
	for _, c := range s.columns {
		if c.notNull && !c.filled && c.generated == "" && !slices.Contains(t.colNames, c.name) {
			return fmt.Errorf("%w: column %q of %s is NOT NULL, has no default and is not among the columns", ErrConfig, c.name, t.target)
		}
	}
	if err := t.matchKey(s); err != nil {
		return err
	}
	if t.cfg.ID == "" && len(t.cfg.Key) == 1 {
		t.cfg.ID = t.cfg.Key[0]
	}
	if t.cfg.ID != "" && !slices.Contains(t.colNames, t.cfg.ID) {
		return fmt.Errorf("%w: Config.ID is %q, which is not among the columns", ErrConfig, t.cfg.ID)
	}
	for i := range t.cols {
		if t.fields == nil || nullable(&t.fields[i]) {
			t.nullable = append(t.nullable, t.cols[i].name)
		}
	}
	t.rules = append(t.rules, t.cfg.Rules...)
	return nil
}

// nullable reports whether the field's type can be written as NULL.
func nullable(f *field) bool {
	switch f.typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		return true
	case reflect.Struct:
		return f.typ != timeType && !f.typ.Implements(decimalType) || f.nullZero
	}
	return f.nullZero || f.typ.Implements(valuerType)
}

func (t *table) matchKey(s *shape) error {
	if len(t.cfg.Key) == 0 {
		if t.cfg.Conflict == ConflictReplace {
			return fmt.Errorf("%w: ConflictReplace needs Config.Key", ErrConfig)
		}
		return nil
	}
	for _, k := range t.cfg.Key {
		c := s.column(k)
		switch {
		case c == nil || !slices.Contains(t.colNames, k):
			return fmt.Errorf("%w: Config.Key names column %q, which is not among the columns", ErrConfig, k)
		case !c.notNull:
			return fmt.Errorf("%w: Config.Key names column %q, which may be NULL: a key is NOT NULL", ErrConfig, k)
		}
	}
	want := slices.Sorted(slices.Values(t.cfg.Key))
	for _, u := range s.uniqueKey {
		if slices.Equal(slices.Sorted(slices.Values(u)), want) {
			t.lead = s.column(u[0])
			if (t.cfg.ReplaceIf != "" || t.cfg.Newer != "") && len(t.colNames) == len(t.cfg.Key) {
				return fmt.Errorf("%w: Config.ReplaceIf and Newer choose between rows with one key, but the key has all columns: nothing is left to replace", ErrConfig)
			}
			return nil
		}
	}
	return fmt.Errorf("%w: Config.Key (%s): %s has no unique index of just these columns by which ON CONFLICT decides: valid, of columns as they are, in their own order, "+
		"without a condition, and neither deferrable nor next to a deferrable constraint of the same columns", ErrConfig, list("", t.cfg.Key), t.target)
}

// typeNames maps the usual other names of types to what format_type prints.
var typeNames = map[string]string{
	"int": "integer", "int4": "integer", "int8": "bigint", "int2": "smallint", "float8": "double precision", "float4": "real", "float": "double precision",
	"bool": "boolean", "varchar": "character varying", "char": "character", "bpchar": "character", "decimal": "numeric",
	"timestamptz": "timestamp with time zone", "timestamp": "timestamp without time zone", "timetz": "time with time zone", "time": "time without time zone",
	"bigserial": "bigint", "serial": "integer",
}

// isType reports whether a column has the type of a text. Postgres prints a type without its schema
// where the search path has it, so a text with a schema is one of another spelling.
func isType(ctx context.Context, q *pgx.Conn, typ string, c *column) (bool, error) {
	if typ == "" || sameType(typ, c.sqlType) {
		return true, nil
	}
	wanted, mod, array := plainType(typ)
	_, foundMod, foundArray := plainType(c.sqlType)
	if !strings.Contains(wanted, ".") || mod != foundMod || array != foundArray {
		return false, nil
	}
	r, err := sendOne(ctx, q, readTypeName.with(args{"name": typ, "oid": text(int64(c.typ.oid))}))
	if err != nil {
		return false, err
	}
	return r.row(0).bool("same"), nil
}

func sameType(a, b string) bool {
	aName, aMod, aArray := plainType(a)
	bName, bMod, bArray := plainType(b)
	return aName == bName && aMod == bMod && aArray == bArray
}

// plainType takes the spelling of a type apart: its usual name, its modifier and its dimensions.
func plainType(s string) (name, mod, array string) {
	s = strings.ToLower(strings.Join(strings.Fields(s), " "))
	s = strings.ReplaceAll(strings.ReplaceAll(s, ", ", ","), " (", "(")
	for strings.HasSuffix(s, "[]") {
		s, array = strings.TrimSuffix(s, "[]"), array+"[]"
	}
	if i := strings.IndexByte(s, '('); i >= 0 && strings.HasSuffix(s, ")") {
		s, mod = s[:i], s[i:]
	}
	if n, ok := typeNames[s]; ok {
		s = n
	}
	return s, mod, array
}

// missingTables lists the companion tables that do not exist.
func (t *table) missingTables(ctx context.Context, q *pgx.Conn) (missing []string, err error) {
	r, err := sendOne(ctx, q, missingTables.with(args{"schema": t.name.Schema, "names": namesText(t.own)}))
	if err != nil {
		return nil, t.explain("looking for the companion tables of "+t.target, err)
	}
	return r.texts("name"), nil
}

// tables makes the companion tables that are missing and checks the others. It returns the
// statements for the commit's message that widen columns.
func (t *table) tables(ctx context.Context, q *pgx.Conn, missing []string) (last string, err error) {
	if len(missing) > 0 {
		if err := t.checkGroup(ctx, q, missing); err != nil {
			return "", err
		}
		// In one message with the commit, for the reason that promotion.empty gives. Then go on where we
		// were.
		if err := t.commit(ctx, q, t.createSQL()+";\n"); err != nil {
			return "", t.explain("creating the companion tables of "+t.target, err)
		}
		if err := t.lockInstall(ctx, q); err != nil {
			return "", err
		}
	}
	if err := t.checkControl(ctx, q); err != nil {
		return "", err
	}
	for s := range t.staging {
		widen, err := t.checkStaging(ctx, q, side(s))
		if err != nil {
			return "", err
		}
		last += widen
	}
	return last, nil
}

// refuseVolatile returns an error for a target that a crash of the server empties: its ledger would
// go on holding batches whose rows are gone.
func (t *table) refuseVolatile(ctx context.Context, q *pgx.Conn) error {
	if t.cfg.AllowUnlogged {
		return nil
	}
	r, err := sendOne(ctx, q, t.sql.volatile.with(nil))
	if err != nil {
		return t.explain("reading the shape of "+t.target, err)
	}
	return volatileError(t.target, r.texts("name"))
}

// refuseUnfit returns an error for a target of which headrace cannot promise anything.
func (t *table) refuseUnfit(ctx context.Context, q *pgx.Conn) error {
	r, err := sendOne(ctx, q, t.sql.unfit.with(nil))
	if err != nil {
		return t.explain("reading the shape of "+t.target, err)
	}
	return errors.Join(unfitError(t.target, r.row(0).text("unfit")), closedError(t.target, t.cfg.Role.onTarget() && r.row(0).bool("closed")))
}

// closedError is the error of a target of which row-level security refuses every row. The rows are
// not at fault: a policy may follow a moment later.
func closedError(target string, closed bool) error {
	if !closed {
		return nil
	}
	return fmt.Errorf("%w: row-level security of %s is on, and no policy lets this role insert: CREATE POLICY … ON %s FOR INSERT …", ErrPrivilege, target, target)
}

func unfitError(target, why string) error {
	if why == "" {
		return nil
	}
	return fmt.Errorf("%w: %s: %s", ErrUnfit, target, why)
}

func volatileError(target string, unlogged []string) error {
	if len(unlogged) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s: %s is UNLOGGED: ALTER TABLE … SET LOGGED, or set Config.AllowUnlogged", ErrUnlogged, target, strings.Join(unlogged, ", "))
}

// checkLayout compares the layout of the tables that are there with this program's. It needs no
// privilege.
func (t *table) checkLayout(ctx context.Context, q *pgx.Conn) error {
	r, err := sendOne(ctx, q, fill("layout", pieces{"control_text": literal(t.control)}).with(nil))
	if err != nil {
		return t.explain("reading the layout of "+t.control, err)
	}
	if found := r.row(0).text("layout"); found != layout {
		return t.otherLayout(ctx, q, found)
	}
	return nil
}

// checkControl reads the control table: whose it is, and which side is open.
func (t *table) checkControl(ctx context.Context, q *pgx.Conn) error {
	r, err := sendOne(ctx, q, fill("control", pieces{"control": t.control}).with(nil))
	if err != nil {
		return t.explain("reading "+t.control, err)
	}
	row, err := t.controlRow(r)
	if err != nil {
		return err
	}
	kept, err := sendOne(ctx, q, t.sql.bookkeeping.with(nil))
	if err != nil {
		return t.explain("reading the indexes of "+t.ledger, err)
	}
	if err := t.checkBookkeeping(kept.row(0)); err != nil {
		return err
	}
	if owner := row.text("target"); owner != t.target {
		return fmt.Errorf("%w: %s belongs to the target %s", ErrDrift, t.control, owner)
	}
	open := row.text("open")
	if len(open) > len(t.lane) {
		return t.gone(open, []int{len(t.lane)})
	}
	if t.cfg.Lanes > usedLanes(open) && t.cfg.Role.onTarget() && !t.cfg.NoCreate { // lanes that were retired are used again
		r, err := send(ctx, q, t.growLanes(t.cfg.Lanes).with(nil), fill("control", pieces{"control": t.control}).with(nil))
		if err != nil {
			return t.explain("adding lanes to "+t.target, err)
		}
		if open, err = t.openSides(r[1]); err != nil {
			return err
		}
	}
	t.setHint(open)
	return nil
}

// otherLayout describes the difference between the layout that was found and this program's. For an
// older layout it holds the statements that help.
func (t *table) otherLayout(ctx context.Context, q *pgx.Conn, found string) error {
	err := fmt.Errorf("%w: the companion tables of %s have the layout %q, and this program needs %q", ErrDrift, t.target, found, layout)
	n, nerr := strconv.Atoi(strings.TrimPrefix(found, layoutName))
	if this, _ := strconv.Atoi(strings.TrimPrefix(layout, layoutName)); nerr != nil || n >= this {
		return fmt.Errorf("%w: run programs of one version", err)
	}
	drop := func(table, column string) (checks string, err error) {
		r, err := sendOne(ctx, q, columnChecks.with(args{"table": table, "column": column}))
		if err != nil {
			return "", t.explain("reading the constraints of "+table, err)
		}
		for _, name := range r.texts("name") {
			checks += ", DROP CONSTRAINT " + quote(name)
		}
		return checks, nil
	}
	source, serr := drop(t.rejects, "source")
	open, oerr := drop(t.control, "open")
	if cerr := errors.Join(serr, oerr); cerr != nil {
		return cerr
	}
	upgrade := fill("upgrade", pieces{"refused_a": t.refused[sideA], "refused_b": t.refused[sideB], "registry_a": t.registry[sideA], "registry_b": t.registry[sideB],
		"ledger": t.ledger, "rejects": t.rejects, "control": t.control, "reject_counts": t.rejectCounts, "drop_source_checks": source, "drop_open_checks": open, "create": t.createSQL()})
	return fmt.Errorf("%w: stop the programs of the older version and run\nBEGIN;\n%s;\nCOMMIT;", err, upgrade.text)
}
