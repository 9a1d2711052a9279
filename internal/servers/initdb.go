package servers

import (
	"os"
	"path/filepath"
	"sync"
)

// initialise makes the data directory of a new server and returns the superuser's password.
func initialise(l *local, prog program, template *PostgresTemplate) (password string, err error) {
	if template != nil {
		return template.copyTo(l, prog)
	}
	password = newPassword()
	return password, initdb(l, prog, password)
}

// initdb runs the program of that name. Locale C sorts the same everywhere, whatever the machine
// has installed.
func initdb(l *local, prog program, password string) error {
	if err := l.write("password", password); err != nil {
		return err
	}
	defer os.Remove(l.path("password"))
	return l.run(filepath.Join(filepath.Dir(prog.path), "initdb"), "-D", l.path("data"), "-U", superuser,
		"--auth=scram-sha-256", "--pwfile="+l.path("password"), "--encoding=UTF8", "--locale=C", "--no-sync")
}

// PostgresTemplate is a data directory that initdb has made once and that every server copies: 0.1
// s instead of 1 s. The servers share its password. Close removes it; a process that dies before
// that leaves it to a watchdog.
type PostgresTemplate struct {
	mu       sync.Mutex
	dir      *local
	prog     program
	password string
}

func (t *PostgresTemplate) copyTo(l *local, prog program) (password string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dir != nil && t.prog != prog {
		t.close() //nolint:errcheck // one directory of another version stays until the watchdog comes
	}
	if t.dir == nil {
		dir, err := newPostgresDir("")
		if err != nil {
			return "", err
		}
		t.password = newPassword()
		if err := initdb(dir, prog, t.password); err != nil {
			dir.stop() //nolint:errcheck // the first error counts
			return "", err
		}
		t.dir, t.prog = dir, prog
	}
	return t.password, l.run("/bin/cp", "-Rp", t.dir.path("data"), l.path("data"))
}

// Close removes the directory. The servers that were copied from it stay.
func (t *PostgresTemplate) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.close()
}

func (t *PostgresTemplate) close() error {
	if t.dir == nil {
		return nil
	}
	err := t.dir.stop()
	t.dir = nil
	return err
}
