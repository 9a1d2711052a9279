package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/reach"
	"github.com/headrace/headrace/pipeline"
)

// The environment variables that name the stores.
const (
	EnvRedis    = "REDIS_URL"
	EnvPostgres = "DATABASE_URL"
)

// AnswerTimeout bounds the wait for a store's first answer.
const AnswerTimeout = 4 * time.Second

// Redis connects to the server of RedisURL or REDIS_URL. It waits while the server loads its data.
// Any other failure is an error of one line with the remedy. The caller closes the client.
func (p *Program) Redis(ctx context.Context) (rueidis.Client, error) {
	url, env := p.RedisURL, "--redis"
	if url == "" {
		url, env = os.Getenv(EnvRedis), EnvRedis
	}
	if url == "" {
		return nil, fmt.Errorf("set %s, for example redis://user:password@localhost:6379/0", EnvRedis)
	}
	at, opt, err := redisOptions(env, url)
	if err != nil {
		return nil, err
	}
	var client rueidis.Client
	err = p.await(ctx, at, func(ctx context.Context) error {
		c, err := rueidis.NewClient(opt)
		if err == nil {
			err = c.Do(ctx, c.B().Ping().Build()).Error()
		}
		if err != nil && c != nil {
			c.Close()
		} else {
			client = c
		}
		return err
	})
	return client, err
}

// Postgres connects to the database of PostgresURL or DATABASE_URL, or else to the one of libpq's
// variables (PGHOST, PGSERVICE, …). It waits while the server starts up or recovers from a crash.
// Any other failure is an error of one line with the remedy. The caller closes the pool.
func (p *Program) Postgres(ctx context.Context) (*pgxpool.Pool, error) {
	url, env := p.PostgresURL, "--postgres"
	if url == "" {
		url, env = os.Getenv(EnvPostgres), EnvPostgres
	}
	if url == "" {
		if os.Getenv("PGHOST") == "" && os.Getenv("PGSERVICE") == "" {
			return nil, fmt.Errorf("set %s, for example postgres://user:password@localhost:5432/shop, or PGHOST and its like", EnvPostgres)
		}
		env = "the PG variables"
	}
	at, _, err := reach.Postgres(env, url)
	if err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil { // the error may repeat the URL
		return nil, fmt.Errorf("%s is not valid: see the pgxpool settings that it contains", env)
	}
	pipeline.TunePool(cfg)
	cfg.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		// Certificates and passwords in files may be renewed while the program runs.
		if fresh, err := pgx.ParseConfig(url); err == nil {
			c.Password, c.TLSConfig, c.Fallbacks = fresh.Password, fresh.TLSConfig, fresh.Fallbacks
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err = p.await(ctx, at, pool.Ping); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// Both connects to both stores. Call done at the end.
func (p *Program) Both(ctx context.Context) (redis rueidis.Client, pg *pgxpool.Pool, done func(), err error) {
	if redis, err = p.Redis(ctx); err != nil {
		return nil, nil, nil, err
	}
	if pg, err = p.Postgres(ctx); err != nil {
		redis.Close()
		return nil, nil, nil, err
	}
	return redis, pg, func() { pg.Close(); redis.Close() }, nil
}

func (p *Program) await(ctx context.Context, at reach.Server, connect func(context.Context) error) error {
	silent := fmt.Errorf("no answer within %v", AnswerTimeout)
	try := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, AnswerTimeout, silent)
		defer cancel()
		err := connect(ctx)
		if err != nil && errors.Is(err, context.DeadlineExceeded) {
			err = silent
		}
		return err
	}
	err := reach.Await(ctx, try, reach.Starting,
		func(err error) { p.Say("%s is starting up; waiting (%s)", at.Where(), reach.Cause(err)) },
		func() { p.Say("%s is ready", at.Where()) })
	if err != nil && ctx.Err() == nil {
		return at.Explain(err)
	}
	return err
}

// Open calls open, which prepares a pipeline in the stores, and calls it again while Postgres
// recovers from a crash or Redis loads its data.
func Open[T any](ctx context.Context, p *Program, open func(context.Context) (T, error)) (v T, err error) {
	err = reach.Await(ctx, func(ctx context.Context) error { v, err = open(ctx); return err }, reach.Interrupted,
		func(err error) { p.Say("a store is starting up; waiting (%s)", reach.Cause(err)) },
		func() { p.Say("the stores are ready") })
	return v, err
}

// PingRedis returns a function that asks Redis for a sign of life.
func PingRedis(c rueidis.Client) func(ctx context.Context) error {
	return func(ctx context.Context) error { return c.Do(ctx, c.B().Ping().Build()).Error() }
}
