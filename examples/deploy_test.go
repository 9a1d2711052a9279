package examples_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"gopkg.in/yaml.v3"
)

// service is a service of deploy/compose.yaml.
type service struct {
	Image       string
	Build       any
	Command     []string
	Environment map[string]string
	Ports       []string
	Volumes     []string
	Profiles    []string
	Restart     string
	DependsOn   any `yaml:"depends_on"`
	Deploy      struct{ Replicas int }
	Healthcheck struct {
		Test              []string
		Interval, Timeout string
		Retries           int
	}
}

var variable = regexp.MustCompile(`\$\{([A-Z_]+)\}`)

// settings are the variables of deploy/.env.example.
func settings(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("deploy/.env.example")
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			out[name] = value
		}
	}
	return out
}

// services reads deploy/compose.yaml with the variables of .env.example.
func services(t *testing.T) map[string]service {
	t.Helper()
	text, err := os.ReadFile("deploy/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	values, used := settings(t), make(map[string]bool)
	filled := variable.ReplaceAllStringFunc(string(text), func(v string) string {
		name := variable.FindStringSubmatch(v)[1]
		if used[name] = true; values[name] == "" {
			t.Errorf("compose.yaml uses %s, which .env.example does not set", name)
		}
		return values[name]
	})
	for name := range values {
		if !used[name] {
			t.Errorf(".env.example sets %s, which compose.yaml does not use", name)
		}
	}
	var file struct {
		Name     string
		Program  any `yaml:"x-program"`
		Services map[string]service
		Volumes  map[string]any
	}
	dec := yaml.NewDecoder(strings.NewReader(filled))
	dec.KnownFields(true)
	if err := dec.Decode(&file); err != nil {
		t.Fatalf("compose.yaml: %v", err)
	}
	return file.Services
}

// What compose.yaml must guarantee, whatever else it contains.
func TestComposeFile(t *testing.T) {
	t.Parallel()
	all := services(t)
	redis := strings.Join(all["redis"].Command, " ")
	for _, want := range []string{"--appendonly yes", "--maxmemory-policy noeviction", "--requirepass"} {
		if !strings.Contains(redis, want) {
			t.Errorf("Redis is started by %q, which lacks %s", redis, want)
		}
	}
	bouncer := all["pgbouncer"].Environment
	for name, want := range map[string]string{"POOL_MODE": "transaction", "MAX_CLIENT_CONN": "800", "DEFAULT_POOL_SIZE": "25"} {
		if bouncer[name] != want {
			t.Errorf("PgBouncer's %s is %q, want %s", name, bouncer[name], want)
		}
	}
	for _, name := range []string{"worker", "promoter"} {
		if s := all[name]; s.Environment["PGHOST"] != "pgbouncer" || s.Environment["DATABASE_URL"] != "" {
			t.Errorf("%s does not go through PgBouncer: %v", name, s.Environment)
		}
	}
	if n := all["worker"].Deploy.Replicas; n != 2 {
		t.Errorf("%d workers, want 2", n)
	}
	for name, s := range all {
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes the port %s to the network", name, p)
			}
		}
		for _, v := range s.Volumes {
			if file, _, ok := strings.Cut(v, ":"); ok && strings.HasPrefix(file, "./") {
				if _, err := os.Stat(filepath.Join("deploy", file)); err != nil {
					t.Errorf("%s mounts %s: %v", name, file, err)
				}
			}
		}
		if optional := name == "prometheus" || name == "grafana"; optional != slices.Equal(s.Profiles, []string{"monitoring"}) {
			t.Errorf("%s has the profiles %v", name, s.Profiles)
		}
	}
	if exec.Command("docker", "compose", "version").Run() != nil {
		return // checked above by its own means
	}
	out, err := exec.Command("docker", "compose", "-f", "deploy/compose.yaml", "--env-file", "deploy/.env.example", "--profile", "monitoring", "config", "-q").CombinedOutput()
	if err != nil {
		t.Errorf("docker compose config: %v\n%s", err, out)
	}
}

// The units start programs that exist, with flags that they know, and systemd accepts them.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	start := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/(\S+)(.*)$`)
	if out, err := build(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	args := []string{"verify"}
	for file, unit := range map[string]string{"headrace-promoter.service": "headrace-promoter.service", "headrace-worker@.service": "headrace-worker@01.service"} {
		text, err := os.ReadFile(filepath.Join("deploy/systemd", file))
		if err != nil {
			t.Fatal(err)
		}
		m := start.FindStringSubmatch(string(text))
		if m == nil {
			t.Fatalf("%s starts no program in /usr/local/bin", file)
		}
		flags := strings.Fields(strings.ReplaceAll(m[2], "%i", "01"))
		if r := run(t, m[1], nil, append(flags, "-h")...); r.code != 0 {
			t.Errorf("%s: %s: exit code %d\n%s", file, m[0], r.code, r.err)
		}
		if status := fmt.Sprintf("\nSuccessExitStatus=%d\n", 128+int(syscall.SIGTERM)); !strings.Contains(string(text), status) {
			t.Errorf("%s: a stopped program counts as failed: it lacks %q", file, status)
		}
		unit = filepath.Join(t.TempDir(), unit)
		if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(text), "/usr/local/bin", binaries)), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, unit)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return // checked above by its own means
	}
	if out, err := exec.Command(analyze, args...).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// containers are those of one test.
