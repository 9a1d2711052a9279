package staging_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The child program of the crash tests gets its orders in the environment.
const (
	childPoint = "HEADRACE_STAGING_CHILD" // where it stops to be killed
	childURL   = "HEADRACE_STAGING_URL"
	childBatch = "HEADRACE_STAGING_BATCH"
	childName  = "HEADRACE_STAGING_NAME"
	childTable = "HEADRACE_STAGING_TABLE"
	childThaw  = "HEADRACE_STAGING_THAW" // set: it waits for a line to read instead of its death, and then prints its outcome
)

// impatient is the configuration of both sides here. What a frozen program holds is free again
// after about the longest of these.
var impatient = staging.Config[item]{Create: true, LockTimeout: 200 * time.Millisecond, IdleTimeout: 300 * time.Millisecond, StageTimeout: 300 * time.Millisecond}

const crashRows = 3000

// child stages a batch and promotes what there is, reports when it has reached its point, and stops
// there forever.
func child() {
	fail := func(err error) {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv(childURL))
	if err != nil {
		fail(err)
	}
	cfg := staging.Config[item]{Create: true}
	if os.Getenv(childThaw) != "" {
		cfg = impatient
	}
	tab, err := staging.New(ctx, pool, os.Getenv(childTable), cfg)
	if err != nil {
		fail(err)
	}
	stopped := false
	stop := func(who string) func(string) error {
		return func(point string) error {
			if stopped || who+" "+point != os.Getenv(childPoint) {
				return nil
			}
			stopped = true
			fmt.Println("at the point")
			if os.Getenv(childThaw) == "" {
				select {}
			}
			_, err := bufio.NewReader(os.Stdin).ReadString('\n')
			return err
		}
	}
	tab.SetHook(stop("worker"))
	out, err := tab.Stage(ctx, crashLoad(os.Getenv(childBatch), os.Getenv(childName)))
	if stopped {
		fmt.Printf("staged: %v, %v\n", out == staging.OutcomeStaged, err)
		os.Exit(0)
	}
	if err != nil {
		fail(err)
	}
	tab.SetHook(stop("promoter"))
	p, err := tab.Promote(ctx, staging.PromoteOptions{})
	if stopped {
		fmt.Printf("promoted: %d, %v\n", p.Rows, err)
		os.Exit(0)
	}
	if err != nil {
		fail(err)
	}
	fail(errors.New("the point was never reached"))
}

func crashLoad(id, name string) staging.Load[item] {
	l := load(items(name, crashRows)...)
	l.Batch.ID = id
	return l
}

// restart starts a killed Postgres. While backends of the old postmaster are still ending, a new
// one refuses.
func restart(s *servers.PostgresServer) error {
	for deadline := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) {
		if err := s.Start(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// TestKilledAtEveryPoint kills a program at every named point of its work, and Postgres with it
// every second time. HEADRACE_KILLS sets how often at each point. What the queue would do
// afterwards is done here: ask for the batch's fate, and deliver it again if it is unknown. There
// is no key: a row that came twice would stay. Each point has a target of its own, so that all the
// programs of a round can stop at their points while Postgres is killed once.
func TestKilledAtEveryPoint(t *testing.T) {
	t.Parallel()
	rounds := 10
	if s := os.Getenv("HEADRACE_KILLS"); s != "" {
		rounds, _ = strconv.Atoi(s)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := servertest.OwnPostgres(t)
	pool := s.Pool(t)
	points := []string{
		"worker before copy", "worker mid copy", "worker after copy", "worker before commit", "worker after commit",
		"promoter after flip", "promoter after lock", "promoter after ledger", "promoter after insert", "promoter before commit",
		"promoter after commit", // and before the acknowledgement
	}
	tables := make([]*staging.Table[item], len(points))
	epochs := make([]string, len(points))
	for i, p := range points {
		tables[i] = newTable(t, pool, p, staging.Config[item]{Create: true, LockTimeout: 10 * time.Second})
		if epochs[i], err = tables[i].Epoch(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	kills, crashes, redelivered := 0, 0, 0
	for round := range rounds {
		ids, children := make([]string, len(points)), make([]*osexec.Cmd, len(points))
		for i, p := range points {
			ids[i] = uid.New()
			cmd := osexec.CommandContext(t.Context(), self)
			cmd.Env = append(os.Environ(), childPoint+"="+p, childTable+"="+p, childURL+"="+s.URL, childBatch+"="+ids[i], childName+"="+strconv.Itoa(round))
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			if line, _ := bufio.NewReader(out).ReadString('\n'); line != "at the point\n" {
				t.Fatalf("%s, round %d: the child said %q", p, round, line)
			}
			children[i] = cmd
		}
		withServer := round%2 == 1
		if withServer {
			err = s.Kill()
			crashes++
		}
		for _, c := range children {
			err = errors.Join(err, c.Process.Kill())
			c.Wait() //nolint:errcheck // it was killed
			kills++
		}
		if withServer {
			err = errors.Join(err, restart(s))
			pool.Reset()
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range points {
			tab := tables[i]
			// As reconcile does: what is unknown is redelivered.
			if f := fates(t, tab, ids[i]); f[0] == staging.FateUnknown {
				redelivered++
				if _, err := tab.Stage(t.Context(), crashLoad(ids[i], strconv.Itoa(round))); err != nil {
					t.Fatal(err)
				}
			}
			pr := promote(t, tab)
			if len(pr.Mismatched) > 0 || withServer == (pr.Epoch == epochs[i]) {
				t.Errorf("%s, round %d: Postgres killed: %v, epoch was %q: %+v", p, round, withServer, epochs[i], pr)
			}
			epochs[i] = pr.Epoch
			if f := fates(t, tab, ids[i]); f[0] != staging.FatePromoted {
				t.Errorf("%s, round %d: %v after recovery", p, round, f[0])
			}
		}
	}
	lost, doubled := 0, 0
	for i, p := range points {
		lost += rounds*crashRows - query[int](t, pool, `SELECT count(DISTINCT id) FROM "`+p+`"`)
		doubled += query[int](t, pool, `SELECT count(*) - count(DISTINCT id) FROM "`+p+`"`)
		if b := balanced(t, tables[i]); b.Batches != int64(rounds) || b.Rows != int64(rounds*crashRows) {
			t.Errorf("%s: books %+v", p, b)
		}
	}
	if lost != 0 || doubled != 0 {
		t.Errorf("lost %d, doubled %d", lost, doubled)
	}
	t.Logf("%d points, %d programs killed, with Postgres %d times; %d batches of %d rows: redelivered %d, lost %d, duplicated %d",
		len(points), kills, crashes, kills, crashRows, redelivered, lost, doubled)
}
