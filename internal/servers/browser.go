package servers

import (
	"context"
	"errors"
	"os"
	"os/exec"
)

// EnvInstall is set to 1 by with-servers -install: what a test needs and does not find is
// installed.
const EnvInstall = "HEADRACE_INSTALL"

// browsers are the names of a Chromium.
var browsers = []string{"chromium", "chromium-browser", "google-chrome"}

// Browser returns the path of a Chromium. With [EnvInstall] it installs one where there is none, on
// Debian as root.
func Browser(ctx context.Context, log func(string)) (string, error) {
	find := func() string {
		for _, name := range browsers {
			if path, err := exec.LookPath(name); err == nil {
				return path
			}
		}
		return ""
	}
	if path := find(); path != "" {
		return path, nil
	}
	if apt, err := exec.LookPath("apt-get"); err == nil && os.Getenv(EnvInstall) == "1" && isRoot() {
		if err := aptInstall(ctx, apt, "/usr/sbin/policy-rc.d", []string{"chromium"}, log); err != nil {
			return "", err
		}
		if path := find(); path != "" {
			return path, nil
		}
	}
	return "", errors.New("no browser: neither chromium, chromium-browser nor google-chrome is in PATH; on Debian: apt-get install chromium")
}