type containers struct {
	t       *testing.T
	network string
	names   []string
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command("docker", args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	if err := cmd.Run(); err != nil {
		t.Fatalf("docker %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String())
}

// run starts a service as compose does, without its ports and volumes.
func (c *containers) run(service string, s service, image string, more ...string) string {
	c.t.Helper()
	name := fmt.Sprintf("%s-%s-%d", c.network, service, len(c.names))
	args := []string{"run", "-d", "--name", name, "--network", c.network, "--network-alias", service}
	for k, v := range s.Environment {
		args = append(args, "-e", k+"="+v)
	}
	if len(s.Healthcheck.Test) == 2 {
		args = append(args, "--health-cmd", s.Healthcheck.Test[1], "--health-interval", "500ms")
	}
	c.names = append(c.names, name)
	docker(c.t, slices.Concat(args, more, []string{image}, s.Command)...)
	if len(s.Healthcheck.Test) == 2 {
		eventually(c.t, service+" is healthy", func() bool {
			return docker(c.t, "inspect", "-f", "{{.State.Health.Status}}", name) == "healthy"
		})
	}
	return name
}

// programImage builds the last stage of the Dockerfile, with binaries that are built here: the
// first stage needs a registry.
func programImage(t *testing.T, tag string) {
	t.Helper()
	dir := t.TempDir()
	if out, err := build(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := os.Mkdir(filepath.Join(dir, "out"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"headrace", "producer", "worker", "promoter"} {
		file := filepath.Join(dir, "out", name)
		if err := os.Link(filepath.Join(binaries, name), file); err != nil {
			t.Fatal(err)
		}
		f, err := elf.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
			t.Errorf("%s is not static", name)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	text, err := os.ReadFile("deploy/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, last, ok := strings.Cut(string(text), "FROM scratch\n")
	if !ok {
		t.Fatal("the Dockerfile has no last stage from scratch")
	}
	last = strings.ReplaceAll("FROM scratch\n"+last, "COPY --from=build /out/", "COPY out/")
	last = regexp.MustCompile(`(?m)^COPY --from=build /etc/.*\n`).ReplaceAllString(last, "")
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(last), 0o600); err != nil {
		t.Fatal(err)
	}
	docker(t, "build", "-q", "-t", tag, dir)
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "-f", tag).Run() })
	var image []struct {
		Config struct{ User string }
	}
	if err := json.Unmarshal([]byte(docker(t, "image", "inspect", tag)), &image); err != nil {
		t.Fatal(err)
	}
	if user := image[0].Config.User; user == "" || strings.HasPrefix(user, "0") || strings.HasPrefix(user, "root") {
		t.Errorf("the image runs as the user %q", user)
	}
}

// The containers of compose.yaml, started one by one, take orders from the producer to balanced
// books. Every connection to Postgres comes from PgBouncer.
func TestComposedContainers(t *testing.T) {
	t.Parallel()
	if mode := os.Getenv("HEADRACE_SERVERS"); mode == "local" || mode == "embedded" || exec.Command("docker", "info").Run() != nil {
		return // no engine to start them on
	}
	all := services(t)
	c := &containers{t: t, network: "headrace-" + strings.ToLower(rand.Text()[:8])}
	docker(t, "network", "create", c.network)
	t.Cleanup(func() {
		for _, name := range c.names {
			if t.Failed() {
				out, _ := exec.Command("docker", "logs", "--tail", "20", name).CombinedOutput()
				t.Logf("%s:\n%s", name, out)
			}
			_ = exec.Command("docker", "rm", "-f", "-v", name).Run()
		}
		_ = exec.Command("docker", "network", "rm", c.network).Run()
	})
	programImage(t, c.network)
	postgres := c.run("postgres", all["postgres"], all["postgres"].Image)
	redis := c.run("redis", all["redis"], all["redis"].Image)
	bouncer := c.run("pgbouncer", all["pgbouncer"], all["pgbouncer"].Image)
	all["producer"].Environment["HEADRACE_ORDERS"] = "2000"
	c.run("producer", all["producer"], c.network)
	c.run("worker", all["worker"], c.network)
	promoter := c.run("promoter", all["promoter"], c.network)
	var state struct {
		Balanced bool
		Queue    struct{ Acked int }
	}
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	eventually(t, "2000 orders are acknowledged", func() bool {
		out, err := exec.CommandContext(ctx, "docker", "exec", promoter, "headrace", "stats", "-json").Output()
		return err == nil && json.Unmarshal(out, &state) == nil && state.Queue.Acked == 2000
	})
	if !state.Balanced {
		t.Error("the books do not balance")
	}
	for name, want := range map[string]string{"maxmemory-policy": "noeviction", "appendonly": "yes"} {
		out := docker(t, "exec", "-e", "REDISCLI_AUTH="+settings(t)["REDIS_PASSWORD"], redis, "redis-cli", "config", "get", name)
		if !strings.HasSuffix(out, want) {
			t.Errorf("Redis: %s is %q, want %s", name, out, want)
		}
	}
	from := docker(t, "exec", postgres, "psql", "-U", settings(t)["POSTGRES_USER"], "-d", settings(t)["POSTGRES_DB"], "-Atc",
		"SELECT DISTINCT host(client_addr) FROM pg_stat_activity WHERE client_addr IS NOT NULL")
	if at := docker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", bouncer); from != at {
		t.Errorf("Postgres has connections from %q, want only from PgBouncer at %s", from, at)
	}
	// SIGTERM ends them.
	for _, name := range c.names[4:] {
		docker(t, "stop", "-t", "60", name)
	}
}
