package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headrace/headrace/lookup"
)

// lookups are the lookup tables in Redis.
type lookups struct {
	List    lookupList    `cmd:"" help:"Show the current version of each table."`
	Refresh lookupRefresh `cmd:"" help:"Load the tables of the orders domain again."`
}

type lookupList struct {
	Names []string `arg:"" optional:"" name:"table" help:"Names of tables (default: those of the orders domain)."`
}

// orderLookups are the names of the lookup tables of the orders domain.
func orderLookups(queue string) []string {
	return []string{queue + "-products", queue + "-rates", queue + "-zips"}
}

type lookupTable struct {
	Table   string  `json:"table"`
	Loaded  bool    `json:"loaded"`
	Version string  `json:"version,omitempty"`
	Entries int     `json:"entries"`
	Age     float64 `json:"age_seconds"`
}

// Run shows the versions. It only reads.
func (v *lookupList) Run(ctx context.Context, s *session) error {
	c, err := s.redis(ctx)
	if err != nil {
		return err
	}
	names := v.Names
	if len(names) == 0 {
		names = orderLookups(s.Queue)
	}
	list := []lookupTable{}
	var text strings.Builder
	for _, name := range names {
		table, err := lookup.New(ctx, c, name, lookup.Config[string, json.RawMessage]{})
		if err != nil {
			return err
		}
		st, err := table.Stats(ctx)
		if errors.Is(err, lookup.ErrNotLoaded) || err == nil && st.Version == "" {
			list = append(list, lookupTable{Table: name})
			fmt.Fprintf(&text, "%-16s not loaded: run init-cache\n", name)
			continue
		}
		if err != nil {
			return err
		}
		list = append(list, lookupTable{name, true, st.Version, st.Entries, st.Age.Seconds()})
		fmt.Fprintf(&text, "%-16s %d entries, %v old, %s\n", name, st.Entries, st.Age.Round(time.Second), st.Version)
	}
	return s.print(map[string]any{"tables": list}, text.String())
}

// lookupRefresh is init-cache by another name.
type lookupRefresh struct{ initCache }

// Run loads the tables.
func (v *lookupRefresh) Run(ctx context.Context, s *session) error { return v.initCache.Run(ctx, s) }
