package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// The environment of a child process: where it kills itself, and its stores.
const (
	childPoint = "PIPELINE_TEST_POINT"
	childRedis = "PIPELINE_TEST_REDIS"
	childPG    = "PIPELINE_TEST_POSTGRES"
	childName  = "PIPELINE_TEST_NAME"
)

var (
	workerPoints   = []string{"before copy", "between copy and hand-off", "after hand-off"}
	promoterPoints = []string{"before promotion", "between commit and ack", "after ack"}
)

// child runs a worker and a promoter until one reaches the point at which the process is killed, as
// kill -9 would.
func child() {
	ctx := context.Background()
	opt, err := rueidis.ParseURL(os.Getenv(childRedis))
	fatal(err)
	redis, err := rueidis.NewClient(opt)
	fatal(err)
	pool, err := pgxpool.New(ctx, os.Getenv(childPG))
	fatal(err)
	r, err := openRig(ctx, rigOptions{redis: redis, pool: pool, name: os.Getenv(childName)})
	fatal(err)
	point := os.Getenv(childPoint)
	if point == inEncoder {
		fatal(fillDeadly(ctx, r))
	}
	r.flow.Table = &killTable{r.flow.Table, point, new(atomic.Bool)}
	r.flow.Queue = &killQueue{r.queue, point}
	worker, err := pipeline.NewWorker(r.flow, pipeline.WorkerConfig{Records: 50, Linger: time.Millisecond, LeaseDuration: 200 * time.Millisecond, Logger: quiet})
	fatal(err)
	promoter, err := pipeline.NewPromoter(r.flow, pipeline.PromoterConfig{PollInterval: 20 * time.Millisecond, Logger: quiet})
	fatal(err)
	var wg sync.WaitGroup
	wg.Go(func() { fatal(worker.Run(ctx)) })
	if slices.Contains(promoterPoints, point) {
		wg.Go(func() { fatal(promoter.Run(ctx)) })
	}
	wg.Wait()
	os.Exit(3)
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(2)
	}
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

type killTable struct {
	pipeline.Table[item]
	point  string
	waited *atomic.Bool // Redis knows that a batch waits
}

func (k *killTable) Stage(ctx context.Context, l staging.Load[item]) (staging.Outcome, error) {
	if k.point == whileWaiting || k.point == inEncoder && k.waited.CompareAndSwap(false, true) {
		// Postgres is away. Go on when Redis knows that the batch waits.
		t := time.NewTimer(100 * time.Millisecond)
		defer t.Stop()
		<-t.C
		return 0, pipeline.Unavailable(errLostReply)
	}
	if k.point == "before copy" {
		die()
	}
	o, err := k.Table.Stage(ctx, l)
	if k.point == "between copy and hand-off" && err == nil {
		die()
	}
	return o, err
}

func (k *killTable) Promote(ctx context.Context, o staging.PromoteOptions) (staging.PromoteResult, error) {
	if k.point == "before promotion" {
		if f, err := k.BooksSince(ctx, time.Time{}); err != nil || f.Batches >= 0 {
			die()
		}
	}
	p, err := k.Table.Promote(ctx, o)
	if k.point == "between commit and ack" && len(p.Batches) > 0 {
		die()
	}
	return p, err
}

type killQueue struct {
	*queue.Queue
	point string
}

func (k *killQueue) Handoff(ctx context.Context, b *queue.Batch) error {
	err := k.Queue.Handoff(ctx, b)
	if k.point == "after hand-off" && err == nil {
		die()
	}
	return err
}

func (k *killQueue) ExtendWaiting(ctx context.Context, b *queue.Batch, d time.Duration) error {
	err := k.Queue.ExtendWaiting(ctx, b, d)
	if k.point == whileWaiting && err == nil {
		die()
	}
	return err
}

func (k *killQueue) AckWith(ctx context.Context, acks ...queue.Ack) (int, error) {
	n, err := k.Queue.AckWith(ctx, acks...)
	if k.point == "after ack" && n > 0 {
		die()
	}
	return n, err
}

