package backpressure

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/headrace/headrace/internal/redisx"
)

// record records the configuration in Redis, and logs where it differs from the one that another
// program has recorded. Both go on: each call uses the marks of its own program. It is no error,
// because a change of the configuration reaches one program after the other.
func (g *Gate) record(ctx context.Context) error {
	record := g.cfg.record()
	r := g.server.Run(ctx, redisx.Call{Script: configureScript, Keys: g.keys, Args: []string{Layout, string(record)}})
	before, err := r.ToString()
	switch {
	case redisx.NoPermission(err) || redisx.OutOfMemory(err):
		return nil // it is a record for others, and nothing depends on it
	case err != nil:
		return g.wrap("open", err)
	}
	for _, d := range record.Differences(redisx.Record(before)) {
		g.cfg.Logger.WarnContext(ctx, "backpressure: another program has opened the gate with another configuration",
			"gate", g.name, "field", "Config."+d.Field, "this", d.This, "other", d.Other)
	}
	return nil
}

// record returns what all programs of one gate should have in common.
func (c Config) record() redisx.Record {
	return redisx.NewRecord(
		redisx.Field{Name: "High", Value: c.High}, redisx.Field{Name: "Low", Value: c.Low},
		redisx.Field{Name: "HighBytes", Value: c.HighBytes}, redisx.Field{Name: "LowBytes", Value: c.LowBytes},
		redisx.Field{Name: "HighLag", Value: c.HighLag}, redisx.Field{Name: "LowLag", Value: c.LowLag},
		redisx.Field{Name: "HighMemory", Value: c.HighMemory}, redisx.Field{Name: "LowMemory", Value: c.LowMemory},
		redisx.Field{Name: "ReservationTTL", Value: c.ReservationTTL}, redisx.Field{Name: "LagKey", Value: strconv.Quote(c.LagKey)},
		redisx.Field{Name: "Records", Value: sourceTexts(c.Records)}, redisx.Field{Name: "Bytes", Value: sourceTexts(c.Bytes)},
	)
}

func sourceTexts(sources []Source) []string {
	texts := make([]string, len(sources))
	for i, s := range sources {
		sign := "+"
		if s.Minus {
			sign = "-"
		}
		texts[i] = fmt.Sprintf("%s%q", sign, strings.TrimSpace(s.List+s.Hash+" "+s.Field))
	}
	return texts
}
