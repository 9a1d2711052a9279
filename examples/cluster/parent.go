package main

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
)

//go:embed parent.sql
var parentSQL string

// createParent makes the tables of all nodes readable as cluster.orders on the first one.
func createParent(ctx context.Context, n *nodes) error {
	if _, err := n.pools[0].Exec(ctx, parentSQL); err != nil {
		return err
	}
	for i, pool := range n.pools {
		view := fmt.Sprintf("CREATE VIEW orders_of_node AS SELECT %d AS node, * FROM orders", i)
		if _, err := pool.Exec(ctx, view); err != nil {
			return err
		}
		c := pool.Config().ConnConfig
		partition := fmt.Sprintf(`
			CREATE SERVER node_%[1]d FOREIGN DATA WRAPPER postgres_fdw
				OPTIONS (host %[2]s, port '%[3]d', dbname %[4]s, async_capable 'true', fetch_size '10000');
			CREATE USER MAPPING FOR CURRENT_USER SERVER node_%[1]d OPTIONS (user %[5]s, password %[6]s);
			CREATE FOREIGN TABLE cluster.orders_%[1]d PARTITION OF cluster.orders FOR VALUES IN (%[1]d)
				SERVER node_%[1]d OPTIONS (schema_name 'public', table_name 'orders_of_node')`,
			i, quote(c.Host), c.Port, quote(c.Database), quote(c.User), quote(c.Password))
		if _, err := n.pools[0].Exec(ctx, partition); err != nil {
			return err
		}
	}
	return nil
}

// quote makes a literal of a text.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
