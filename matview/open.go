package matview

import (
	"context"
	"fmt"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Open returns a Refresher of a set of views that exists, for a program that operates views
// without their definitions. It reads the names and definitions of the views from the state table,
// and their order from the catalogue. Config.Views must be empty; Populate and NoCreate have no
// effect.
//
// Open creates nothing. It needs SELECT on the state table, which is enough for Freshness.
// Refresh needs the privileges that [New] checks, and fails without them. A view that was dropped
// or renamed is left out, and so is one that New creates later: open the set again. A set that
// does not exist is an [ErrMissing], and so is a view that the role cannot find. View.DependsOn
// is not recorded: if a dependency is hidden in the body of a function, refresh the views one by
// one.
func Open(ctx context.Context, pool *pgxpool.Pool, name string, cfg Config) (*Refresher, error) {
	state, err := stateTable(name)
	if err != nil {
		return nil, err
	}
	if len(cfg.Views) > 0 {
		return nil, invalid("Config.Views has %d views, must be empty: Open reads them from %s", len(cfg.Views), state)
	}
	cfg = cfg.withDefaults()
	if err := cfg.checkLimits(); err != nil {
		return nil, err
	}
	if pool == nil {
		return nil, invalid("pool is nil, must be a *pgxpool.Pool")
	}
	r := &Refresher{pool: pool, cfg: cfg, state: state.String(), deps: dependencies{}, schedule: schedule{wake: make(chan struct{}, 1)}}
	err = beginOn(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return r.readViews(ctx, tx, state)
	})
	if err != nil {
		return nil, explain(pgschema.NameStandby(ctx, pool, err), "views of %s", name)
	}
	return r, nil
}

// readViews reads the views of an existing set in dependency order.
func (r *Refresher) readViews(ctx context.Context, tx pgx.Tx, state pgschema.Name) error {
	if err := limit(ctx, tx, r.cfg.Timeout, r.cfg.LockTimeout); err != nil {
		return err
	}
	if err := refuseShadows(ctx, tx); err != nil {
		return err
	}
	objects, err := lookUp(ctx, tx, []pgschema.Name{state})
	if err != nil {
		return err
	}
	o := objects[0]
	var n needs
	n.schema(state, o, "table")
	if o.OID == 0 {
		if len(n.missing) == 0 { // the schema cannot be read
			return lacking(n.role, n.lacks, nil)
		}
		return fmt.Errorf("%w: table %s (no program has created the set of views)", ErrMissing, state)
	}
	if err := checkState(r.state, o); err != nil {
		return err
	}
	if n.privilege(o.MaySelect, "SELECT", "TABLE "+r.state); len(n.lacks) > 0 {
		return lacking(n.role, n.lacks, nil)
	}
	if err := r.readDefinitions(ctx, tx); err != nil {
		return err
	}
	if err := r.deps.readCatalogue(ctx, tx, r.views); err != nil {
		return err
	}
	r.views, err = r.deps.order(r.views)
	return err
}

// readDefinitions reads the views of the state table that still exist under their names.
func (r *Refresher) readDefinitions(ctx context.Context, tx pgx.Tx) error {
	type row struct {
		View
		oid    uint32
		exists bool // under the name, in some schema
		name   pgschema.Name
	}
	found, err := tx.Query(ctx, "SELECT s.name, s.definition, s.view, c.relname FROM "+r.state+
		" s LEFT JOIN pg_class c ON c.oid = s.view AND c.relkind = 'm' ORDER BY s.name COLLATE \"C\"")
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(found, func(c pgx.CollectableRow) (v row, err error) {
		var now *string // the view's name now
		if err = c.Scan(&v.Name, &v.SQL, &v.oid, &now); err == nil {
			v.name, err = pgschema.ParseName(v.Name)
		}
		v.exists = now != nil && *now == v.name.Table
		return v, err
	})
	if err != nil {
		return err
	}
	names := make([]pgschema.Name, len(list))
	for i, v := range list {
		names[i] = v.name
	}
	objects, err := lookUp(ctx, tx, names)
	if err != nil {
		return err
	}
	for i, v := range list {
		switch o := objects[i]; {
		case o.OID == v.oid && o.Kind == "m":
			r.views = append(r.views, v.View)
		case o.OID == 0 && v.exists:
			return fmt.Errorf("%w: view %s exists, but this role does not find it: the role needs USAGE on its schema, "+
				"or the search_path with which it was created", ErrMissing, v.Name)
		}
	}
	return nil
}
