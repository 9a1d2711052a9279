package staging

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Role is what a program does with a table. Each role needs different privileges; [Grants] lists
// them. A producer pushes into the queue and needs none.
type Role uint8

// The roles.
const (
	RoleAll      Role = iota // stages, promotes and reads
	RoleWorker               // stages batches, and voids them
	RolePromoter             // promotes, reads the rejects, replays and prunes
	RoleReader               // reads the books, the fates and the rejects
)

// String returns the name of the role.
func (r Role) String() string {
	switch r {
	case RoleAll:
		return "all"
	case RoleWorker:
		return "worker"
	case RolePromoter:
		return "promoter"
	case RoleReader:
		return "reader"
	}
	return fmt.Sprintf("Role(%d)", uint8(r))
}

// The statements that read privileges.
var (
	currentRole          = fill("current_role", nil).with(nil)
	hasTablePrivilege    = fill("has_table_privilege", nil)
	hasSequencePrivilege = fill("has_sequence_privilege", nil)
	hasFunctionPrivilege = fill("has_function_privilege", nil)
	hasSchemaCreate      = fill("has_schema_create", nil)
	hiddenRows           = fill("hidden_rows", nil)
)

// need is what a role must be able to do with one object.
type need struct {
	kind       string // as GRANT writes it, with a space
	object     string // quoted
	oid        string // of a function: one in a schema that the role may not use has no name for it
	privileges []string
}

// calledFunction is a function that a load calls with the role's own privileges.
type calledFunction struct {
	name   string // with its schema and arguments
	oid    string
	copied bool // by the COPY into a staging table too
}

// onTarget is true for a role that writes into the target itself.
func (r Role) onTarget() bool { return r == RoleAll || r == RolePromoter }

// needs lists what a role needs on the tables.
func (t *table) needs() []need {
	var out []need
	add := func(privileges string, objects ...string) {
		for _, o := range objects {
			i := slices.IndexFunc(out, func(n need) bool { return n.object == o })
			if i < 0 {
				i = len(out)
				out = append(out, need{kind: "TABLE ", object: o})
			}
			for _, p := range strings.Split(privileges, ", ") {
				if !slices.Contains(out[i].privileges, p) {
					out[i].privileges = append(out[i].privileges, p)
				}
			}
		}
	}
	role := t.cfg.Role
	if role.onTarget() {
		add("SELECT, INSERT", t.target)
		if t.cfg.Conflict == ConflictReplace {
			add("UPDATE", t.target)
		}
	}
	add("SELECT", t.control, t.ledger, t.rejects, t.rejectCounts, t.epoch)
	add("SELECT", t.registry...)
	if role == RoleAll || role == RoleWorker {
		add("INSERT", t.ledger, t.epoch)
		add("INSERT, UPDATE", t.registry...)
		add("INSERT", append(t.staging[:len(t.staging):len(t.staging)], t.refused...)...)
	}
	if role.onTarget() {
		add("UPDATE", t.control)
		add("INSERT, UPDATE, DELETE", t.ledger, t.rejects, t.rejectCounts)
		add("INSERT", t.epoch)
		add("DELETE, TRUNCATE", t.registry...)
		add("SELECT, UPDATE, DELETE, TRUNCATE", t.staging...)
		add("SELECT, DELETE, TRUNCATE", t.refused...)
		add("SELECT, INSERT, UPDATE, DELETE", t.rewrites)
		for _, s := range t.sequences {
			out = append(out, need{kind: "SEQUENCE ", object: s, privileges: []string{"USAGE"}})
		}
	}
	for _, f := range t.functions {
		if role.onTarget() || f.copied && role == RoleWorker {
			out = append(out, need{kind: "FUNCTION ", object: f.name, oid: f.oid, privileges: []string{"EXECUTE"}})
		}
	}
	return out
}

