package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/internal/servers/servertest"
)

func TestMain(m *testing.M) { servertest.Main(m) }

// The README shows this program and what it prints. Both must be as they are.
func TestReadmeShowsThisProgram(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	program := string(source[strings.Index(string(source), "package main"):])
	if want := "```go\n" + program + "```\n"; !strings.Contains(string(readme), want) {
		t.Errorf("README.md does not contain examples/quickstart/main.go from its package clause on; it should read:\n%s", want)
	}
	if want := "```text\n" + output + "```\n"; !strings.Contains(string(readme), want) {
		t.Errorf("README.md does not contain the output of the program; it should read:\n%s", want)
	}
}

const output = `taken 3 = acked 3 + in flight 0 + dead 0 + discarded 0
records 3 = kept 1 + duplicates 1 + filtered 0 + rejected 1
rows of the kept 1 = promoted 1 + conflicts 0 + rejected by a rule 0
committed 3 = acked 3 + committed and not yet acked 0
`

// The program runs as a user would run it, on an empty Redis and an empty database.
func TestProgramPrintsItsBooks(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "quickstart")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(os.Environ(), "REDIS_URL="+servertest.OwnRedis(t).URL, "DATABASE_URL="+servertest.PostgresURL(t))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("the program ended with %v\n%s%s", err, got, &stderr)
	}
	if diff := cmp.Diff(output, string(got)); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}
