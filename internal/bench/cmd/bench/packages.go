package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// function is the benchmark that prints figures.
const function = "BenchmarkFigures"

var declaration = regexp.MustCompile(`(?m)^func ` + function + `\(`)

// withFigures returns the import paths of those packages that have figures: of the named ones,
// which must have them, or of all below the current directory.
func withFigures(ctx context.Context, args []string) ([]string, error) {
	patterns := make([]string, 0, len(args))
	for _, a := range args {
		if a != "" && a[0] != '.' && !strings.Contains(strings.SplitN(a, "/", 2)[0], ".") {
			a = "./" + a // "queue" is the folder, not something of the standard library
		}
		patterns = append(patterns, a)
	}
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"}, patterns...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var found []string
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir           string
			TestGoFiles, XTestGoFiles []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		has, err := declares(p.Dir, append(p.TestGoFiles, p.XTestGoFiles...))
		if err != nil {
			return nil, err
		}
		if has {
			found = append(found, p.ImportPath)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no %s in %s", function, strings.Join(patterns, " "))
	}
	return found, nil
}

func declares(dir string, files []string) (bool, error) {
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return false, err
		}
		if declaration.Match(text) {
			return true, nil
		}
	}
	return false, nil
}
