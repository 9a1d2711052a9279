package matview

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// depsSQL reads from the catalogue which views of a set read which others.
//
//go:embed deps.sql
var depsSQL string

// dependencies maps the name of a view to the names of those that it reads.
type dependencies map[string][]string

// declared collects View.DependsOn.
func declared(views []View) dependencies {
	deps := dependencies{}
	for _, v := range views {
		for _, name := range v.DependsOn {
			i := slices.IndexFunc(views, func(o View) bool { return o.ident() == ident(name) })
			deps.add(v.Name, views[i].Name)
		}
	}
	return deps
}

func (d dependencies) add(view, reads string) {
	if !slices.Contains(d[view], reads) {
		d[view] = append(d[view], reads)
	}
}

// readCatalogue adds the dependencies that Postgres knows: through views, plain or materialized,
// that are not in the set, and through functions in the SQL standard's form.
func (d dependencies) readCatalogue(ctx context.Context, tx pgx.Tx, views []View) error {
	names, idents := namesOf(views)
	rows, err := tx.Query(ctx, depsSQL, names, idents)
	if err != nil {
		return err
	}
	var view, reads string
	_, err = pgx.ForEachRow(rows, []any{&view, &reads}, func() error {
		d.add(view, reads)
		return nil
	})
	return err
}

// order sorts the views so that each comes after those it reads, and otherwise as they were given.
func (d dependencies) order(views []View) ([]View, error) {
	var (
		order []View
		done  = make(map[string]bool, len(views))
		path  []string
		visit func(v View) error
	)
	visit = func(v View) error {
		if done[v.Name] {
			return nil
		}
		if i := slices.Index(path, v.Name); i >= 0 {
			return invalid("Config.Views[].DependsOn has the cycle %s, must have none", strings.Join(append(path[i:], v.Name), " → "))
		}
		path = append(path, v.Name)
		for _, o := range views {
			if slices.Contains(d[v.Name], o.Name) {
				if err := visit(o); err != nil {
					return err
				}
			}
		}
		path = path[:len(path)-1]
		done[v.Name] = true
		order = append(order, v)
		return nil
	}
	for _, v := range views {
		if err := visit(v); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// closure is the set of the named views and all that they read. No names means all views.
func (r *Refresher) closure(names []string) (map[string]bool, error) {
	set := make(map[string]bool, len(r.views))
	for _, n := range names {
		if !slices.ContainsFunc(r.views, func(v View) bool { return v.Name == n }) {
			return nil, fmt.Errorf("%w: %q is not in Config.Views", ErrUnknownView, n)
		}
		set[n] = true
	}
	for _, v := range slices.Backward(r.views) { // what reads v comes after v
		if len(names) == 0 {
			set[v.Name] = true
		}
		if set[v.Name] {
			for _, d := range r.deps[v.Name] {
				set[d] = true
			}
		}
	}
	return set, nil
}

// namesOf returns the names as they were given, and quoted.
func namesOf(views []View) (names, idents []string) {
	for _, v := range views {
		names, idents = append(names, v.Name), append(idents, v.ident())
	}
	return names, idents
}
