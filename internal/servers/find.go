package servers

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// program is a server program of this machine.
type program struct {
	path         string
	major, minor int
}

func (p program) name() string { return filepath.Base(p.path) }

// The oldest versions that everything works on.
const (
	minRedis    = 7
	minPostgres = 15
	minValkey   = 8
)

// binDirs are the directories in which packages install programs, also where PATH lacks them
// (root's PATH under cron has no sbin directory; Debian keeps several Postgres versions next to
// each other, and Homebrew keeps old ones apart).
var binDirs = []string{
	"/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/opt/homebrew/bin", "/opt/local/bin",
}

var postgresDirs = []string{
	"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin",
	"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// findProgram returns the newest program of that name, at least version min, next to which all of
// need lie too.
func findProgram(name string, min int, dirs []string, need ...string) (program, error) {
	var found []program
	seen := make(map[string]bool)
	old := ""
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), slices.Concat(binDirs, dirs)...) {
		matches, _ := filepath.Glob(filepath.Join(dir, name))
		for _, path := range matches {
			real, err := filepath.EvalSymlinks(path)
			if err != nil || seen[real] {
				continue
			}
			seen[real] = true
			if !allThere(filepath.Dir(path), need) {
				// Only a link to the program; its companions are next to the program itself.
				if path = real; !allThere(filepath.Dir(path), need) {
					continue
				}
			}
			// The link is what runs otherwise: one file is redis-server and redis-check-rdb, by its name.
			major, minor, err := versionOf(path)
			switch {
			case err != nil:
			case major < min:
				old = fmt.Sprintf(" (%s is version %d: %d or later is needed)", path, major, min)
			default:
				found = append(found, program{path, major, minor})
			}
		}
	}
	if len(found) == 0 {
		return program{}, fmt.Errorf("no %s found%s", name, old)
	}
	return slices.MaxFunc(found, func(a, b program) int {
		return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor))
	}), nil
}

func allThere(dir string, names []string) bool {
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

var versionForm = regexp.MustCompile(`(\d+)(?:\.(\d+))?`)

// versionOf asks a program for its version: "postgres (PostgreSQL) 15.9", "Redis server v=7.0.15
// sha=…".
func versionOf(path string) (major, minor int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return 0, 0, err
	}
	m := versionForm.FindStringSubmatch(string(out))
	if m == nil {
		return 0, 0, fmt.Errorf("no version in %q", strings.TrimSpace(string(out)))
	}
	major, _ = strconv.Atoi(m[1])
	minor, _ = strconv.Atoi(m[2])
	return major, minor, nil
}
