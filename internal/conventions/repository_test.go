package conventions

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

var (
	patterns = []string{"queue", "dedup", "lookup", "window", "backpressure", "staging", "matview"}
	packages = append(slices.Clone(patterns), "pipeline")
	// beside are packages over a pipeline: they have no store and no name of their own.
	beside = []string{"pipeline/console", "pipeline/otelpipeline", "pipeline/pipelinetest"}
)

// files are the paths of the repository's files with one of these extensions.
func files(t *testing.T, ext ...string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && d.Name() != ".github":
			return fs.SkipDir
		case !d.IsDir() && slices.Contains(ext, filepath.Ext(path)):
			rel, err := filepath.Rel(root, path)
			out = append(out, filepath.ToSlash(rel))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatalf("no file ends in %v", ext)
	}
	return out
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(src), "\n")
}

func report(t *testing.T, problems []Problem) {
	t.Helper()
	for _, p := range problems {
		t.Error(strings.TrimPrefix(p.String(), root+"/"))
	}
}

// The files of this package name the forbidden words.
func own(file string) bool { return strings.HasPrefix(file, "internal/conventions/") }

func TestRepositoryWords(t *testing.T) {
	t.Parallel()
	for _, f := range files(t, ".go", ".lua", ".sql", ".md") {
		if !own(f) {
			report(t, Words(f, read(t, f)))
		}
	}
}

func TestRepositoryWidth(t *testing.T) {
	t.Parallel()
	for _, f := range files(t, ".go", ".lua", ".sql") {
		report(t, Width(f, read(t, f), Columns))
	}
}

func TestRepositoryLinks(t *testing.T) {
	t.Parallel()
	for _, f := range files(t, ".md") {
		problems, err := Links(root, f)
		if err != nil {
			t.Fatal(err)
		}
		report(t, problems)
	}
}

func TestRepositoryNames(t *testing.T) {
	t.Parallel()
	for _, name := range slices.Concat(packages, beside) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := Load(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			links, err := DocLinks(p, "github.com/headrace/headrace/"+name)
			if err != nil {
				t.Fatal(err)
			}
			report(t, links)
			report(t, Trailing(p, func(file string) []string { return lines(t, file) }, Columns))
			report(t, Logs(p))
			report(t, Retired(p))
			report(t, Sentinels(p))
			report(t, Constants(p))
			if slices.Contains(packages, name) {
				report(t, Constructors(p))
			}
		})
	}
}

func TestRepositoryReferences(t *testing.T) {
	t.Parallel()
	var loaded []*Package
	folders := map[string]string{".": "headrace"} // of the packages that users import
	for _, name := range slices.Concat(packages, beside) {
		p, err := Load(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		loaded = append(loaded, p)
		folders[name] = p.Name
	}
	s := NewSymbols(loaded...)
	for _, f := range files(t, ".go", ".md") {
		pkg, public := folders[filepath.ToSlash(filepath.Dir(f))]
		switch {
		case filepath.Ext(f) == ".md":
			report(t, s.References("", f, read(t, f)))
		case public && !strings.HasSuffix(f, "_test.go"):
			report(t, s.References(pkg, f, read(t, f)))
		}
	}
}

func TestRepositoryExamples(t *testing.T) {
	t.Parallel()
	for _, name := range packages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := Load(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			report(t, Examples(p))
		})
	}
}
