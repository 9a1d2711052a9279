package lookup_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

type town struct{ Country, Code string }

type note struct {
	Text string
	More map[string]any  `json:",omitempty"`
	Raw  json.RawMessage `json:",omitempty"`
}

// A value that JSON would change is refused: the table never holds another one in its town.
func TestTextThatJSONCannotHold(t *testing.T) {
	t.Parallel()
	c := servertest.Miniredis(t)
	source := map[town]note{}
	table, err := lookup.New(t.Context(), c, servertest.Prefix(t), lookup.Config[town, note]{
		Load: lookup.FromMap(func(context.Context) (map[town]note, error) { return source, nil }),
	})
	if err != nil {
		t.Fatal(err)
	}
	good := map[town]note{
		{"DE", "1"}:      {Text: "\ufffd", Raw: json.RawMessage(`"\ufffd"`)},
		{"\ufffd", "2"}:  {Text: `\ufffd`, More: map[string]any{`\\ufffd`: "ü"}},
		{`\ufffd`, "\b"}: {Text: "<&\u2028>"},
	}
	source = good
	if _, err := table.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := table.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range good {
		got, ok := s.Get(k)
		if d := cmp.Diff(want, got); !ok || d != "" {
			t.Errorf("%q: %v %s", k, ok, d)
		}
	}
	for what, bad := range map[string]map[town]note{
		"value":        {{"DE", "80331"}: {Text: "M\xfcnchen"}},
		"nested value": {{"DE", "80331"}: {More: map[string]any{"a": []any{"\xff"}}}},
		"nested key":   {{"DE", "80331"}: {More: map[string]any{"\xff": 1}}},
		"key":          {{"DE", "80331\xff"}: {}},
	} {
		source = bad
		_, err := table.Refresh(t.Context())
		if !errors.Is(err, lookup.ErrEncode) || !strings.Contains(err.Error(), "80331") || !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("%s: got %v, want %v with the key", what, err, lookup.ErrEncode)
		}
	}
}

// A remote table serves an entry that it cannot store from the source, and the others as ever.
func TestRemoteEntryThatCannotBeStored(t *testing.T) {
	t.Parallel()
	c, name := servertest.Miniredis(t), servertest.Prefix(t)
	source := map[town]string{{"DE", "1"}: "a", {"DE", "2"}: "M\xfcnchen", {"D\xff", "3"}: "c"}
	cfg := lookup.RemoteConfig[town, string]{
		Logger: slog.New(slog.DiscardHandler),
		Fetch: func(_ context.Context, keys []town) (map[town]string, error) {
			found := map[town]string{}
			for _, k := range keys {
				if v, ok := source[k]; ok {
					found[k] = v
				}
			}
			return found, nil
		},
	}
	keys := []town{{"DE", "1"}, {"DE", "2"}, {"D\xff", "3"}, {"D\xfe", "3"}, {"D\ufffd", "3"}}
	want := lookup.Result[string]{Values: []string{"a", "M\xfcnchen", "c", "", ""}, Missing: []int{3, 4}}
	for range 2 {
		r, err := lookup.NewRemote(t.Context(), c, name, cfg)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.GetMany(t.Context(), keys)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%v %s", err, d)
		}
		if err := r.Put(t.Context(), map[town]string{keys[1]: source[keys[1]]}); !errors.Is(err, lookup.ErrEncode) {
			t.Errorf("put: got %v, want %v", err, lookup.ErrEncode)
		}
	}
	// Without a source, nothing but the first is known.
	r, err := lookup.NewRemote(t.Context(), c, name, lookup.RemoteConfig[town, string]{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.GetMany(t.Context(), keys)
	if d := cmp.Diff(lookup.Result[string]{Values: []string{"a", "", "", "", ""}, Missing: []int{1, 2, 3, 4}}, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
}
