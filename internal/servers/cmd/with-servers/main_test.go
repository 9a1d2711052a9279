package main

import (
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers"
)

func TestBadModeIsAnErrorBeforeAnythingRuns(t *testing.T) {
	t.Setenv(servers.EnvMode, "remote")
	for _, install := range []bool{false, true} {
		code, err := run([]string{"false"}, options{install: install, bouncer: true})
		if code == 0 || err == nil || strings.Count(err.Error(), "must be auto, local, docker or embedded") != 1 {
			t.Errorf("install %v: %d, %v", install, code, err)
		}
	}
}

func TestCommandSeesServersThatAnswer(t *testing.T) {
	code, err := run([]string{"sh", "-c", `[ -n "$REDIS_URL" ] && [ -n "$DATABASE_URL" ] && [ -n "$PGBOUNCER_URL" ] && exit 5`}, options{bouncer: true, memory: true, tuned: true})
	if err != nil || code != 5 {
		t.Errorf("got %d, %v; want 5", code, err)
	}
	t.Setenv(servers.EnvPgBouncer, "")
	code, err = run([]string{"sh", "-c", `[ -n "$REDIS_URL" ] && [ -n "$DATABASE_URL" ] && [ -z "$PGBOUNCER_URL" ] && exit 6`}, options{})
	if err != nil || code != 6 {
		t.Errorf("without PgBouncer: got %d, %v; want 6", code, err)
	}
}
