package conventions

import (
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file, src string
		want      []int // lines
	}{
		{"a.go", "package a\n// Nobody waits.\n", []int{2}},
		{"a.go", "package a\n/* one\nrefreshes by itself\n*/\nvar _ = `a lock\nwas not to be had`\n", []int{3, 6}},
		{"a.go", "package a\nfunc TestNobodyWaits() {}\n", []int{2}},
		{"a.go", "package a\n// It reports whether a lock is held. It says nothing.\nvar nobler = \"body\"\n", nil},
		{"a.go", "package a\nvar e = \"queue: lease: strange reply\"\n", []int{2}},
		{"a.go", "package a\nvar e = `%w: Config.Size is %v: must be 1 to 5`\nvar f = \"is %v, must be 1: must\"\n", []int{2}},
		{"a.lua", "-- says whether\nlocal nobody = 1 -- whoever\n", []int{1, 2}},
		{"a.sql", "SELECT 'nobody'; -- fine\n-- TODO\n", []int{2}},
		{"a.md", "one\n`says how` it works\n", []int{2}},
		{"a.md", "a table beside the target\nbesides that\n", []int{1}},
		{"a.md", "the page behind a cursor\nbehind a proxy, left behind\nbehind the savepoint\n", []int{1, 3}},
		{"a.sql", "-- its name stands in the comment\n-- as it stands, understands\n-- it stood still\n", []int{1, 3}},
		{"a.lua", "-- put aside\n-- set aside\n-- a batch that comes again\n-- it becomes again what it was\n", []int{1, 3}},
		{"a.go", "package a\nvar e = \"taken back\" // an idle time-out\nvar f = \"timeout\" // rolled back\n", []int{2, 2}},
		{"a.go", "package a\nfunc TestBesideAnother() {}\nfunc TestTheOther() {}\n", []int{2}},
	} {
		var got []int
		for _, p := range Words(c.file, []byte(c.src)) {
			got = append(got, p.Line)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %q: lines (-want +got):\n%s", c.file, c.src, diff)
		}
	}
}

