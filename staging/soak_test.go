package staging_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// TestWritersAndPromoters: N writers and M promoters at once, batches of random sizes, COPY slowed
// at random, every third batch staged by two workers, some voided while they are staged. Rows in =
// rows out, each batch once in the ledger. It runs for HEADRACE_SOAK (a duration), or two seconds.
func TestWritersAndPromoters(t *testing.T) {
	t.Parallel()
	const writers, promoters = 6, 3
	d := 2 * time.Second
	if s := os.Getenv("HEADRACE_SOAK"); s != "" {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	pool := poolIn(t, servertest.PostgresURL(t), modes[0], writers+promoters+4)
	var in, voided, batches, promoted, busy atomic.Int64
	var wg, pg sync.WaitGroup
	end := time.Now().Add(d)
	stop := make(chan struct{})
	table := func() *staging.Table[item] {
		tab := ledgerOnly(t, pool, staging.Config[item]{})
		tab.SetHook(func(p string) error {
			if (p == "mid copy" || p == "after copy") && rand.IntN(4) == 0 {
				<-time.After(time.Duration(rand.IntN(20)) * time.Millisecond)
			}
			return nil
		})
		return tab
	}
	stageTwice := func(tab *staging.Table[item], l staging.Load[item]) error {
		for {
			_, err := tab.Stage(t.Context(), l)
			if !errors.Is(err, staging.ErrBusy) {
				return err
			}
			busy.Add(1)
		}
	}
	for w := range writers {
		one, two := table(), table()
		wg.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				l := load(items(fmt.Sprintf("%d-%d", w, n), 1+rand.IntN(500))...)
				errs := make(chan error, 1)
				if n%3 == 0 {
					go func() { errs <- stageTwice(two, l) }()
				} else {
					errs <- nil
				}
				if err := errors.Join(stageTwice(one, l), <-errs); err != nil {
					t.Error(err)
					return
				}
				batches.Add(1)
				if n%7 == 0 {
					f, err := one.Void(t.Context(), l.Batch)
					if err != nil {
						t.Error(err)
						return
					}
					if f == staging.FateVoid {
						voided.Add(1)
						continue
					}
				}
				in.Add(int64(len(l.Rows)))
			}
		})
	}
	for range promoters {
		tab := table()
		pg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				p, err := tab.Promote(t.Context(), staging.PromoteOptions{MaxRows: 1 + rand.IntN(20000)})
				if err != nil && !errors.Is(err, staging.ErrBusy) || len(p.Mismatched) > 0 {
					t.Errorf("%+v, %v", p, err)
					return
				}
				promoted.Add(int64(p.Rows))
				if len(p.Batches) == 0 {
					<-time.After(time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	pg.Wait()
	tab := table()
	for p := promote(t, tab); len(p.Batches) > 0 || p.More; p = promote(t, tab) {
		promoted.Add(int64(p.Rows))
	}
	b := balanced(t, tab)
	out := query[int64](t, pool, "SELECT count(*) FROM items")
	if in.Load() != out || promoted.Load() != out || b.Rows != out || b.Batches+b.Void != batches.Load() || b.Void != voided.Load() {
		t.Errorf("rows in %d, out %d, promoted %d; batches %d, void %d; books %+v", in.Load(), out, promoted.Load(), batches.Load(), voided.Load(), b)
	}
	count(t, pool, int(out))
	t.Logf("%v: %d batches, %d of them void; rows in %d, out %d, lost %d, doubled 0; busy %d", d, batches.Load(), voided.Load(), in.Load(), out, in.Load()-out, busy.Load())
}
