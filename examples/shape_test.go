package examples_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	shapeBlock = regexp.MustCompile("(?s)\n`([^\n]*)\n\n```json\n(.*?)```")
	shapeVerb  = regexp.MustCompile("`([a-z][a-z -]*)`")
)

// shapes compares what verbs print with the documented shapes.
type shapes struct {
	cli
	want map[string]any
	seen map[string]bool
}

// check runs a verb with -json and compares what it prints with the shape.
func (s shapes) check(line string) {
	s.t.Helper()
	s.compare(line, s.ok(line+" -json"))
}

// compare compares what a verb has printed with the shape.
func (s shapes) compare(line, out string) {
	s.t.Helper()
	verb := ""
	for name := range s.want {
		if strings.HasPrefix(line+" ", name+" ") && len(name) > len(verb) {
			verb = name
		}
	}
	if verb == "" {
		s.t.Errorf("the JSON of %s is not documented", line)
		return
	}
	s.seen[verb] = true
	var got any
	dec := json.NewDecoder(strings.NewReader(out))
	if err := dec.Decode(&got); err != nil || dec.More() {
		s.t.Errorf("headrace %s -json: %v, or more than one object:\n%s", line, err, out)
		return
	}
	for _, d := range compare("", got, s.want[verb]) {
		s.t.Errorf("headrace %s -json: %s", line, d)
	}
}

// complete fails the test if the JSON of a verb was not checked, or one is documented that was not
// run.
func (s shapes) complete() {
	s.t.Helper()
	for verb := range s.want {
		if !s.seen[verb] {
			s.t.Errorf("%s is documented and was not run", verb)
		}
	}
	for _, name := range verbs {
		verb := strings.TrimPrefix(name, "headrace ")
		if verb != "headrace" && verb != "peek" && !s.seen[verb] {
			s.t.Errorf("the JSON of %s was not checked", verb)
		}
	}
}

// documented reads the JSON shapes of docs/operations.md: a line that begins with the verb in
// backquotes, then a block. A line may name several verbs, before a colon.
func documented(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	shapes := make(map[string]any)
	for _, m := range shapeBlock.FindAllStringSubmatch(string(text), -1) {
		var v any
		if err := json.Unmarshal([]byte(m[2]), &v); err != nil {
			t.Errorf("the documented JSON of `%s: %v", m[1], err)
		}
		names, _, _ := strings.Cut("`"+m[1], ":")
		for _, verb := range shapeVerb.FindAllStringSubmatch(names, -1) {
			shapes[verb[1]] = v
		}
	}
	return shapes
}

// compare reports where a value has another shape than the documented one: a name that is missing
// or not documented, or a value of another type. A documented name with ? may be missing or null;
// "*" is any value, and the name * any name.
func compare(path string, got, want any) (differences []string) {
	switch want := want.(type) {
	case map[string]any:
		m, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %T, want an object", path, got)}
		}
		known := make(map[string]any)
		for name, v := range want {
			plain, optional := strings.CutSuffix(name, "?")
			known[plain] = v
			if value, there := m[plain]; plain != "*" && !optional && !there {
				differences = append(differences, path+"."+plain+" is missing")
			} else if optional && value == nil {
				delete(m, plain)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(m)) {
			v, ok := known[name]
			if !ok {
				v, ok = known["*"]
			}
			if !ok {
				differences = append(differences, path+"."+name+" is not documented")
				continue
			}
			differences = append(differences, compare(path+"."+name, m[name], v)...)
		}
	case []any:
		list, ok := got.([]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %T, want a list", path, got)}
		}
		for i, v := range list {
			differences = append(differences, compare(fmt.Sprintf("%s[%d]", path, i), v, want[0])...)
		}
	case string:
		if _, ok := got.(string); !ok && want != "*" {
			differences = append(differences, fmt.Sprintf("%s is %T, want a string", path, got))
		}
	default:
		if fmt.Sprintf("%T", got) != fmt.Sprintf("%T", want) {
			differences = append(differences, fmt.Sprintf("%s is %T, want %T", path, got, want))
		}
	}
	return differences
}

// TestCompare makes sure that the comparison finds what it is for.
func TestCompare(t *testing.T) {
	t.Parallel()
	const want = `{"n": 1, "list": [{"s": "text", "o?": 1}], "free": "*", "names": {"*": 1}, "maybe?": {"n": 1}}`
	for text, n := range map[string]int{
		`{"n": 2, "list": [], "free": [1], "names": {}}`:                                             0,
		`{"n": 2, "list": [{"s": "x"}, {"s": "", "o": 3}], "free": null, "names": {"a": 1, "b": 2}}`: 0,
		`{"n": 2, "list": [], "free": 1, "names": {}, "maybe": null}`:                                0,
		`{"n": 2, "list": [], "free": 1, "names": {}, "maybe": {}}`:                                  1, // n is missing
		`{"n": "2", "list": [], "free": 1, "names": {"a": "1"}}`:                                     2, // types
		`{"n": null, "list": null, "free": 1, "names": {}}`:                                          2,
		`{"n": 1, "list": [{"s": 1}, {"x": 1}], "free": 1, "names": {}}`:                             3, // a type; missing and not documented
		`{"n": 1, "m": 2, "list": {}, "free": 1, "names": {}}`:                                       2,
		`{"n": 1, "list": [], "names": {}}`:                                                          1,
		`[]`:                                                                                         1,
	} {
		var got, shape any
		for text, v := range map[string]*any{text: &got, want: &shape} {
			if err := json.Unmarshal([]byte(text), v); err != nil {
				t.Fatal(err)
			}
		}
		if d := compare("", got, shape); len(d) != n {
			t.Errorf("%s: got differences %v, want %d", text, d, n)
		}
	}
}