// A process is killed with -9 at each point of the protocol, several times over, then a healthy one
// finishes: nothing lost, nothing twice.
func TestKilledAtEveryPoint(t *testing.T) {
	t.Parallel()
	for _, point := range slices.Concat(workerPoints, promoterPoints) {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			r, dbURL, name := rigForChildren(t, queue.LeaseConfig{MaxCrashes: 20})
			good := numbered("a", 400, "good")
			r.push(good...)
			r.push(good[:20]...)
			r.push("x refuse", "y rule", "z filter")
			killed := 0
			for range 3 {
				if !runChild(t, point, dbURL, name, 6*time.Second) {
					break
				}
				killed++
			}
			if killed == 0 {
				t.Fatal("the child never reached the point")
			}
			stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
			defer stop()
			r.settled()
			stop()
			r.check(want{rows: idsOf(good), rejects: []string{"x", "y"}})
			t.Logf("%s: killed %d times, %d records: lost 0, doubled 0", point, killed, len(r.pushed))
		})
	}
}

// Points at which a child dies that the tests below use.
const (
	whileWaiting = "while waiting for Postgres"
	inEncoder    = "in the encoder"
)

// fillDeadly gives the flow a table whose Fill kills the process for a poison record.
func fillDeadly(ctx context.Context, r *rig) error {
	table, err := staging.New(ctx, r.pool, "items", staging.Config[item]{
		Columns: []staging.Column{{Name: "id"}, {Name: "kind"}}, ID: "id", IDOf: func(v *item) string { return v.ID },
		Fill: func(v *item, row *staging.Row) {
			if v.Kind == "poison" {
				die()
			}
			row.String(v.ID)
			row.String(v.Kind)
		},
	})
	r.flow.Table = table
	return err
}

// runChild runs a child that kills itself at a point. It reports whether it did.
func runChild(t *testing.T, point, dbURL, name string, limit time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
	c.Env = append(os.Environ(), childPoint+"="+point, childRedis+"="+servertest.RedisURL(t), childPG+"="+dbURL, childName+"="+name)
	c.Stderr = os.Stderr
	err := c.Run()
	if ctx.Err() != nil {
		return false // nothing was left for it to do
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with %v, not by its own kill -9", err)
	}
	return true
}

// rigForChildren returns a rig whose stores a child process can open.
func rigForChildren(t *testing.T, lease queue.LeaseConfig) (r *rig, dbURL, name string) {
	t.Helper()
	dbURL, name = servertest.PostgresURL(t), servertest.Prefix(t)
	pool, err := pgxpool.New(t.Context(), dbURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return newRig(t, rigOptions{pool: pool, name: name, lease: lease}), dbURL, name
}

// Workers are killed again and again while their batch waits for Postgres. The batch is not
// suspected: one such death would be enough to split it here.
func TestKilledWhileWaitingIsNotSuspected(t *testing.T) {
	t.Parallel()
	r, dbURL, name := rigForChildren(t, queue.LeaseConfig{MaxCrashes: 1})
	records := numbered("a", 3, "good")
	r.push(records...)
	for i := range 4 {
		if !runChild(t, whileWaiting, dbURL, name, time.Minute) {
			t.Fatalf("child %d did not come to wait", i)
		}
	}
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	r.check(want{rows: idsOf(records)})
	st, err := r.queue.Stats(context.Background())
	if err != nil || st.Splits != 0 || st.Redelivered == 0 {
		t.Errorf("splits %d, redelivered %d, %v, want no split", st.Splits, st.Redelivered, err)
	}
}

// A record whose encoding kills the process is found, also when its batch has waited for Postgres
// before. Its neighbours go through.
func TestRecordThatKillsTheEncoderIsFound(t *testing.T) {
	t.Parallel()
	// A neighbour that a child holds when it dies is innocent, and its crash is counted. The last
	// worker, which does not die, allows for that. The children split after the usual number.
	r, dbURL, name := rigForChildren(t, queue.LeaseConfig{MaxCrashes: 6})
	good := numbered("a", 3, "good")
	r.push(append([]string{"p poison"}, good...)...)
	deaths := 0
	for ; deaths < 60; deaths++ {
		st, err := r.queue.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st.Dead > 0 || !runChild(t, inEncoder, dbURL, name, 6*time.Second) {
			break
		}
	}
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	r.check(want{rows: idsOf(good), dead: []string{"p"}})
	t.Logf("found after %d deaths", deaths)
}

// The postmaster is killed with -9 while staging is full: recovery empties the UNLOGGED tables. The
// batches are redelivered at once.
func TestPostgresCrashWithFullStaging(t *testing.T) {
	t.Parallel()
	pg := servertest.OwnPostgres(t)
	r := newRig(t, rigOptions{pool: pg.Pool(t)})
	good := numbered("a", 2000, "good")
	r.push(good...)
	r.push(good[:100]...)
	r.push("x refuse", "y rule", "z filter")

	ctx, cancel := context.WithCancel(context.Background())
	wait := r.startWorker(ctx, pipeline.WorkerConfig{})
	eventually(t, 2*time.Minute, func() error { return r.allHanded() })
	cancel()
	wait()
	var staged int
	if err := r.pool.QueryRow(ctx2(t), "SELECT (SELECT count(*) FROM items_staging_a) + (SELECT count(*) FROM items_staging_b)").Scan(&staged); err != nil || staged < 2000 {
		t.Fatalf("staging holds %d rows, %v: want a full one", staged, err)
	}

	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Minute, func() error {
		return r.pool.QueryRow(ctx2(t), "SELECT (SELECT count(*) FROM items_staging_a) + (SELECT count(*) FROM items_staging_b)").Scan(&staged)
	})
	if staged != 0 {
		t.Fatalf("after the crash staging holds %d rows: the test did not crash Postgres", staged)
	}
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{ReconcileInterval: time.Hour}) // noticed, not found by the clock
	defer stop()
	r.settled()
	stop()
	r.check(want{rows: idsOf(good), rejects: []string{"x", "y"}})
	if books, err := r.flow.Books(ctx2(t)); err != nil || books.Redis.Redelivered == 0 {
		t.Errorf("redelivered %d, %v: want the batches that were staged", books.Redis.Redelivered, err)
	}
}

