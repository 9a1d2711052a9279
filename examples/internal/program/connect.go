package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

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

// Redis connects to the server of REDIS_URL. It waits while the server loads its data. Any other
// failure is an error of one line with the remedy. The caller closes the client.
func (p *Program) Redis(ctx context.Context) (rueidis.Client, error) {
	url := os.Getenv(EnvRedis)
	if url == "" {
		return nil, fmt.Errorf("set %s, for example redis://user:password@localhost:6379/0", EnvRedis)
	}
	at, opt, err := reach.Redis(EnvRedis, url)
	if err != nil {
		return nil, err
	}
	opt.Dialer.Timeout = AnswerTimeout
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

// Postgres connects to the database of DATABASE_URL. It waits while the server starts up or
// recovers from a crash. Any other failure is an error of one line with the remedy. The caller
// closes the pool.
func (p *Program) Postgres(ctx context.Context) (*pgxpool.Pool, error) {
	url := os.Getenv(EnvPostgres)
	if url == "" {
		return nil, fmt.Errorf("set %s, for example postgres://user:password@localhost:5432/shop", EnvPostgres)
	}
	at, _, err := reach.Postgres(EnvPostgres, url)
	if err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil { // the error may repeat the URL
		return nil, fmt.Errorf("%s is not valid: see the pgxpool settings that it contains", EnvPostgres)
	}
	pipeline.TunePool(cfg)
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
