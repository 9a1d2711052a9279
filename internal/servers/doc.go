// Package servers starts throwaway Redis, Postgres and PgBouncer servers for the tests and the
// demo.
//
// Each server is looked for in this order, and Chosen names the one that was taken, with its
// version:
//
//  1. the environment: REDIS_URL, DATABASE_URL, PGBOUNCER_URL. These belong to the caller: they are
//     used, never stopped or emptied.
//  2. a Docker engine that answers within a second and has the image (redis:8, postgres:18, …).
//  3. the programs of this machine: PATH and the places where packages put them; the newest wins.
//  4. the Docker engine again, now with a pull of the image.
//  5. where Options.Demo allows it: miniredis inside this process, and a download of Postgres.
//
// HEADRACE_SERVERS=local, docker or embedded takes one of these ways alone. A server that merely
// listens on a default port is never adopted: it may hold data of other programs.
//
// # What a throwaway server is
//
// It listens on 127.0.0.1, on a random port below the ephemeral range (a client that dials a dead
// server's ephemeral port again and again can end up connected to itself), with a random password;
// its Unix socket, if any, lies in its own directory. The port stays the same through Kill and
// Start, so clients find it again. Postgres and PgBouncer refuse root: started by root they run as
// the user "postgres" or "nobody".
//
// # Nothing is left running
//
// Stop removes the server and its directory. If the program dies before that, by kill -9 even, a
// watchdog does it: a small shell in a session of its own that reads a pipe whose other end only
// this program holds. At the end of file it takes the server's directory away (so that no server
// can start there any more), kills what the pidfile names, or removes the container of that name.
package servers
