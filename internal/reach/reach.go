// Package reach explains why a server that is given by URL cannot be used. Its messages are one
// line. They name the host and the database, never the password, and what to do.
package reach

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/rueidis"
)

// Server is a server that is given by the environment variable Env.
type Server struct {
	Env     string // REDIS_URL
	Kind    string // "Redis"
	Address string // "db.example:6379, database 0"
	User    string
	// Name is the database's name. It is empty for Redis.
	Name string
}

// Where is what messages call the server: "Redis at db.example:6379, database 0".
func (s Server) Where() string { return s.Kind + " at " + s.Address }

// Redis reads the URL of a Redis server.
func Redis(env, url string) (Server, rueidis.ClientOption, error) {
	opt, err := rueidis.ParseURL(url)
	if err != nil {
		return Server{}, opt, Unreadable(env, "redis://user:password@host:6379/0")
	}
	address := fmt.Sprintf("%s, database %d", strings.Join(opt.InitAddress, ", "), opt.SelectDB)
	return Server{Env: env, Kind: "Redis", Address: address, User: opt.Username}, opt, nil
}

// Postgres reads the URL, or the keyword/value string, of a Postgres database.
func Postgres(env, url string) (Server, *pgx.ConnConfig, error) {
	const form = "postgres://user:password@host:5432/database"
	if misplaced(url) {
		return Server{}, nil, Unreadable(env, form)
	}
	c, err := pgx.ParseConfig(url)
	if parse := new(pgconn.ParseConfigError); errors.As(err, &parse) {
		anonymous := *parse
		anonymous.ConnString = ""
		if text := strings.TrimPrefix(anonymous.Error(), "cannot parse ``: "); url == "" || harmless(text) {
			return Server{}, nil, fmt.Errorf("cannot use %s: %s", env, oneLine(text))
		}
	}
	if err != nil {
		return Server{}, nil, Unreadable(env, form)
	}
	name := cmp.Or(c.Database, c.User) // the server's own default
	address := fmt.Sprintf("%s, database %s", net.JoinHostPort(c.Host, fmt.Sprint(c.Port)), name)
	return Server{Env: env, Kind: "Postgres", Address: address, User: c.User, Name: name}, c, nil
}

// misplaced reports whether a password in a URL of Postgres has a character that ends the password
// or the host: the parser would take the rest for the host or the database, which messages name.
func misplaced(raw string) bool {
	_, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return false
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if n := strings.Count(rest[:end], "@"); n > 0 {
		return n > 1
	}
	before, _, ok := strings.Cut(rest[end:], "@")
	return ok && !strings.Contains(before, "=") // a setting may have one
}

// harmless reports whether the reason why pgx cannot use a URL repeats no part of it that may be
// the password.
func harmless(reason string) bool {
	for _, prefix := range []string{"failed to read service", "failed to configure TLS", "invalid port", "invalid connect_timeout", "could not match"} {
		if strings.HasPrefix(reason, prefix) {
			return true
		}
	}
	return false
}

// Unreadable replaces the error of a parser, which would repeat the URL with its password.
func Unreadable(env, form string) error {
	return fmt.Errorf("%s is not a valid URL: it must look like %s, with # ? / @ and %% of the password as %%23 %%3F %%2F %%40 and %%25", env, form)
}

// Error reports why a server cannot be used.
type Error struct {
	Server  Server
	Problem string // "refuses the password"
	Fix     string // "correct REDIS_URL"
	Err     error
}

func (e *Error) Unwrap() error { return e.Err }

func (e *Error) Error() string {
	return fmt.Sprintf("%s %s: %s (%s)", e.Server.Where(), e.Problem, e.Fix, Cause(e.Err))
}

