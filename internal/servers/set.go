package servers

import (
	"context"
	"errors"
	"sync"
)

// Set is what a test suite or a demo needs: a Redis, a Postgres and, when it was asked for, a
// PgBouncer before it.
type Set struct {
	Redis     *RedisServer
	Postgres  *PostgresServer
	PgBouncer *PgBouncerServer // nil unless it was asked for
}

// SharedPostgres are the settings of a Postgres that several test packages use at the same time.
var SharedPostgres = []string{"max_connections=300", "shared_buffers=256MB"}

// TunedPostgres and TunedRedis are the settings that README.md recommends, for measurements.
var (
	TunedPostgres = []string{
		"max_connections=300", "shared_buffers=2GB", "max_wal_size=4GB", "checkpoint_timeout=15min", "wal_compression=lz4",
	}
	TunedRedis = []string{"--auto-aof-rewrite-min-size", "1gb", "--rdbcompression", "no"}
)

// SetOptions configure how the servers of a Set are found. Each server has its own settings in
// place of Options.Settings.
type SetOptions struct {
	Options
	RedisSettings, PostgresSettings, PgBouncerSettings []string
	// PgBouncer asks for one.
	PgBouncer bool
}

// StartSet finds or starts the servers, Redis and Postgres at the same time. When several are
// missing, one error names them all.
func StartSet(ctx context.Context, o SetOptions) (*Set, error) {
	if _, err := o.mode(); err != nil {
		return nil, err // once, not once a server
	}
	with := func(settings []string) Options {
		one := o.Options
		one.Settings = settings
		return one
	}
	s := &Set{}
	var redisErr, postgresErr, bouncerErr error
	var wait sync.WaitGroup
	wait.Go(func() { s.Redis, redisErr = StartRedis(ctx, with(o.RedisSettings)) })
	wait.Go(func() {
		if s.Postgres, postgresErr = StartPostgres(ctx, with(o.PostgresSettings)); postgresErr == nil && o.PgBouncer {
			s.PgBouncer, bouncerErr = StartPgBouncer(ctx, s.Postgres.URL, with(o.PgBouncerSettings))
		}
	})
	wait.Wait()
	if err := joinMissing(redisErr, postgresErr, bouncerErr); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Stop stops what was started here. It may be called twice.
func (s *Set) Stop() error {
	var errs []error
	if s.PgBouncer != nil {
		errs = append(errs, s.PgBouncer.Stop())
	}
	if s.Postgres != nil {
		errs = append(errs, s.Postgres.Stop())
	}
	if s.Redis != nil {
		errs = append(errs, s.Redis.Stop())
	}
	return errors.Join(errs...)
}

// Chosen names the servers that were taken, one a line.
func (s *Set) Chosen() []string {
	lines := []string{s.Redis.Chosen, s.Postgres.Chosen}
	if s.PgBouncer != nil {
		lines = append(lines, s.PgBouncer.Chosen)
	}
	return lines
}

// Env returns the environment variables through which another program finds the same servers. They
// hold the passwords.
func (s *Set) Env() []string {
	env := []string{EnvRedis + "=" + s.Redis.URL, EnvPostgres + "=" + s.Postgres.URL}
	if s.PgBouncer != nil {
		env = append(env, EnvPgBouncer+"="+s.PgBouncer.URL)
	}
	return env
}
