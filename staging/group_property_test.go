package staging_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgxpool"
)

var errDead = errors.New("dead")

// mortal draws the points at which the calls of a group die.
type mortal struct {
	mu   sync.Mutex
	rnd  *rand.Rand
	dies int // one in so many points
	died int
}

func (m *mortal) draw(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rnd.IntN(n)
}

func (m *mortal) at(string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rnd.IntN(m.dies) > 0 {
		return nil
	}
	m.died++
	return errDead
}

// history is a few batches on their way through two workers and two promoters.
type history struct {
	t        *testing.T
	pool     *pgxpool.Pool
	programs [2]sales
	m        *mortal
	loads    []staging.Load[sale]
	void     []bool
}

// harmless are the errors that a program meets here and goes on after.
func harmless(err error) bool {
	return err == nil || errors.Is(err, errDead) || errors.Is(err, staging.ErrBusy)
}

// work stages what is unknown, as a queue that redelivers would, until every batch is settled.
func (h *history) work(ctx context.Context, g sales) error {
	ids := make([]string, len(h.loads))
	for i, l := range h.loads {
		ids[i] = l.Batch.ID
	}
	for {
		fates, err := g.Fates(ctx, ids)
		if !harmless(err) {
			return err
		}
		if err != nil {
			continue
		}
		open := 0
		for i, f := range fates {
			if f == staging.FatePromoted || f == staging.FateVoid {
				continue
			}
			open++
			if h.void[i] && h.m.draw(4) == 0 {
				if _, err := g.Void(ctx, h.loads[i].Batch); !harmless(err) {
					return err
				}
			}
			if f == staging.FateStaged && h.m.draw(10) > 0 {
				continue // now and then a worker has a batch that is staged already
			}
			if _, err := g.Stage(ctx, h.loads[i]); !harmless(err) {
				return err
			}
		}
		if open == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// promote promotes until done is closed. Now and then a table is emptied by hand.
func (h *history) promote(ctx context.Context, g sales, done <-chan struct{}) error {
	for {
		if h.m.draw(12) == 0 {
			target := salesTargets[h.m.draw(len(salesTargets))] + [...]string{"_staging_", "_registry_"}[h.m.draw(2)] + [...]string{"a", "b"}[h.m.draw(2)]
			if _, err := h.pool.Exec(ctx, "TRUNCATE "+target); err != nil {
				return err
			}
		}
		if _, err := g.Promote(ctx, staging.PromoteOptions{MaxRows: 1 + h.m.draw(400)}); !harmless(err) {
			return err
		}
		select {
		case <-done:
			return nil
		case <-time.After(time.Duration(h.m.draw(20)) * time.Millisecond):
		}
	}
}

// TestGroupHistories draws records with bad rows in any table, and deaths at every point of two
// workers and two promoters; some batches are void, and now and then a table is emptied by hand.
// In the end each record is kept whole or rejected whole, once. HEADRACE_HISTORIES sets the number
// of histories, HEADRACE_SEED the seed.
func TestGroupHistories(t *testing.T) {
	t.Parallel()
	histories, seed := 2, rand.Uint64()
	if s := os.Getenv("HEADRACE_HISTORIES"); s != "" {
		histories, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("HEADRACE_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	for n := range histories {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, uint64(n)))
			t.Logf("seed %d, history %d", seed, n)
			h := &history{t: t, pool: servertest.Postgres(t), m: &mortal{rnd: rand.New(rand.NewPCG(seed, ^uint64(n))), dies: 12}}
			exec(t, h.pool, salesTables)
			for i := range h.programs {
				h.programs[i] = openSales(t, h.pool)
				h.programs[i].SetHook(h.m.at)
				if r.IntN(2) == 0 {
					h.programs[i].heads.SetParts(int64(1+r.IntN(20)), int64(1+r.IntN(20)), r.IntN(3) > 0)
					h.programs[i].lines.SetParts(int64(1+r.IntN(20)), int64(1+r.IntN(20)), r.IntN(3) > 0)
				}
			}
			var all []placed
			for i := range 6 + r.IntN(4) {
				var l staging.Load[sale]
				var here []placed
				for k := range 1 + r.IntN(60) {
					id := fmt.Sprintf("s%d-%d", i, k)
					s, bad := drawSale(r, id)
					l.Rows = append(l.Rows, s)
					here = append(here, placed{id: id, sale: s, bad: bad})
				}
				l = salesLoad(l.Rows...)
				for k := range here {
					here[k].place = fmt.Sprintf("%s %d", l.Batch.ID, k)
				}
				h.loads, h.void = append(h.loads, l), append(h.void, r.IntN(8) == 0)
				all = append(all, here...)
			}
			h.run()
			g := openSales(t, h.pool)
			for i, l := range h.loads { // a void that came too late changes nothing
				if f, err := g.Fates(t.Context(), []string{l.Batch.ID}); err != nil || f[0] == staging.FateVoid {
					all = slices.DeleteFunc(all, func(p placed) bool { return p.place[:36] == l.Batch.ID })
				} else if f[0] != staging.FatePromoted {
					t.Errorf("batch %d is %v", i, f[0])
				}
			}
			checkSales(t, h.pool, g, all)
			t.Logf("%d batches, %d sales, %d deaths", len(h.loads), len(all), h.m.died)
		})
	}
}

func (h *history) run() {
	ctx, cancel := context.WithTimeout(h.t.Context(), 5*time.Minute)
	defer cancel()
	done := make(chan struct{})
	var workers, promoters sync.WaitGroup
	for _, g := range h.programs {
		workers.Go(func() {
			if err := h.work(ctx, g); err != nil {
				h.t.Errorf("a worker: %v", err)
				cancel()
			}
		})
		promoters.Go(func() {
			if err := h.promote(ctx, g, done); err != nil {
				h.t.Errorf("a promoter: %v", err)
				cancel()
			}
		})
	}
	workers.Wait()
	close(done)
	promoters.Wait()
}