func TestWidth(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("word ", 30)
	for _, c := range []struct {
		file, src string
		want      []int
	}{
		{"a.go", "package a\n\n// " + long + "\nvar x = 1 // " + long + "\n", []int{3}},
		{"a.go", "package a\n\n\t// " + strings.Repeat("ä", 90) + " ä\n", nil},
		{"a.go", "package a\n\n//go:generate " + long + "\n// https://" + strings.Repeat("x", 200) + "\n", nil},
		{"a.go", "package a\n/* short\n" + long + "\n*/\nvar s = `// " + long + "`\n", []int{3}},
		{"a.go", "package a\nfunc ExampleA() {\n// Output:\n// " + long + "\n// " + long + "\n}\n// " + long + "\n", []int{7}},
		{"a.go", "// " + long + "\npackage a\n", []int{1}},
		{"a.lua", "-- " + long + "\nlocal x = 1 -- " + long + "\n", []int{1}},
		{"a.sql", "  -- " + long + "\n", []int{1}},
	} {
		var got []int
		for _, p := range Width(c.file, []byte(c.src), 100) {
			got = append(got, p.Line)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %q: lines (-want +got):\n%s", c.file, c.src, diff)
		}
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("queue/a_test.go", "package queue\nfunc TestThere() {}\n")
	write("docs/other.md", "# A `code` heading, with a comma\n```\n# not a heading\n```\n")
	write("docs/a.md", "[ok](other.md) [ok](other.md#a-code-heading-with-a-comma) [ok](https://example.com/x)\n"+
		"[no](none.md)\n[no](other.md#not-a-heading)\n```\n[fine](none.md)\n```\n`queue/TestThere/sub` `queue/TestGone`\n")
	problems, err := Links(dir, "docs/a.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, p := range problems {
		got = append(got, p.Line)
	}
	if diff := cmp.Diff([]int{2, 3, 7}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s\n%v", diff, problems)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		check func(*Package) []Problem
		src   string
		want  []int
	}{
		{Retired, "type Handed struct{}\ntype Config struct { Grace int\nPollInterval int }\nfunc (c Config) Off() int { return 0 }\ntype Stats struct { Dead int }\n", []int{2, 3, 5}},
		{Retired, "type (\nDeed struct{}\nactionResult struct{}\n)\ntype InHand struct{}\n", nil}, // replaced in other packages alone
		{Sentinels, "var ErrA = errors.New(\"a: b\")\nvar (\nErrB = errors.New(\"b\")\nErrC = fmt.Errorf(\"ac: %w\", ErrA)\n)\n", []int{4, 5}},
		{Constants, "type Kind int\nconst (\nKindA Kind = iota\nB\nc\n)\nconst D = 1\nconst E Kind = 2\nconst F time.Duration = 1\n", []int{5, 9}},
		{Constructors, "func New(ctx context.Context, c rueidis.Client, name string, cfg Config) {}\n", nil},
		{Constructors, "func New[K, V any](ctx context.Context, c *pgxpool.Pool, name string, cfg Config[K, V]) {}\n", nil},
		{Constructors, "func New(c rueidis.Client, name string, cfg Config) {}\n", []int{2}},
		{Constructors, "func NewRemote(ctx context.Context, c rueidis.Client, a, b string) {}\nfunc NewSignals() {}\n", []int{2}},
	} {
		p := parse(t, map[string]string{"a.go": "package a\n" + c.src})
		var got []int
		for _, x := range c.check(p) {
			got = append(got, x.Line)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: lines (-want +got):\n%s", c.src, diff)
		}
	}
}

func TestExamples(t *testing.T) {
	t.Parallel()
	p := parse(t, map[string]string{
		"a.go": "package a\nfunc Shown() {}\nfunc Not() {}\ntype T struct{}\nfunc (t *T) Shown2() {}\nfunc (t T) Not2() {}\n" +
			"func (t T) Error() string { return \"\" }\nfunc Silent() {}\nfunc hidden() {}\ntype h struct{}\nfunc (h) Fine() {}\n",
		"a_test.go": "package a_test\nfunc Example() {\na.Shown()\nx.Shown2()\n// Output: 1\n}\nfunc Example_silent() { a.Silent() }\n",
		"b_test.go": "package a_test\nimport \"github.com/headrace/headrace/internal/servers\"\nfunc Example_b() {\n// Output:\n}\n",
		"c_test.go": "package a_test\nimport \"github.com/headrace/headrace/internal/servers\"\nfunc TestC() { a.Not() }\n",
	})
	var got []string
	for _, x := range Examples(p) {
		got = append(got, x.String())
	}
	slices.Sort(got)
	want := []string{
		"a.go:3: no example calls Not",
		"a.go:6: no example calls T.Not2",
		"a.go:8: no example calls Silent",
		"a_test.go:7: Example_silent has no Output comment, so it is never run",
		"b_test.go:2: an example imports \"github.com/headrace/headrace/internal/servers\", which a reader cannot: move the set-up to setup_test.go",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func parse(t *testing.T, src map[string]string) *Package {
	t.Helper()
	p := &Package{set: token.NewFileSet()}
	for name, text := range src {
		if err := p.add(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestReferences(t *testing.T) {
	t.Parallel()
	a := parse(t, map[string]string{"a.go": "package a\ntype Config struct{ Size int; Push Limits }\ntype Limits struct{ Depth int }\n" +
		"type Both struct{ Config }\nfunc New() {}\nfunc (c *Config) Check() {}\n"})
	b := parse(t, map[string]string{"b.go": "package b\ntype Config struct{ Idle int }\ntype Store interface{ Get() }\n"})
	s := NewSymbols(a, b)
	for _, c := range []struct {
		pkg, file, src string
		want           []int // lines
	}{
		{"a", "a.go", "package a\n// Config.Size and a.New are, Config.Idle is not, nor is a.Old.\n", []int{2, 2}},
		{"b", "b.go", "package b\n// Config.Idle, a.Config.Size, Store.Get\n// a.Config.Idle\nvar x = \"Config.None\"\n", []int{3}},
		{"a", "a.go", "package a\n// Found.Limits\n// Both.Any has it from Config. Push.Depth is that of a field.\n", []int{2}},
		{"", "a.md", "`Config.Check`, `Config.Idle`, rueidis.Client, README.md, C.UTF-8, e.g. PostgreSQL 15.2\n`b.Store.Put`\n", []int{2}},
	} {
		var got []int
		for _, p := range s.References(c.pkg, c.file, []byte(c.src)) {
			got = append(got, p.Line)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: lines (-want +got):\n%s", c.src, diff)
		}
	}
}

func TestComments(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("word ", 30)
	links := func(p *Package) []Problem {
		out, err := DocLinks(p, "example.com/a")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, c := range []struct {
		check func(p *Package, src string) []Problem
		src   string
		want  []int
	}{
		{func(p *Package, _ string) []Problem { return links(p) },
			"import \"time\"\n// T is like [time.Duration] and [T.F], with Flow[Row] and values[i].\ntype T struct {\n// F is not [U], nor [queue.Queue].\nF time.Time }\n", []int{5, 5}},
		{func(p *Package, src string) []Problem {
			return Trailing(p, func(string) []string { return strings.Split(src, "\n") }, 100)
		}, "type T struct {\nA int // short\nB int // " + long + "\nc int // " + long + "\n}\nconst D = 1 // " + long + "\n", []int{4, 7}},
		{func(p *Package, _ string) []Problem { return Logs(p) },
			"func f() {\nl.Warn(\"a: is fine\", \"error\", e)\nl.WarnContext(ctx, \"is not\", \"err\", e)\nl.Error(\"a: \" + s, \"x\", 1)\nl.Info(s)\nt.Error(\"a test\")\n}\n", []int{4, 4}},
	} {
		src := "package a\n" + c.src
		var got []int
		for _, x := range c.check(parse(t, map[string]string{"a.go": src}), src) {
			got = append(got, x.Line)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: lines (-want +got):\n%s", c.src, diff)
		}
	}
}
