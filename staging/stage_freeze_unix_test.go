//go:build unix

package staging_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/internal/uid"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgxpool"
)

// frozen is a program that SIGSTOP holds at a point of its work, in the middle of a transaction.
type frozen struct {
	cmd *osexec.Cmd
	in  io.Writer
	out *bufio.Reader
}

func freeze(t *testing.T, url, table, point, batch string) *frozen {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := &frozen{cmd: osexec.CommandContext(t.Context(), self)}
	f.cmd.Env = append(os.Environ(), childThaw+"=1", childPoint+"="+point, childTable+"="+table, childURL+"="+url, childBatch+"="+batch, childName+"=frozen")
	f.cmd.Stderr = os.Stderr
	in, err1 := f.cmd.StdinPipe()
	out, err2 := f.cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	f.in, f.out = in, bufio.NewReader(out)
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, _ := f.out.ReadString('\n'); line != "at the point\n" {
		t.Fatalf("%s: the program said %q", point, line)
	}
	f.signal(t, syscall.SIGSTOP)
	return f
}

func (f *frozen) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := f.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// thaw lets the program go on, and returns the result that it reports.
func (f *frozen) thaw(t *testing.T) string {
	t.Helper()
	f.signal(t, syscall.SIGCONT)
	if _, err := io.WriteString(f.in, "go on\n"); err != nil {
		t.Fatal(err)
	}
	line, err := f.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := f.cmd.Wait(); err != nil {
		t.Errorf("%v after %q", err, line)
	}
	return line
}

// promoteAll promotes until so many rows are in the target. The frozen worker stays frozen for
// longer than the minute that this may take.
func promoteAll(t *testing.T, tab *staging.Table[item], rows int) {
	t.Helper()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for rows > 0 {
		p, err := tab.Promote(ctx, staging.PromoteOptions{})
		if err != nil && !errors.Is(err, staging.ErrBusy) || ctx.Err() != nil {
			t.Fatalf("%d rows not promoted after %v: %v", rows, time.Since(begun), err)
		}
		rows -= p.Rows
	}
	t.Logf("promoted after %v", time.Since(begun))
}

// each fails unless the table has so many rows, all different.
func each(t *testing.T, pool *pgxpool.Pool, table string, want int) {
	t.Helper()
	rows, ids := query[int](t, pool, `SELECT count(*) FROM "`+table+`"`), query[int](t, pool, `SELECT count(DISTINCT id) FROM "`+table+`"`)
	if rows != want || ids != want {
		t.Errorf("%d rows of %d ids, want %d", rows, ids, want)
	}
}

// A worker that is stalled in its transaction, in the middle of its COPY too, for which Postgres
// has no timeout.
func TestAFrozenWorkerDelaysNoOther(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	url := pool.Config().ConnString()
	for _, point := range []string{"worker before copy", "worker mid copy", "worker after copy", "worker before commit"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			tab := newTable(t, pool, point, impatient)
			stage(t, tab, load(items("good", 5)...), staging.OutcomeStaged)
			id := uid.New()
			f := freeze(t, url, point, point, id)
			promoteAll(t, tab, 5)
			if said := f.thaw(t); !strings.HasPrefix(said, "staged: false, ") || strings.HasSuffix(said, "<nil>\n") {
				t.Errorf("the thawed worker said %q", said)
			}
			stage(t, tab, crashLoad(id, "frozen"), staging.OutcomeStaged)
			promoteAll(t, tab, crashRows)
			each(t, pool, point, 5+crashRows)
		})
	}
}

func TestAFrozenPromoterDelaysNoOther(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	url := pool.Config().ConnString()
	for _, point := range []string{"promoter after flip", "promoter after lock", "promoter after ledger", "promoter after insert", "promoter before commit"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			tab := newTable(t, pool, point, impatient)
			f := freeze(t, url, point, point, uid.New())
			stage(t, tab, load(items("good", 5)...), staging.OutcomeStaged)
			promoteAll(t, tab, crashRows+5)
			if said := f.thaw(t); !strings.HasPrefix(said, "promoted: 0, ") {
				t.Errorf("the thawed promoter said %q", said)
			}
			promote(t, tab)
			each(t, pool, point, crashRows+5)
		})
	}
}

// A COPY that is slow and moves is left alone, however long it takes: no row is encoded twice.
func TestASlowCopyIsLeftAlone(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	var encoded atomic.Int64
	config := impatient
	config.Columns = []staging.Column{{Name: "id", Type: "text"}, {Name: "note", Type: "text"}}
	config.Fill = func(v *item, r *staging.Row) {
		encoded.Add(1)
		r.String(v.ID)
		r.String(strings.Repeat("x", 10_000))
	}
	tab, err := staging.New(t.Context(), pool, "slow", config)
	if err != nil {
		t.Fatal(err)
	}
	stage(t, tab, load(items("a", 5)...), staging.OutcomeStaged) // so that a promoter takes the side
	encoded.Store(0)
	const rows = 200
	slow := load(items("b", rows)...)
	entered := make(chan struct{})
	var once sync.Once
	slow.Encoding = func(begins bool) error {
		if begins {
			once.Do(func() { close(entered) })
			<-time.After(50 * time.Millisecond) // a slow client: 64 KB each time, longer than all the timeouts in sum
		}
		return nil
	}
	staged := make(chan error, 1)
	go func() {
		o, err := tab.Stage(t.Context(), slow)
		if err == nil && o != staging.OutcomeStaged {
			err = errors.New(o.String())
		}
		staged <- err
	}()
	<-entered
	promoteAll(t, tab, 5+rows)
	if err := <-staged; err != nil {
		t.Fatal(err)
	}
	if n := encoded.Load(); n != rows {
		t.Errorf("%d rows encoded, want %d: the COPY was interrupted", n, rows)
	}
	each(t, pool, "slow", 5+rows)
}
