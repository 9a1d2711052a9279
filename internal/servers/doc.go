// Package servers starts throwaway Redis, Postgres and PgBouncer servers for the tests and the
// demo.
//
// It searches for each server in this order. The field Chosen names the result and its version.
//
//  1. The environment: REDIS_URL, DATABASE_URL, PGBOUNCER_URL. These servers belong to the caller.
//     They are used, and never stopped or emptied.
//  2. A Docker engine that answers and has the image (redis:8, postgres:18, …).
//  3. The programs of this machine, in PATH and where packages install them. The newest wins.
//  4. The Docker engine again, with a pull of the image.
//  5. If Options.Demo is set: miniredis inside this process, and a download of Postgres.
//
// HEADRACE_SERVERS=local, docker or embedded restricts the search to one of these ways. A server
// that merely listens on a default port is never used: it may hold the data of other programs.
//
// # What a throwaway server is
//
// It listens on 127.0.0.1 with a random password. Its port is random and below the ephemeral range:
// a client that redials an ephemeral port of a dead server can connect to itself. Its Unix socket,
// if any, is in its own directory. The port stays the same through Kill and Start, so clients find
// the server again. Postgres and PgBouncer refuse to run as root, so root starts them as the user
// "postgres" or "nobody".
//
// # Nothing is left running
//
// Stop removes the server and its directory. If the program dies first, even by kill -9, a watchdog
// does it. The watchdog is a small shell script in a session of its own. It reads a pipe whose
// other end only this program holds. At the end of file it moves the server's directory away, so
// that no server can start there any more. Then it kills the process that the pidfile names, or
// removes the container.
package servers
