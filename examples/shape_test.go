package examples_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"testing"
)

// documented reads the JSON shapes of headrace's README: the verb in backquotes, then a block.
func documented(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile("headrace/README.md")
	if err != nil {
		t.Fatal(err)
	}
	shapes := make(map[string]any)
	for _, m := range regexp.MustCompile("(?s)\n`([a-z …-]+)`[^\n]*\n\n```json\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		var v any
		if err := json.Unmarshal([]byte(m[2]), &v); err != nil {
			t.Errorf("the README's JSON of %s: %v", m[1], err)
		}
		shapes[m[1]] = v
	}
	return shapes
}

// compare reports where a value has another shape than the documented one: a field that is not
// documented, or a value of another type. What a payload contains is free.
func compare(path string, got, want any) (differences []string) {
	if m, ok := want.(map[string]any); ok && m["any"] != nil || slices.Contains([]string{".dead[0].payload", ".codes"}, path) {
		return nil
	}
	switch want := want.(type) {
	case map[string]any:
		m, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %T, want an object", path, got)}
		}
		for k, v := range m {
			if w, ok := want[k]; ok {
				differences = append(differences, compare(path+"."+k, v, w)...)
			} else {
				differences = append(differences, path+"."+k+" is not documented")
			}
		}
	case []any:
		list, ok := got.([]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %T, want a list", path, got)}
		}
		for i, v := range list {
			differences = append(differences, compare(fmt.Sprintf("%s[%d]", path, i), v, want[0])...)
		}
	default:
		if fmt.Sprintf("%T", got) != fmt.Sprintf("%T", want) && got != nil {
			differences = append(differences, fmt.Sprintf("%s is %T, want %T", path, got, want))
		}
	}
	return differences
}

// TestCompare makes sure that the comparison finds what it is for.
func TestCompare(t *testing.T) {
	t.Parallel()
	var want any
	if err := json.Unmarshal([]byte(`{"n": 1, "list": [{"s": "text"}], "free": {"any": 1}}`), &want); err != nil {
		t.Fatal(err)
	}
	for text, n := range map[string]int{
		`{"n": 2, "list": [], "free": [1]}`: 0, `{"n": 2, "list": [{"s": "x"}, {}]}`: 0, `{"n": "2"}`: 1, `{"m": 2}`: 1, `{"list": [{"s": 1}, {"x": 1}]}`: 2,
		`{"list": {}}`: 1, `[]`: 1,
	} {
		var got any
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		if d := compare("", got, want); len(d) != n {
			t.Errorf("%s: got differences %v, want %d", text, d, n)
		}
	}
}
