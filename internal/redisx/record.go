package redisx

import (
	"fmt"
	"strings"
)

// Record is a configuration as programs record it in Redis for others: "<field> <value>", a line
// for each field.
type Record string

// Field is a field of a configuration.
type Field struct {
	Name  string
	Value any
}

// NewRecord returns the record of some fields. Their values have no line break.
func NewRecord(fields ...Field) Record {
	var b strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&b, "%s %v\n", f.Name, f.Value)
	}
	return Record(b.String())
}

// RecordDifference is a field whose value differs.
type RecordDifference struct{ Field, This, Other string }

// Differences returns the fields of r whose value is another one in other, or is not in it. There
// are none if nothing was recorded.
func (r Record) Differences(other Record) []RecordDifference {
	if r == other || other == "" {
		return nil
	}
	values := map[string]string{}
	for line := range strings.Lines(string(other)) {
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		values[field] = value
	}
	var all []RecordDifference
	for line := range strings.Lines(string(r)) {
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if o, ok := values[field]; !ok || o != value {
			all = append(all, RecordDifference{Field: field, This: value, Other: o})
		}
	}
	return all
}
