package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// downloadedPostgres is the last way to a Postgres: its programs come from a public archive.
func downloadedPostgres(ctx context.Context, o Options) (*PostgresServer, error) {
	return onFreePort(func(port int) (*PostgresServer, error) {
		l, err := newPostgresDir("")
		if err != nil {
			return nil, err
		}
		prog, err := downloadPostgres(l, port, o.log)
		if err != nil {
			return nil, errors.Join(err, l.stop())
		}
		return runPostgres(ctx, l, prog, port, o, "downloaded")
	})
}

// notAnEncoding makes the library's initdb fail.
const notAnEncoding = "only-the-programs-are-wanted"

// downloadPostgres lets the library fetch and unpack the programs into the server's directory, and
// nothing more: it would run the server as this user, and Postgres refuses root. The library has no
// call for that, so it is given an encoding that initdb refuses; all that counts is whether the
// programs are there afterwards.
func downloadPostgres(l *local, port int, log func(string)) (program, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = l.dir
	}
	cache = filepath.Join(cache, "headrace", "postgres")
	log(fmt.Sprintf("getting the programs of PostgreSQL %s (kept in %s)", embeddedpostgres.V18, cache))
	bin := l.path("programs")
	err = embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(embeddedpostgres.V18).Port(uint32(port)).CachePath(cache).BinariesPath(bin).RuntimePath(l.path("run")).DataPath(l.path("none")).
		Encoding(notAnEncoding).Logger(io.Discard)).Start()
	os.RemoveAll(l.path("run"))
	os.RemoveAll(l.path("none"))
	prog := program{path: filepath.Join(bin, "bin", "postgres")}
	if !allThere(filepath.Dir(prog.path), []string{"postgres", "initdb"}) {
		return program{}, absent{fmt.Errorf("the programs of Postgres cannot be downloaded: %w", err)}
	}
	return prog, nil
}