// Cause returns the server's or the system's own words in an error, on one line.
func Cause(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return fmt.Sprintf("%s, SQLSTATE %s", oneLine(pg.Message), pg.Code)
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) { // lists every address that was tried, each on a line of its own
		var op *net.OpError
		if errors.As(err, &op) {
			return oneLine(op.Error())
		}
	}
	return oneLine(err.Error())
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// Explain wraps the error of a connection or a first command.
func (s Server) Explain(err error) *Error {
	correct := "correct " + s.Env
	problem, fix := "does not answer", "start it or "+correct
	code, redis := "", ""
	if pg := new(pgconn.PgError); errors.As(err, &pg) {
		code = pg.Code
	} else if r := new(rueidis.RedisError); errors.As(err, &r) {
		redis = strings.TrimPrefix(r.Error(), "ERR ") // rueidis strips it, but not from all replies
	}
	says := func(prefixes ...string) bool {
		for _, p := range prefixes {
			if strings.HasPrefix(redis, p) {
				return true
			}
		}
		return false
	}
	var dns *net.DNSError
	switch {
	case Starting(err):
		problem, fix = "is starting up", "try again in a moment"
	case code == "28P01", code == "28000", says("WRONGPASS", "NOAUTH", "AUTH", "invalid password", "Client sent AUTH"):
		problem, fix = "refuses the password", correct
		if s.User != "" {
			problem = fmt.Sprintf("refuses the user %q or the password", s.User)
		}
	case code == "3D000":
		problem, fix = "does not have that database", fmt.Sprintf("create it (createdb %s) or %s", s.Name, correct)
	case says("DB index", "invalid DB index"):
		problem, fix = "does not have that database", correct
	case code == "42501", says("NOPERM"):
		problem, fix = fmt.Sprintf("does not let the user %q in", s.User), "grant the privilege or "+correct
	case code == "53300", says("max number of clients"):
		problem, fix = "has no connection left", "raise its limit or stop another client"
	case errors.As(err, &dns):
		problem, fix = "cannot be found: the host name is unknown", correct
	case code == "42704": // pgx sends parameters that it does not know to the server
		problem, fix = "does not know a parameter of the connection", correct
	case err != nil && strings.Contains(err.Error(), "ValidateConnect failed"):
		problem, fix = "is not the kind of server that target_session_attrs asks for", correct
	case isTLS(err):
		problem, fix = "and this program do not agree on TLS", correct+" (sslmode=… for Postgres, rediss:// for Redis)"
	case code != "" || redis != "":
		problem, fix = "refuses the connection", correct
	}
	return &Error{Server: s, Problem: problem, Fix: fix, Err: err}
}

func isTLS(err error) bool {
	return errors.As(err, new(tls.RecordHeaderError)) || errors.As(err, new(*tls.CertificateVerificationError)) ||
		errors.As(err, new(x509.UnknownAuthorityError)) || errors.As(err, new(x509.HostnameError)) ||
		errors.As(err, new(tls.AlertError)) || err != nil && (strings.Contains(err.Error(), "refused TLS connection") || strings.Contains(err.Error(), "remote error: tls:"))
}

// Starting reports whether err means that the server runs and will soon accept commands: Postgres
// recovers from a crash, or Redis loads its data.
func Starting(err error) bool {
	if pg := new(pgconn.PgError); errors.As(err, &pg) {
		// 57P03 cannot_connect_now. PgBouncer passes Postgres' message on with a code of its own.
		return pg.Code == "57P03" || strings.Contains(pg.Message, "the database system is")
	}
	if r := new(rueidis.RedisError); errors.As(err, &r) {
		return strings.HasPrefix(r.Error(), "LOADING")
	}
	// rueidis wraps an error of the handshake without keeping its type.
	return err != nil && strings.Contains(err.Error(), "LOADING ")
}

// Interrupted reports whether err is a consequence of a crash or a restart of the server while a
// program was at work on it: the server is [Starting], or it closed the connection to shut down.
// The program may do its work again if that is idempotent.
func Interrupted(err error) bool {
	if pg := new(pgconn.PgError); errors.As(err, &pg) {
		return Starting(err) || pg.Code == "57P01" || pg.Code == "57P02"
	}
	return Starting(err)
}

// retryPause is the pause between two tries of [Await].
const retryPause = 200 * time.Millisecond

// Await calls try until it does not fail with an error for which again is true, and returns its
// last error. It calls waiting once, with the first such error, and ready once if try then
// succeeds.
func Await(ctx context.Context, try func(context.Context) error, again func(error) bool, waiting func(error), ready func()) error {
	for n := 0; ; n++ {
		err := try(ctx)
		if err == nil && n > 0 {
			ready()
		}
		if err == nil || !again(err) {
			return err
		}
		if n == 0 {
			waiting(err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(retryPause):
		}
	}
}
