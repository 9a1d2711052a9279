package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/redis/rueidis"
)

// UnreachableError says that a server that was given by URL does not answer. Its text is one line, names host and
// database, never the password, and says what to do.
type UnreachableError struct {
	Env   string // REDIS_URL
	Where string // "Redis at db.example:6379, database 0"
	Err   error
}

func (e *UnreachableError) Unwrap() error { return e.Err }

func (e *UnreachableError) Error() string {
	cause := strings.Join(strings.Fields(e.Err.Error()), " ") // pgx puts every address on a line of its own
	return fmt.Sprintf("%s (%s) does not answer: %s. Start it, correct %s, or unset it to get a throwaway server",
		e.Where, e.Env, cause, e.Env)
}

// unreadable is for a URL that cannot be parsed. The parsers' errors repeat it, password and all.
func unreadable(env, form string) error {
	return fmt.Errorf("%s cannot be read: it must look like %s", env, form)
}

// given returns the URL of an environment variable that the options allow to be used.
func (o *Options) given(env string) string {
	if o.Private || o.Image != "" {
		return ""
	}
	return os.Getenv(env)
}

// givenRedis checks the server of REDIS_URL.
func givenRedis(ctx context.Context, raw string) (*RedisServer, error) {
	opt, err := rueidis.ParseURL(raw)
	if err != nil {
		return nil, unreadable(EnvRedis, "redis://user:password@host:6379/0")
	}
	where := fmt.Sprintf("%s, database %d", strings.Join(opt.InitAddress, ", "), opt.SelectDB)
	s := &RedisServer{URL: raw}
	if s.Name, s.Version, err = reach(ctx, func(ctx context.Context) (string, string, error) { return askRedis(ctx, raw) }); err != nil {
		return nil, &UnreachableError{EnvRedis, "Redis at " + where, err}
	}
	s.Chosen = fmt.Sprintf("%s %s (%s: %s)", s.Name, s.Version, EnvRedis, where)
	return s, nil
}

// givenPostgres checks the server and the database of DATABASE_URL.
func givenPostgres(ctx context.Context, raw string) (*PostgresServer, error) {
	where, err := describePostgres(EnvPostgres, raw)
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{URL: raw}
	if _, s.Version, err = reach(ctx, func(ctx context.Context) (string, string, error) { return askPostgres(ctx, raw) }); err != nil {
		return nil, &UnreachableError{EnvPostgres, "Postgres at " + where, err}
	}
	s.Chosen = fmt.Sprintf("PostgreSQL %s (%s: %s)", s.Version, EnvPostgres, where)
	return s, nil
}

// givenPgBouncer checks that PGBOUNCER_URL leads to a database. It may be any pooler: its console is not asked.
func givenPgBouncer(ctx context.Context, raw string) (*PgBouncerServer, error) {
	where, err := describePostgres(EnvPgBouncer, raw)
	if err != nil {
		return nil, err
	}
	_, _, err = reach(ctx, func(ctx context.Context) (string, string, error) { return askPostgres(ctx, raw) })
	if err != nil {
		return nil, &UnreachableError{EnvPgBouncer, "PgBouncer at " + where, err}
	}
	return &PgBouncerServer{URL: raw, Chosen: fmt.Sprintf("PgBouncer (%s: %s)", EnvPgBouncer, where)}, nil
}

func describePostgres(env, raw string) (string, error) {
	c, err := pgx.ParseConfig(raw)
	if err != nil {
		return "", unreadable(env, "postgres://user:password@host:5432/database")
	}
	return fmt.Sprintf("%s, database %s", net.JoinHostPort(c.Host, fmt.Sprint(c.Port)), c.Database), nil
}

// reach asks a server that should be there already. It answers within ReachTimeout, even where a firewall swallows
// every packet.
func reach(ctx context.Context, ask func(context.Context) (string, string, error)) (name, version string, err error) {
	silent := fmt.Errorf("no answer within %v", ReachTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, ReachTimeout, silent)
	defer cancel()
	type answer struct {
		name, version string
		err           error
	}
	done := make(chan answer, 1) // a parser or a dialer that ignores the context must not hold us up
	go func() {
		n, v, err := ask(ctx)
		done <- answer{n, v, err}
	}()
	select {
	case a := <-done:
		if a.err != nil && errors.Is(a.err, context.DeadlineExceeded) {
			a.err = silent // a connection's own deadline may come before the context's
		}
		return a.name, a.version, a.err
	case <-ctx.Done():
		return "", "", context.Cause(ctx)
	}
}
