package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

// refusing answers the first n connections as f does, then lets them through.
func refusing(n int, f func(c net.Conn)) *func(c net.Conn) bool {
	var seen atomic.Int64
	g := func(c net.Conn) bool {
		if seen.Add(1) > int64(n) {
			return false
		}
		f(c)
		return true
	}
	return &g
}

// startingUp answers as a Postgres in recovery does.
func startingUp(c net.Conn) {
	be := pgproto3.NewBackend(c, c)
	if _, err := be.ReceiveStartupMessage(); err != nil {
		return
	}
	be.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P03", Message: "the database system is starting up"})
	_ = be.Flush()
}

// loading answers as a Redis that loads its data.
func loading(c net.Conn) {
	buf := make([]byte, 4096)
	if _, err := c.Read(buf); err == nil {
		_, _ = c.Write([]byte("-LOADING Redis is loading the dataset in memory\r\n"))
	}
}

func hangUp(net.Conn) {}

// A program that starts before its stores waits in Await, and logs one line at the beginning and
// one at the end.
func TestAwaitWaitsForStores(t *testing.T) {
	t.Parallel()
	dbURL, redisURL := servertest.PostgresURL(t), servertest.RedisURL(t)
	openPostgres := func(url string) func(context.Context) error {
		return func(ctx context.Context) error {
			pool, err := pgxpool.New(ctx, url)
			if err != nil {
				return err
			}
			defer pool.Close()
			_, err = staging.New(ctx, pool, "items", staging.Config[item]{Create: true})
			return err
		}
	}
	openRedis := func(url string) func(context.Context) error {
		return func(ctx context.Context) error {
			opt, err := rueidis.ParseURL(url)
			if err != nil {
				return err
			}
			c, err := rueidis.NewClient(opt)
			if err != nil {
				return err
			}
			defer c.Close()
			return c.Do(ctx, c.B().Ping().Build()).Error()
		}
	}
	for name, c := range map[string]struct {
		url    string
		open   func(url string) func(context.Context) error
		refuse func(net.Conn)
	}{
		"Postgres starting up":         {dbURL, openPostgres, startingUp},
		"Postgres closing connections": {dbURL, openPostgres, hangUp},
		"Redis loading":                {redisURL, openRedis, loading},
		"Redis closing connections":    {redisURL, openRedis, hangUp},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, p := proxiedURL(t, c.url)
			p.greet.Store(refusing(5, c.refuse))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			log := newLines()
			if err := pipeline.Await(ctx, slog.New(log), c.open(url)); err != nil {
				t.Fatalf("Await returned %v, want the store to come up", err)
			}
			if got := log.all(); len(got) != 2 || !strings.Contains(got[0], "retrying") || !strings.Contains(got[1], "works again") {
				t.Errorf("log %q, want its beginning and its end", got)
			}
		})
	}
	t.Run("connection refused", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		l.Close() // nothing listens there
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tries := 0
		err = pipeline.Await(ctx, quiet, func(ctx context.Context) error {
			_, err := pgconn.Connect(ctx, "postgres://postgres@"+address+"/x?sslmode=disable")
			if tries++; tries == 3 {
				cancel()
			}
			return err
		})
		if tries != 3 || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%d tries, %v, want 3 and the last error with that of the context", tries, err)
		}
	})
}

// A server that crashes between two statements of open ends the connection. pgx reports that as an
// error of its own, and no longer as that of the network.
func TestAwaitRetriesAfterALostConnection(t *testing.T) {
	t.Parallel()
	dbURL := servertest.PostgresURL(t)
	tries := 0
	err := pipeline.Await(t.Context(), quiet, func(ctx context.Context) error {
		tries++
		c, err := pgconn.Connect(ctx, dbURL)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close(ctx) }()
		if tries < 3 {
			_, _ = c.Exec(ctx, "SELECT pg_terminate_backend(pg_backend_pid())").ReadAll()
		}
		_, err = c.Exec(ctx, "SELECT 1").ReadAll()
		return err
	})
	if err != nil || tries != 3 {
		t.Errorf("%d tries, %v, want the third one to succeed", tries, err)
	}
}

// Errors that waiting does not mend are returned at once.
func TestAwaitReturnsLastingErrors(t *testing.T) {
	t.Parallel()
	dbURL := servertest.PostgresURL(t)
	for name, open := range map[string]func(ctx context.Context) error{
		"missing database": func(ctx context.Context) error {
			_, err := pgconn.Connect(ctx, strings.Replace(dbURL, "?", "_missing?", 1))
			return err
		},
		"bad configuration": func(context.Context) error { return fmt.Errorf("%w: no", pipeline.ErrConfig) },
		"any other error":   func(context.Context) error { return errors.New("no") },
	} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			err := pipeline.Await(t.Context(), quiet, func(ctx context.Context) error { tries++; return open(ctx) })
			if err == nil || tries != 1 {
				t.Errorf("%d tries, %v, want one and its error", tries, err)
			}
		})
	}
}