// The same while everything runs, several times: workers and promoter live through it.
func TestPostgresCrashesWhileRunning(t *testing.T) {
	t.Parallel()
	pg := servertest.OwnPostgres(t)
	r := newRig(t, rigOptions{pool: pg.Pool(t)})
	good := numbered("a", 5000, "good")
	stop := r.start(pipeline.WorkerConfig{Records: 50}, pipeline.PromoterConfig{})
	defer stop()
	for i := range 5 {
		r.push(good[i*1000 : (i+1)*1000]...)
		if i == 4 {
			break
		}
		target := int64(i*1000 + rand.IntN(700))
		eventually(t, 2*time.Minute, func() error {
			st, err := r.queue.Stats(ctx2(t))
			if err == nil && st.Taken < target {
				err = fmt.Errorf("taken %d of %d", st.Taken, target)
			}
			return err
		})
		if err := pg.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := pg.Start(); err != nil {
			t.Fatal(err)
		}
	}
	r.settled()
	stop()
	r.check(want{rows: idsOf(good)})
}

// Redis is killed with -9 several times while everything runs. Its append-only file keeps what it
// acknowledged, so each record is promoted once, also those whose lease, claim or acknowledgement
// was under way.
func TestRedisCrashesWhileRunning(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	r := newRig(t, rigOptions{redis: own.Client(t)})
	good := numbered("a", 5000, "good")
	stop := r.start(pipeline.WorkerConfig{Records: 50, LeaseDuration: 2 * time.Second}, pipeline.PromoterConfig{ReconcileInterval: time.Second})
	defer stop()
	const crashes = 4
	for i := range crashes + 1 {
		r.push(good[i*1000 : (i+1)*1000]...)
		r.push(good[i*1000 : i*1000+10]...) // duplicates
		if i == crashes {
			break
		}
		target := int64(i*1000 + rand.IntN(700))
		eventually(t, 2*time.Minute, func() error {
			st, err := r.queue.Stats(ctx2(t))
			if err == nil && st.Taken < target {
				err = fmt.Errorf("taken %d of %d", st.Taken, target)
			}
			return err
		})
		if err := own.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := own.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 2*time.Minute, func() error {
			_, err := r.queue.Stats(ctx2(t))
			return err
		})
	}
	r.settled()
	stop()
	r.check(want{rows: idsOf(good)})
}

func (r *rig) allHanded() error {
	st, err := r.queue.Stats(context.Background())
	if err == nil && st.HandedOff != int64(len(r.pushed)) {
		err = fmt.Errorf("%d of %d records handed off", st.HandedOff, len(r.pushed))
	}
	return err
}

// ctx2 is a context that outlives nothing but the test's own deadline.
func ctx2(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
