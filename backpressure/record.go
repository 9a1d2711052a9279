package backpressure

import (
	"context"
	"fmt"
	"strings"

	"github.com/headrace/headrace/internal/redisx"
)

// record records the configuration in Redis, and logs where it differs from the one that another
// program has recorded. Both go on: each call uses the marks of its own program. It is no error,
// because a change of the configuration reaches one program after the other.
func (g *Gate) record(ctx context.Context) error {
	text := g.cfg.text()
	r := g.server.Run(ctx, redisx.Call{Script: configureScript, Keys: g.keys, Args: []string{Layout, text}})
	before, err := r.ToString()
	switch {
	case redisx.NoPermission(err) || redisx.OutOfMemory(err):
		return nil // it is a record for others, and nothing depends on it
	case err != nil:
		return g.wrap("open", err)
	case before == "" || before == text:
		return nil
	}
	others := map[string]string{}
	for line := range strings.Lines(before) {
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		others[field] = value
	}
	for line := range strings.Lines(text) {
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if other, ok := others[field]; !ok || other != value {
			g.cfg.Logger.WarnContext(ctx, "backpressure: another program has opened the gate with another configuration",
				"gate", g.name, "field", "Config."+field, "this", value, "other", other)
		}
	}
	return nil
}

// text returns what all programs of one gate should have in common, a line for each field.
func (c Config) text() string {
	var b strings.Builder
	for _, f := range []struct {
		field string
		value any
	}{
		{"High", c.High}, {"Low", c.Low}, {"HighBytes", c.HighBytes}, {"LowBytes", c.LowBytes}, {"HighLag", c.HighLag}, {"LowLag", c.LowLag},
		{"HighMemory", c.HighMemory}, {"LowMemory", c.LowMemory}, {"ReservationTTL", c.ReservationTTL}, {"LagKey", c.LagKey},
		{"Records", sourceTexts(c.Records)}, {"Bytes", sourceTexts(c.Bytes)},
	} {
		fmt.Fprintf(&b, "%s %v\n", f.field, f.value)
	}
	return b.String()
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
