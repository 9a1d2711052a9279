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
	if point == inEncoder || point == amongOthers {
		fatal(fillDeadly(ctx, r))
	}
	r.flow.Table = &killTable{r.flow.Table, point, new(atomic.Bool)}
	r.flow.Queue = &killQueue{r.queue, point}
	records, concurrency := 50, 0
	if point == amongOthers {
		records, concurrency = 1, 6
	}
	worker, err := pipeline.NewWorker(r.flow, pipeline.WorkerConfig{Records: records, Concurrency: concurrency, Linger: time.Millisecond, LeaseDuration: 200 * time.Millisecond, Logger: quiet})
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
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Kill()
	}
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
				ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
				died := runChild(ctx, t, point, dbURL, name)
				cancel()
				if !died {
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
	amongOthers  = "in the encoder, with other batches in the encoder"
)

// fillDeadly gives the flow a table whose Fill kills the process for a poison record.
func fillDeadly(ctx context.Context, r *rig) error {
	table, err := staging.New(ctx, r.pool, "items", staging.Config[item]{
		Columns: []staging.Column{{Name: "id"}, {Name: "kind"}}, ID: "id", IDOf: func(v *item) string { return v.ID },
		Fill: func(v *item, row *staging.Row) {
			if os.Getenv(childPoint) == amongOthers {
				<-time.After(map[bool]time.Duration{true: 20, false: 100}[v.Kind == "poison"] * time.Millisecond)
			}
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

// runChild runs a child that kills itself at a point. It reports whether it did. When ctx is done,
// the child is killed from outside.
func runChild(ctx context.Context, t *testing.T, point, dbURL, name string) bool {
	t.Helper()
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
		if !runChild(t.Context(), t, whileWaiting, dbURL, name) {
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

// untilBuried runs children, one after the other, until a record is dead. It returns how many died.
func untilBuried(t *testing.T, r *rig, point, dbURL, name string) (deaths int) {
	t.Helper()
	found, stopChild := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stopChild()
	watch.Go(func() {
		defer stopChild()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if st, err := r.queue.Stats(found); found.Err() != nil || err == nil && st.Dead > 0 {
				return
			}
			<-tick.C
		}
	})
	for found.Err() == nil && runChild(found, t, point, dbURL, name) {
		deaths++
	}
	return deaths
}

// buriesTheKillerAlone pushes a record that kills children at a point, and seven good ones. It
// checks that the children bury that record and that the others go through.
func buriesTheKillerAlone(t *testing.T, point string) {
	t.Helper()
	r, dbURL, name := rigForChildren(t, queue.LeaseConfig{})
	good := numbered("a", 7, "good")
	r.push(append([]string{"p poison"}, good...)...)
	deaths := untilBuried(t, r, point, dbURL, name)
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	r.check(want{rows: idsOf(good), dead: []string{"p"}})
	t.Logf("found after %d deaths", deaths)
}

// A record kills each process that works on it, while that process also works on other batches.
// Each of those was there for a single death at most, and none is buried. The innocent are slow to
// encode, so a process always dies with all its hands full.
func TestNeighboursOfAKillerAreNotBlamed(t *testing.T) {
	t.Parallel()
	buriesTheKillerAlone(t, amongOthers)
}

// A record whose encoding kills the process is found, also when its batch has waited for Postgres
// before. Its neighbours go through.
func TestRecordThatKillsTheEncoderIsFound(t *testing.T) {
	t.Parallel()
	// The children work on several batches at a time, and split one after the usual number of
	// crashes. A batch that was in a child's hands at one death is innocent.
	buriesTheKillerAlone(t, inEncoder)
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