// lacking lists what the current role lacks of the needs. What does not exist is left out.
func (t *table) lacking(ctx context.Context, q *pgx.Conn) (role string, lacks []pgschema.Lack, err error) {
	r, err := sendOne(ctx, q, currentRole)
	if err != nil {
		return "", nil, err
	}
	role = r.row(0).text("role")
	for _, n := range t.needs() {
		check := map[string]statement{"TABLE ": hasTablePrivilege, "SEQUENCE ": hasSequencePrivilege, "FUNCTION ": hasFunctionPrivilege}[n.kind]
		calls := make([]call, len(n.privileges))
		for i, p := range n.privileges {
			calls[i] = check.with(args{"object": cmp.Or(n.oid, n.object), "privilege": p})
		}
		res, err := send(ctx, q, calls...)
		if err != nil {
			return role, nil, err
		}
		for i, p := range n.privileges {
			if !res[i].row(0).bool("has") {
				lacks = append(lacks, pgschema.Lack{Privilege: p, Object: n.kind + n.object, Role: role})
			}
		}
	}
	return role, lacks, nil
}

// lackingTimeout bounds the search for the privileges that an error is about.
const lackingTimeout = 2 * time.Second

// lackingNow lists what the role lacks after a call was refused: something was revoked after New.
// The caller may hold a connection, so it takes one only if the pool has another.
func (t *table) lackingNow() (role string, lacks []pgschema.Lack) {
	if s := t.pool.Stat(); s.AcquiredConns() >= s.MaxConns() {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lackingTimeout)
	defer cancel()
	conn, err := t.begin(ctx, reads)
	if err != nil {
		return "", nil // the error that is being explained matters, and this one does not
	}
	defer conn.Release()
	defer t.rollback(conn.Conn())
	role, lacks, err = t.lacking(ctx, conn.Conn())
	if role != "" && sqlState(err) == insufficientPrivilege { // not even the names can be looked up
		lacks = []pgschema.Lack{{Privilege: "USAGE", Object: "SCHEMA " + quote(t.name.Schema), Role: role}}
	}
	return role, lacks
}

// unprivileged is the error of a call that was refused, with the statements that grant what is
// lacking. There are none if SQL of the user was refused, such as a trigger's.
func unprivileged(doing string, err error, role string, lacks []pgschema.Lack) error {
	if len(lacks) == 0 {
		return fmt.Errorf("%w: %s: %w", ErrPrivilege, doing, err)
	}
	return fmt.Errorf("%w: %s: %w; role %q needs: %s", ErrPrivilege, doing, err, role, pgschema.Fixes(lacks))
}

// privileges names all privileges that this program will need and lacks in one error, with the
// statements that grant them. With create, tables have to be created.
func (t *table) privileges(ctx context.Context, q *pgx.Conn, create bool) error {
	role, lacks, err := t.lacking(ctx, q)
	if err != nil {
		return t.explain("reading privileges", err)
	}
	if create {
		r, err := sendOne(ctx, q, hasSchemaCreate.with(args{"schema": t.name.Schema}))
		if err != nil {
			return t.explain("reading privileges", err)
		}
		if !r.row(0).bool("has") {
			lacks = append(lacks, pgschema.Lack{Privilege: "CREATE", Object: "SCHEMA " + quote(t.name.Schema), Role: role})
		}
		if space := r.row(0).text("tablespace"); space != "" {
			lacks = append(lacks, pgschema.Lack{Privilege: "CREATE", Object: "TABLESPACE " + space, Role: role})
		}
	}
	if len(lacks) > 0 {
		return fmt.Errorf("%w: role %q needs: %s", ErrPrivilege, role, pgschema.Fixes(lacks))
	}
	r, err := sendOne(ctx, q, hiddenRows.with(args{"schema": t.name.Schema, "names": namesText(t.own)}))
	if err != nil {
		return t.explain("reading policies", err)
	}
	if hidden := r.texts("name"); len(hidden) > 0 {
		return fmt.Errorf("%w: row-level security hides the rows of %s from role %q: ALTER TABLE %s DISABLE ROW LEVEL SECURITY; for each, or a policy that shows them all",
			ErrPrivilege, strings.Join(hidden, ", "), role, hidden[0])
	}
	return nil
}

