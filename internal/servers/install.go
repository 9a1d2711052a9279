package servers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// need is a server, what makes its package superfluous, and its package on Debian.
var needs = []struct {
	env, image, pkg string
	find            func() (program, error)
}{
	{EnvRedis, RedisImage, "redis-server", findRedis},
	{EnvPostgres, PostgresImage, "postgresql", findPostgres},
	{EnvPgBouncer, PgBouncerImage, "pgbouncer", findPgBouncer},
}

// Install installs, on Debian and as root, the packages of the servers that would otherwise be
// missing: for which there is no URL in the environment, no image in a Docker engine that may be
// used, and no program here. It asks nothing and starts no service. Elsewhere it does nothing: the
// search for the servers reports the ways.
func Install(ctx context.Context, o Options) error {
	mode, err := o.mode()
	if err != nil || mode == Docker || mode == Embedded {
		return err
	}
	var missing []string
	for _, n := range needs {
		if o.given(n.env) != "" || mode == Auto && HasImage(n.image) {
			continue
		}
		if _, err := n.find(); err != nil {
			missing = append(missing, n.pkg)
		}
	}
	if apt, err := exec.LookPath("apt-get"); err == nil && len(missing) > 0 && isRoot() {
		return aptInstall(ctx, apt, "/usr/sbin/policy-rc.d", missing, o.log)
	}
	return nil
}

func aptInstall(ctx context.Context, apt, policy string, missing []string, log func(string)) error {
	log("installing " + strings.Join(missing, " "))
	install := func() ([]byte, error) {
		cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", installScript, apt, policy}, missing...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		// A plain kill of the shell would leave its policy behind.
		ownGroup(cmd)
		cmd.Cancel = func() error { signalGroup(cmd, syscall.SIGTERM); return nil }
		cmd.WaitDelay = 10 * time.Second
		return cmd.CombinedOutput()
	}
	if _, err := install(); err == nil {
		return nil
	}
	// Perhaps only the lists are old, or a fresh image has none.
	exec.CommandContext(ctx, apt, "-q", "update").Run() //nolint:errcheck // the second try reports what is wrong
	if out, err := install(); err != nil {
		return fmt.Errorf("apt-get install %s: %w\n%s", strings.Join(missing, " "), err, tail(string(out), 15))
	}
	return nil
}

// installScript keeps the packages from starting their services on the default ports, unless the
// machine has a policy of its own.
const installScript = `policy=$1
shift
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
fi
"$0" install -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends "$@"`

// tail is the end of a text, at most n lines of it.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
