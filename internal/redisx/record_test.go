package redisx

import (
	"fmt"
	"testing"
)

func TestRecordDifferences(t *testing.T) {
	t.Parallel()
	r := NewRecord(Field{Name: "High", Value: 10}, Field{Name: "Low", Value: 5}, Field{Name: "Key", Value: ""})
	for other, want := range map[Record]string{
		"":                          "[]",
		r:                           "[]",
		"High 10\nLow 4\nKey \n":    "[{Low 5 4}]",
		"High 10\n":                 "[{Low 5 } {Key  }]",
		"no record":                 "[{High 10 } {Low 5 } {Key  }]",
		"High 10\nLow 5\nKey a b":   "[{Key  a b}]",
		"Low 5\nHigh 10\nKey \nx 1": "[]",
	} {
		if got := fmt.Sprint(r.Differences(other)); got != want {
			t.Errorf("%q: got %s, want %s", other, got, want)
		}
	}
}