// Grants returns the statements that grant a database role the privileges for cfg.Role. Run them
// after [SQL]. Grants reads the catalogue and changes nothing.
func Grants[T any](ctx context.Context, pool *pgxpool.Pool, target string, cfg Config[T], to string) (string, error) {
	var b strings.Builder
	err := describe(ctx, pool, target, cfg, func(t *table, _ *pgx.Conn) error {
		fmt.Fprintf(&b, "-- %s of %s\n", t.cfg.Role, t.target)
		fmt.Fprintf(&b, "GRANT USAGE ON SCHEMA %s TO %s;\n", quote(t.name.Schema), quote(to))
		for _, n := range t.needs() {
			fmt.Fprintf(&b, "GRANT %s ON %s%s TO %s;\n", strings.Join(n.privileges, ", "), n.kind, n.object, quote(to))
		}
		if t.cfg.Role == RolePromoter {
			fmt.Fprintf(&b, `-- If workers are another role: without these two a worker whose COPY is stalled holds up the promoter until
-- its connection ends, because Postgres lets a role see and end only its own sessions.
-- GRANT pg_read_all_stats, pg_signal_backend TO %s;
`, quote(to))
		}
		return nil
	})
	return b.String(), err
}

// SQL returns the schema of all companion tables of a target, for a migration tool. The target must
// exist; the staging tables get the types of its columns. New with Config.NoCreate accepts the
// result. The text begins with the version of the layout. Run it as one transaction.
func SQL[T any](ctx context.Context, pool *pgxpool.Pool, target string, cfg Config[T]) (string, error) {
	var sql string
	err := describe(ctx, pool, target, cfg, func(t *table, _ *pgx.Conn) error {
		t.cfg.Lanes = max(t.cfg.Lanes, t.found) // those that the target has
		sql = "-- " + layout + ": companion tables of " + t.target + "\n" + t.createSQL() + ";\n"
		return nil
	})
	return sql, err
}

// layout is the version of the tables. It is in the comment of the control table.
const (
	layoutName = "headrace staging schema "
	layout     = layoutName + "6"
)

// createSQL creates all tables that are missing.
func (t *table) createSQL() string {
	create := []string{
		fill("schema_target", pieces{"ledger": t.ledger, "ledger_at": t.ledgerAt, "rejects": t.rejects, "rejects_batch": t.rejectsBatch,
			"ledger_root": t.ledgerRoot, "rejects_key": t.rejectsKey, "reject_counts": t.rejectCounts,
			"control": t.control, "epoch": t.epoch, "target_text": literal(t.target), "layout": literal(layout)}).text,
		t.rewriteSQL("rewrite_table").text,
	}
	for s := range t.staging {
		var cols []string
		for i := range t.cols {
			cols = append(cols, t.cols[i].definition())
		}
		create = append(create, fill("schema_side", pieces{"registry": t.registry[s], "numbers": t.numbers[s], "staging": t.staging[s], "refused": t.refused[s],
			"columns": strings.Join(cols, ",\n    ")}).text)
	}
	if t.cfg.Lanes > 1 {
		create = append(create, t.growLanes(t.cfg.Lanes).text)
	}
	return strings.Join(create, ";\n")
}

// growLanes makes so many lanes take batches.
func (t *table) growLanes(lanes int) statement {
	return fill("grow_lanes", pieces{"control": t.control, "lanes": strconv.Itoa(lanes)})
}

// describe reads the shape of a target for f, and ends the transaction without a change.
func describe[T any](ctx context.Context, pool *pgxpool.Pool, target string, cfg Config[T], f func(*table, *pgx.Conn) error) error {
	t, err := newTable(pool, cfg)
	if err != nil {
		return err
	}
	return t.describe(ctx, target, f)
}

func (t *Table[T]) describe(ctx context.Context, target string, f func(*table, *pgx.Conn) error) error {
	conn, err := t.begin(ctx, reads)
	if err != nil {
		return t.explain("reading the shape of "+target, err)
	}
	defer conn.Release()
	defer t.rollback(conn.Conn())
	t.cfg.Create = false
	if err := t.readShape(ctx, conn.Conn(), target); err != nil {
		return err
	}
	return f(&t.table, conn.Conn())
}
