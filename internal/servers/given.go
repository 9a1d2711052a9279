package servers

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/headrace/headrace/internal/reach"
)

// UnreachableError reports that a server that was given by URL cannot be used. Its text is one
// line, names the host and the database, never the password, and the remedy.
type UnreachableError struct{ cause *reach.Error }

func (e *UnreachableError) Unwrap() error { return e.cause }

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%s, or unset %s to get a throwaway server", e.cause.Error(), e.cause.Server.Env)
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
	at, _, err := reach.Redis(EnvRedis, raw)
	if err != nil {
		return nil, err
	}
	s := &RedisServer{URL: raw}
	s.Name, s.Version, err = ask(ctx, at, func(ctx context.Context) (string, string, error) { return askRedis(ctx, raw) })
	if err != nil {
		return nil, err
	}
	s.Chosen = fmt.Sprintf("%s %s (%s: %s)", s.Name, s.Version, EnvRedis, at.Address)
	return s, nil
}

// givenPostgres checks the server and the database of DATABASE_URL.
func givenPostgres(ctx context.Context, raw string) (*PostgresServer, error) {
	at, _, err := reach.Postgres(EnvPostgres, raw)
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{URL: raw}
	_, s.Version, err = ask(ctx, at, func(ctx context.Context) (string, string, error) { return askPostgres(ctx, raw) })
	if err != nil {
		return nil, err
	}
	s.Chosen = fmt.Sprintf("PostgreSQL %s (%s: %s)", s.Version, EnvPostgres, at.Address)
	return s, nil
}

// givenPgBouncer checks that PGBOUNCER_URL leads to a database. It may be any pooler, so its
// console is not used.
func givenPgBouncer(ctx context.Context, raw string) (*PgBouncerServer, error) {
	at, _, err := reach.Postgres(EnvPgBouncer, raw)
	if err != nil {
		return nil, err
	}
	at.Kind = "PgBouncer"
	if _, _, err = ask(ctx, at, func(ctx context.Context) (string, string, error) { return askPostgres(ctx, raw) }); err != nil {
		return nil, err
	}
	return &PgBouncerServer{URL: raw, Chosen: fmt.Sprintf("PgBouncer (%s: %s)", EnvPgBouncer, at.Address)}, nil
}

// ask queries a server that should be there already. It returns within ReachTimeout, even where a
// firewall drops every packet. Its error is an UnreachableError, unless ctx has ended.
func ask(ctx context.Context, at reach.Server, query func(context.Context) (string, string, error)) (name, version string, err error) {
	silent := fmt.Errorf("no answer within %v", ReachTimeout)
	limited, cancel := context.WithTimeoutCause(ctx, ReachTimeout, silent)
	defer cancel()
	type answer struct {
		name, version string
		err           error
	}
	done := make(chan answer, 1) // a parser or a dialer may ignore the context
	go func() {
		n, v, err := query(limited)
		done <- answer{n, v, err}
	}()
	var a answer
	select {
	case a = <-done:
		if a.err != nil && errors.Is(a.err, context.DeadlineExceeded) {
			a.err = silent // a connection's own deadline may come before the context's
		}
	case <-limited.Done():
		a.err = context.Cause(limited)
	}
	if ctx.Err() != nil {
		return "", "", context.Cause(ctx)
	}
	if a.err != nil {
		return "", "", &UnreachableError{at.Explain(a.err)}
	}
	return a.name, a.version, nil
}
