package conventions

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

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

func report(t *testing.T, problems []Problem) {
	t.Helper()
	for _, p := range problems {
		t.Error(strings.TrimPrefix(p.String(), root+"/"))
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
