package queue_test

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// envWorker makes the test binary a worker of TestKilledWorkers; it holds the server's URL.
const envWorker, envName = "HEADRACE_QUEUE_TEST_WORKER", "HEADRACE_QUEUE_TEST_NAME"

var killConfig = queue.Config{Lease: queue.LeaseConfig{Records: 100, Duration: 700 * time.Millisecond, Backoff: 10 * time.Millisecond, PollInterval: 100 * time.Millisecond}, Logger: quiet}

// work leases, does its work, commits it and acknowledges, until it is killed.
func work() {
	o, err := rueidis.ParseURL(os.Getenv(envWorker))
	if err != nil {
		panic(err)
	}
	c, err := rueidis.NewClient(o)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	q, err := queue.New(ctx, c, os.Getenv(envName), killConfig)
	if err != nil {
		panic(err)
	}
	for {
		b, err := q.Lease(ctx, queue.LeaseOptions{})
		if err != nil {
			panic(err)
		}
		<-time.After(time.Duration(rand.IntN(40)) * time.Millisecond) // the work
		// The durable effect, once however often it is done: what the ledger is in a real pipeline.
		err = c.Do(ctx, c.B().Sadd().Key("done").Member(texts(b.Payloads)...).Build()).Error()
		if err != nil {
			panic(err)
		}
		if _, err := q.Ack(ctx, b.ID); err != nil {
			panic(err)
		}
	}
}

func TestKilledWorkers(t *testing.T) {
	n := 60_000
	if testing.Short() {
		n = 20_000
	}
	s := servertest.OwnRedis(t)
	c := s.Client(t)
	q := openAs(t, c, "killed", killConfig)
	ctx := t.Context()

	var workers [8]*exec.Cmd
	start := func(i int) {
		w := exec.Command(os.Args[0])
		w.Env = append(os.Environ(), envWorker+"="+s.URL, envName+"="+q.Name())
		w.Stderr = os.Stderr
		must(t, w.Start())
		workers[i] = w
	}
	kill := func(i int) {
		_ = workers[i].Process.Kill()
		_ = workers[i].Wait()
	}
	for i := range workers {
		start(i)
	}
	defer func() {
		for i := range workers {
			kill(i)
		}
	}()
	pushed := make(chan error, 1)
	go func() {
		for i := 0; i < n; i += 1000 {
			if err := q.Push(ctx, records(i, i+1000)...); err != nil {
				pushed <- err
				return
			}
		}
		pushed <- nil
	}()
	kills := 0
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(2 * time.Minute)
	for {
		<-tick.C
		st, err := q.Stats(ctx)
		must(t, err)
		if st.Imbalance() != 0 {
			t.Fatalf("%+v", st)
		}
		if int(st.Acked+st.Dead) == n {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not done: %+v", st)
		}
		i := rand.IntN(len(workers))
		kill(i)
		kills++
		start(i)
	}
	must(t, <-pushed)
	done, err := c.Do(ctx, c.B().Scard().Key("done").Build()).AsInt64()
	must(t, err)
	st := books(t, q)
	t.Logf("attempted %d, acked %d, lost %d, redelivered %d, dead %d, splits %d, kills %d", n, st.Acked, int64(n)-done-st.Dead, st.Redelivered, st.Dead, st.Splits, kills)
	if done != int64(n) || st.Acked != int64(n) || st.Dead != 0 || st.Redelivered == 0 {
		t.Fatalf("done %s: %+v", strconv.FormatInt(done, 10), st)
	}
}
