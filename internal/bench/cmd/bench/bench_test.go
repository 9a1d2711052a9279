package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const printed = `{"note":"10,000 orders"}
{"figure":"queue/push","unit":"/s","ours":512000,"bare":540000,"ratio":0.95,"low":0.91,"high":0.98,"rounds":7}
goos: linux
BenchmarkFigures-2 	{"figure":"queue/lease","unit":"/s","ours":1,"bare":2,"ratio":0.5,"low":0.5,"high":0.5,"rounds":7}
PASS
ok  	x	1.0s`

func filtered(t *testing.T, asJSON bool) (string, *filter) {
	t.Helper()
	var out bytes.Buffer
	f := &filter{out: printer{&out, asJSON}}
	for rest := printed; rest != ""; { // in pieces that do not end at line ends
		n := min(7, len(rest))
		if _, err := f.Write([]byte(rest[:n])); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	f.flush()
	return out.String(), f
}

func TestFilterForwardsFiguresAndNotesAlone(t *testing.T) {
	t.Parallel()
	got, f := filtered(t, false)
	want := `# 10,000 orders
queue/push 512000/s bare 540000/s ratio 0.95 (0.91–0.98)
queue/lease 1/s bare 2/s ratio 0.50 (0.50–0.50)
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if f.figures != 2 {
		t.Errorf("counted %d figures, want 2", f.figures)
	}
	if last := f.lastWords(); !strings.Contains(last, "PASS") || !strings.HasSuffix(last, "1.0s") {
		t.Errorf("the rest is %q", last)
	}
}

func TestFilterAsJSON(t *testing.T) {
	t.Parallel()
	got, _ := filtered(t, true)
	want := strings.Split(printed, "\n")[:2]
	if lines := strings.Split(got, "\n"); !cmp.Equal(want[0], lines[0]) || !strings.HasPrefix(lines[1], `{"figure":"queue/push"`) || len(lines) != 4 {
		t.Errorf("got %s", got)
	}
}

func TestDeclares(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a_test.go", "package a\n\n// func BenchmarkFigures( is mentioned only\nfunc BenchmarkFiguresToo(b *testing.B) {}\n")
	write("b_test.go", "package a\n\nfunc BenchmarkFigures(b *testing.B) {}\n")
	for want, files := range map[bool][]string{false: {"a_test.go"}, true: {"a_test.go", "b_test.go"}} {
		if got, err := declares(dir, files); err != nil || got != want {
			t.Errorf("%v: got %v, %v", files, got, err)
		}
	}
}

func TestPackagesWithFiguresAreFoundByFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("go.mod", []byte("module example.org/m\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"with", "without"} {
		if err := os.Mkdir(p, 0o700); err != nil {
			t.Fatal(err)
		}
		text := "package " + p + "\n"
		if p == "with" {
			text += "\nimport \"testing\"\n\nfunc BenchmarkFigures(b *testing.B) {}\n"
		}
		if err := os.WriteFile(filepath.Join(p, "a_test.go"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{nil, {"with"}, {"./with"}, {"with", "without"}, {"example.org/m/with"}} {
		got, err := withFigures(t.Context(), args)
		if err != nil || !cmp.Equal(got, []string{"example.org/m/with"}) {
			t.Errorf("%v: got %v, %v", args, got, err)
		}
	}
	if got, err := withFigures(t.Context(), []string{"without"}); err == nil {
		t.Errorf("without figures: got %v and no error", got)
	}
}
