package orders

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"
)

// ReachTimeout is how long a store may take to answer at start.
const ReachTimeout = 4 * time.Second

// Connect opens the two stores named by the environment variables REDIS_URL and DATABASE_URL. If one cannot be reached, the error says
// which host and database, never the password, and what to do. Call close at the end.
func Connect(ctx context.Context) (redis rueidis.Client, pg *pgxpool.Pool, closeBoth func(), err error) {
	redisURL, databaseURL := os.Getenv("REDIS_URL"), os.Getenv("DATABASE_URL")
	if redisURL == "" || databaseURL == "" {
		return nil, nil, nil, errors.New("set REDIS_URL (redis://user:password@host:6379/0) and DATABASE_URL (postgres://user:password@host:5432/database)")
	}
	ctx, cancel := context.WithTimeout(ctx, ReachTimeout)
	defer cancel()

	opt, err := rueidis.ParseURL(redisURL)
	if err != nil {
		return nil, nil, nil, errors.New("REDIS_URL cannot be read: it looks like redis://user:password@host:6379/0") // the error would repeat it, password and all
	}
	opt.Dialer.Timeout = ReachTimeout / 2
	redis, err = rueidis.NewClient(opt)
	if err == nil {
		err = redis.Do(ctx, redis.B().Ping().Build()).Error()
	}
	if err != nil {
		if redis != nil {
			redis.Close()
		}
		return nil, nil, nil, fmt.Errorf("Redis at %s cannot be reached: start it or correct REDIS_URL: %w", host(redisURL), err) //nolint:staticcheck // a name
	}
	cfg, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		redis.Close()
		return nil, nil, nil, errors.New("DATABASE_URL cannot be read: it looks like postgres://user:password@host:5432/database")
	}
	pg, err = pgxpool.NewWithConfig(ctx, cfg)
	if err == nil {
		err = pg.Ping(ctx)
	}
	if err != nil {
		redis.Close()
		if pg != nil {
			pg.Close()
		}
		return nil, nil, nil, fmt.Errorf("Postgres at %s:%d, database %q, cannot be reached: start it or correct DATABASE_URL: %w", //nolint:staticcheck // a name
			cfg.ConnConfig.Host, cfg.ConnConfig.Port, cfg.ConnConfig.Database, err)
	}
	return redis, pg, func() { pg.Close(); redis.Close() }, nil
}

func host(rawURL string) string {
	if u, err := url.Parse(rawURL); err == nil && u.Host != "" {
		return u.Host
	}
	return "its address"
}
