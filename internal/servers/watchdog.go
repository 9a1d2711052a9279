package servers

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

// watchdog cleans up if this process ends without reporting that it has cleaned up. It is a shell
// that reads a pipe. Only this process holds the pipe's other end (Go opens it close-on-exec, so no
// child inherits it), so the read ends with a line, or, however this process ended, with the end of
// file.
//
// A nil watchdog is one that this system cannot have: Windows has no shell for it.
type watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File
}

// watchProcess is run with a server's directory and the name of the signal that ends the server.
// Taking the directory away first makes the rest certain: a server that has not written its pid
// there by then no longer can, and will not start (see local.spawn). The signal goes to the whole
// process group: initdb has a child. ("kill -9 -- -1234", without -s, is an error in some shells.)
const watchProcess = `trap '' HUP INT TERM
read -r line && exit 0
gone=$1.gone
mv "$1" "$gone" 2>/dev/null || exit 0
i=0
while [ -e "$gone/pid" ] && [ ! -s "$gone/pid" ] && [ $i -lt 20 ]; do sleep 0.1; i=$((i+1)); done
if [ -s "$gone/pid" ]; then
	read -r pid <"$gone/pid"
	kill -s "$2" -- "-$pid"
	i=0
	while kill -s 0 -- "-$pid" && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done
	kill -s KILL -- "-$pid"
fi 2>/dev/null
i=0
while ! rm -rf "$gone" 2>/dev/null && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done`

func startWatchdog(script string, args ...string) (*watchdog, error) {
	if runtime.GOOS == "windows" {
		return nil, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, "headrace-watchdog"}, args...)...)
	cmd.Stdin = r
	cmd.Dir = "/"
	ownSession(cmd) // a Ctrl-C, or a kill of our process group, must not reach it
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("the watchdog did not start: %w", err)
	}
	return &watchdog{cmd, w}, nil
}

// alert lets the watchdog do its work now.
func (w *watchdog) alert() {
	if w != nil {
		w.pipe.Close()
		w.cmd.Wait() //nolint:errcheck // its exit code means nothing
	}
}

// dismiss ends the watchdog: nothing is left to be cleaned up.
func (w *watchdog) dismiss() {
	if w == nil {
		return
	}
	w.pipe.WriteString("done\n") //nolint:errcheck // a watchdog that has gone needs no telling
	w.pipe.Close()
	w.cmd.Wait() //nolint:errcheck // its exit code means nothing
}
