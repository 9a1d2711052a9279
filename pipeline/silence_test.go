package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// behindProxies returns a rig whose stores are behind proxies. The connections are set up as the
// package recommends.
func behindProxies(t *testing.T) (r *rig, redis, postgres *proxy) {
	t.Helper()
	direct, err := pgxpool.New(t.Context(), servertest.PostgresURL(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(direct.Close)
	pgURL, pgProxy := proxiedURL(t, direct.Config().ConnString())
	config, err := pgxpool.ParseConfig(pgURL)
	if err != nil {
		t.Fatal(err)
	}
	pipeline.TunePool(config)
	config.PingTimeout = 100 * time.Millisecond
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	redisURL, redisProxy := proxiedURL(t, servertest.RedisURL(t))
	option, err := rueidis.ParseURL(redisURL)
	if err != nil {
		t.Fatal(err)
	}
	option.Dialer = *pipeline.Dialer()
	option.ConnWriteTimeout = time.Second
	client, err := rueidis.NewClient(option)
	if err != nil {
		t.Fatal(err)
	}
	r = newRig(t, rigOptions{redis: client, pool: pool})
	t.Cleanup(func() {
		redisProxy.cut()
		pgProxy.cut()
		client.Close()
		pool.Close()
	})
	return r, redisProxy, pgProxy
}

// A store goes silent: TCP acknowledges, nothing answers. Workers and promoters leave the
// connections, report the outage, and go on with new ones. Nothing is lost, and no batch pays for a
// silent Postgres.
func TestSilentStore(t *testing.T) {
	t.Parallel()
	for name, pick := range map[string]func(redis, postgres *proxy) *proxy{
		"Postgres": func(_, postgres *proxy) *proxy { return postgres },
		"Redis":    func(redis, _ *proxy) *proxy { return redis },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, redis, postgres := behindProxies(t)
			silent := pick(redis, postgres)
			before, during := numbered("a", 300, "good"), numbered("b", 300, "good")
			r.push(before...)
			log := newLines()
			stop := r.start(
				pipeline.WorkerConfig{Logger: slog.New(log), CallTimeout: time.Second},
				pipeline.PromoterConfig{Logger: slog.New(log), CallTimeout: time.Second})
			defer stop()
			r.settled()
			if name == "Postgres" { // Redis would refuse the push
				silent.silence()
			}
			r.push(during...)
			silent.silence()
			eventually(t, 2*time.Minute, func() error {
				if len(log.with("failed; retrying")) < 2 {
					return errors.New("worker and promoter have not both reported the outage")
				}
				return nil
			})
			silent.heal()
			r.settled()
			eventually(t, 2*time.Minute, func() error {
				if len(log.with("works again")) < 2 {
					return fmt.Errorf("log %q, want the end of both outages", log.all())
				}
				return nil
			})
			stop()
			r.check(want{rows: append(idsOf(before), idsOf(during)...)})
			if name == "Postgres" {
				st, err := r.queue.Stats(context.Background())
				if err != nil || st.Splits != 0 || st.Dead != 0 {
					t.Errorf("splits %d, dead %d, %v, want none", st.Splits, st.Dead, err)
				}
			}
		})
	}
}

// The connections of Dialer have the options that end them when their peer vanishes.
func TestDialer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := pipeline.Dialer()
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("the options cannot be set: %v", err)
	}
	defer func() { _ = c.Close() }()
	socket, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	local, err := d.DialContext(t.Context(), "unix", socket.Addr().String())
	if err != nil {
		t.Fatalf("a Unix socket: %v", err)
	}
	defer func() { _ = local.Close() }()
	if !d.KeepAliveConfig.Enable || d.Timeout == 0 || d.KeepAlive <= 0 {
		t.Errorf("dialer %+v, want keepalive and a timeout", d)
	}
	config, err := pgxpool.ParseConfig("postgres://localhost/x")
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.ConnectTimeout = time.Minute
	pipeline.TunePool(config)
	if config.ConnConfig.ConnectTimeout != time.Minute || config.PingTimeout == 0 {
		t.Errorf("connect timeout %v, ping timeout %v, want what was set, and a default", config.ConnConfig.ConnectTimeout, config.PingTimeout)
	}
}

// A function that encodes rows and never returns loses its batch after BatchTimeout, like one in
// the chain. The batch goes through elsewhere.
func TestHungEncoderLosesItsBatch(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{lease: queue.LeaseConfig{MaxCrashes: 100}})
	var calls atomic.Int64
	hung, release := make(chan struct{}), make(chan struct{})
	r.fill(func(v *item, row *stagingRow) {
		if calls.Add(1) == 1 {
			close(hung)
			<-release
		}
		row.String(v.ID)
		row.String(v.Kind)
	})
	records := numbered("a", 50, "good")
	r.push(records...)
	stop := r.start(pipeline.WorkerConfig{Concurrency: 2, LeaseDuration: 200 * time.Millisecond, BatchTimeout: 300 * time.Millisecond}, pipeline.PromoterConfig{})
	defer stop()
	await(t, hung, "the encoder")
	eventually(t, 2*time.Minute, func() error {
		st, err := r.queue.Stats(context.Background())
		if err == nil && st.HandedOff+st.Acked != 50 {
			err = errors.New("the batch has not been staged by the other loop")
		}
		return err
	})
	close(release)
	r.settled()
	stop()
	r.check(want{rows: idsOf(records)})
}
