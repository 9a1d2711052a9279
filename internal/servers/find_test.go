//go:build unix

package servers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeProgram makes an executable that prints its version.
func fakeProgram(t *testing.T, path, version string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(fmt.Sprintf("#!/bin/sh\necho '%s'\n", version)), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestFindProgramTakesTheNewest(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", filepath.Join(dir, "path")+":/usr/bin:/bin")
	const name = "headrace-test-postgres"
	at := func(p string) string { return filepath.Join(dir, p, name) }
	packages := []string{filepath.Join(dir, "lib/*/bin")}

	if _, err := findProgram(name, 15, packages); err == nil || !strings.Contains(err.Error(), "no "+name+" found") {
		t.Errorf("nothing there: %v", err)
	}
	fakeProgram(t, at("lib/14/bin"), "postgres (PostgreSQL) 14.12")
	if _, err := findProgram(name, 15, packages); err == nil || !strings.Contains(err.Error(), "15 or later") {
		t.Errorf("only a version that is too old: %v", err)
	}
	fakeProgram(t, at("path"), "postgres (PostgreSQL) 16.9")
	fakeProgram(t, at("lib/16/bin"), "postgres (PostgreSQL) 16.10 (Debian 16.10-1)")
	fakeProgram(t, at("lib/9/bin"), "nonsense")
	if p, err := findProgram(name, 15, packages); err != nil || p.path != at("lib/16/bin") || p.major != 16 || p.minor != 10 {
		t.Errorf("got %+v, %v", p, err)
	}
	// Without its companion it is no candidate.
	fakeProgram(t, filepath.Join(dir, "lib/14/bin/companion"), "")
	fakeProgram(t, filepath.Join(dir, "path/companion"), "")
	if p, err := findProgram(name, 15, packages, "companion"); err != nil || p.path != at("path") {
		t.Errorf("with a companion: got %+v, %v", p, err)
	}
}

func TestFindProgramRunsALinkByItsName(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", filepath.Join(dir, "bin")+":/usr/bin:/bin")
	// One file that is another program by another name, as redis-server and redis-check-rdb are.
	file := filepath.Join(dir, "lib/one-file")
	fakeProgram(t, file, "")
	if err := os.WriteFile(file, []byte("#!/bin/sh\ncase $0 in */headrace-test-server) echo v=7.2.1;; *) exit 1;; esac\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "bin/headrace-test-server")
	if err := os.Mkdir(filepath.Dir(link), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if p, err := findProgram("headrace-test-server", 7, nil); err != nil || p.path != link || p.major != 7 || p.minor != 2 {
		t.Errorf("got %+v, %v", p, err)
	}
	// A link in PATH whose companions are next to the program itself: a wrapper's or a package's.
	fakeProgram(t, filepath.Join(dir, "lib/companion"), "")
	fakeProgram(t, filepath.Join(dir, "lib/headrace-test-two"), "2.5")
	if err := os.Symlink(filepath.Join(dir, "lib/headrace-test-two"), filepath.Join(dir, "bin/headrace-test-two")); err != nil {
		t.Fatal(err)
	}
	if p, err := findProgram("headrace-test-two", 1, nil, "companion"); err != nil || p.path != filepath.Join(dir, "lib/headrace-test-two") {
		t.Errorf("got %+v, %v", p, err)
	}
}
