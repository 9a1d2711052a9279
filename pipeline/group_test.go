package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// part is a row of the second table of a group.
type part struct {
	Item string `db:"item"`
	No   int64  `db:"no"`
}

// groupRig gives a rig's flow a group: each item and its two parts.
func groupRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	r := newRig(t, o)
	if _, err := r.pool.Exec(t.Context(), "CREATE TABLE parts (item text NOT NULL, no bigint CHECK (no >= 0))"); err != nil {
		t.Fatal(err)
	}
	parts, err := staging.New(t.Context(), r.pool, "parts", staging.Config[part]{ID: "item"})
	if err != nil {
		t.Fatal(err)
	}
	r.flow.Table = staging.Group(
		staging.Into(r.table, func(v item) []item { return []item{v} }),
		staging.Into(parts, func(v item) []part {
			if v.Kind == "part" {
				return []part{{v.ID, 1}, {v.ID, -1}}
			}
			return []part{{v.ID, 0}, {v.ID, 1}}
		}),
	)
	return r
}

// checkParts compares the second table with the first: two rows of each item, and no other.
func (r *rig) checkParts(items []string) {
	r.t.Helper()
	rows, err := r.pool.Query(context.Background(), "SELECT item FROM parts")
	if err != nil {
		r.t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		r.t.Fatal(err)
	}
	same(r.t, "parts", append(items, items...), got)
}

// Queue, chain, group and acknowledgement: a record with a bad row in one table is rejected in
// both, and its claim is given back, so that a corrected one with its id goes through. A poison
// record is isolated. All the others are in both tables, once.
func TestGroupOfTables(t *testing.T) {
	t.Parallel()
	poison := pipeline.Map("poison", func(v item) (item, error) {
		if v.Kind == "poison" {
			panic("poison")
		}
		return v, nil
	})
	r := groupRig(t, rigOptions{lease: queue.LeaseConfig{MaxFailures: 1}, stages: []pipeline.Stage[item, item]{poison}})
	good, filtered, ruled, bad := numbered("a", 500, "good"), numbered("f", 20, "filter"), numbered("r", 20, "rule"), numbered("p", 20, "part")
	r.push(good...)
	r.push(filtered...)
	r.push(ruled...)
	r.push(bad...)
	r.push("x poison")
	r.push(good[:50]...)
	stop := r.start(pipeline.WorkerConfig{}, pipeline.PromoterConfig{})
	r.settled()
	corrected := numbered("p", 20, "good")
	r.push(corrected...)
	r.settled()
	stop()
	rows := append(idsOf(good), idsOf(corrected)...)
	r.check(want{rows: rows, rejects: append(idsOf(ruled), idsOf(bad)...), dead: []string{"x"}})
	r.checkParts(rows)

	// The books have the details of the group: codes, stages and tables, which add up.
	books, err := r.flow.Books(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := books.Balanced(); err != nil {
		t.Error(err)
	}
	// Each ruled item and its two parts; each bad item, of which one part breaks the check.
	if got, want := fmt.Sprint(books.Rejects), "[{ruled 60 0} {sqlstate_23514 60 0}]"; got != want {
		t.Errorf("got rejects %s, want %s", got, want)
	}
	stages := map[string]staging.StageCount{}
	entered := books.Postgres.Records
	var names []string
	var dropped staging.StageCount
	for _, s := range books.Stages {
		if s.Entered != entered {
			t.Errorf("got %d records that came to stage %q, want the %d that the one before passed on", s.Entered, s.Stage, entered)
		}
		entered, names = s.Passed(), append(names, s.Stage)
		stages[s.Stage] = s
		dropped.Duplicates, dropped.Filtered, dropped.Rejected = dropped.Duplicates+s.Duplicates, dropped.Filtered+s.Filtered, dropped.Rejected+s.Rejected
	}
	if want := []string{"decode", "dedup", "wanted", "refuse", "poison"}; !slices.Equal(names, want) || entered != books.Postgres.Kept {
		t.Errorf("got stages %v with %d records passed, want %v with %d", names, entered, want, books.Postgres.Kept)
	}
	if stages["dedup"].Duplicates != 50 || stages["wanted"].Filtered != 20 {
		t.Errorf("got %+v, want 50 duplicates and 20 filtered", stages)
	}
	if p := books.Postgres; dropped.Duplicates != p.Duplicates || dropped.Filtered != p.Filtered || dropped.Rejected != p.Rejected {
		t.Errorf("the stages dropped %+v, want the sums of %+v", dropped, p)
	}
	var sum int64
	for _, b := range books.Tables {
		if err := b.Balanced(); err != nil {
			t.Errorf("%s: %v", b.Table, err)
		}
		sum += b.Rows
	}
	if len(books.Tables) != 2 || books.Tables[0].Rows != int64(len(rows)) || sum != books.Postgres.Rows {
		t.Errorf("got tables %+v, want %d items and twice as many parts", books.Tables, len(rows))
	}
	if books.Recent.Rows <= 0 {
		t.Errorf("got %+v for the last minute, want rows", books.Recent)
	}

	// Find looks into the ledger and into the rejects of every table of the group.
	for id, want := range map[string][]pipeline.Location{
		idsOf(good)[70]: {pipeline.LocationPromoted}, // by its batch: no index leads with an id
		idsOf(ruled)[3]: {pipeline.LocationRejected, pipeline.LocationRejected, pipeline.LocationRejected},
	} {
		found, err := r.flow.Find(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var got []pipeline.Location
		for _, p := range found.Places {
			got = append(got, p.Location)
		}
		if !slices.Equal(got, want) || strings.Contains(found.String(), "cannot be looked through") {
			t.Errorf("got %s, want the places %v", found, want)
		}
	}
}

type chaosGroup struct {
	pipeline.Table[item]
	c *chaos
}

func (t *chaosGroup) Stage(ctx context.Context, l staging.Load[item]) (o staging.Outcome, err error) {
	err = t.c.do(ctx, func() error { o, err = t.Table.Stage(context.WithoutCancel(ctx), l); return err })
	return o, err
}

func (t *chaosGroup) Promote(ctx context.Context, o staging.PromoteOptions) (p staging.PromoteResult, err error) {
	err = t.c.do(ctx, func() error { p, err = t.Table.Promote(ctx, o); return err })
	return p, err
}

func (t *chaosGroup) Void(ctx context.Context, b staging.Batch) (f staging.Fate, err error) {
	err = t.c.do(ctx, func() error { f, err = t.Table.Void(ctx, b); return err })
	return f, err
}

// Two workers and two promoters of a group whose calls fail, lose their replies or freeze past the
// lease: batches are redelivered, voided and split while others hold them.
func TestGroupInChaos(t *testing.T) {
	t.Parallel()
	r := groupRig(t, rigOptions{lease: queue.LeaseConfig{MaxCrashes: 1, MaxFailures: 1}})
	c := &chaos{rnd: rand.New(rand.NewPCG(11, 11)), rate: 0.2}
	whole := r.flow
	r.flow.Queue = &chaosQueue{r.queue, c}
	r.flow.Table = &chaosGroup{r.flow.Table, c}
	good, ruled, bad := numbered("a", 1500, "good"), numbered("r", 30, "rule"), numbered("p", 30, "part")
	r.push(good...)
	r.push(ruled...)
	r.push(bad...)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var waits []func()
	for range 2 {
		waits = append(waits,
			r.startWorker(ctx, pipeline.WorkerConfig{Concurrency: 3, Records: 60, LeaseDuration: 120 * time.Millisecond}),
			r.startPromoter(ctx, pipeline.PromoterConfig{PollInterval: 30 * time.Millisecond, ReconcileInterval: 50 * time.Millisecond}))
	}
	eventually(t, 2*time.Minute, func() error {
		st, err := r.queue.Stats(context.Background())
		if err == nil && st.Acked+st.Dead < int64(len(r.pushed))*8/10 {
			err = errors.New("not yet")
		}
		return err
	})
	c.mu.Lock()
	c.off = true
	c.mu.Unlock()
	// To the queue a lease that ran out is a crash, so a healthy record may be buried here.
	eventually(t, 2*time.Minute, func() error {
		if _, err := r.queue.RequeueAll(context.Background()); err != nil {
			return err
		}
		st, err := r.queue.Stats(context.Background())
		if err == nil && st.Acked != int64(len(r.pushed)) {
			err = fmt.Errorf("%d pushed: %+v", len(r.pushed), st)
		}
		return err
	})
	cancel()
	for _, wait := range waits {
		wait()
	}
	r.flow = whole
	r.check(want{rows: idsOf(good), rejects: append(idsOf(ruled), idsOf(bad)...)})
	r.checkParts(idsOf(good))
}

// A group that cannot be one is an error of the constructors: a worker would retry it for ever.
func TestAGroupWithAFaultIsRefusedEarly(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	if _, err := r.pool.Exec(t.Context(), "CREATE TABLE parts (item text NOT NULL, no bigint)"); err != nil {
		t.Fatal(err)
	}
	parts, err := staging.New(t.Context(), r.pool, "parts", staging.Config[part]{ID: "item", Lanes: 2})
	if err != nil {
		t.Fatal(err)
	}
	items := staging.Into(r.table, func(v item) []item { return []item{v} })
	for want, group := range map[string]*staging.TableGroup[item]{
		"has 2 lanes (Config.Lanes), must have 1 (RetireLanes": staging.Group(items, staging.Into(parts, func(item) []part { return nil })),
		"is a member twice":       staging.Group(items, items),
		"0 members, must be 1 to": staging.Group[item](),
	} {
		flow := r.flow
		flow.Table = group
		_, worker := pipeline.NewWorker(flow, pipeline.WorkerConfig{})
		_, promoter := pipeline.NewPromoter(flow, pipeline.PromoterConfig{})
		_, books := flow.Books(t.Context())
		for call, err := range map[string]error{"NewWorker": worker, "NewPromoter": promoter, "Books": books, "Drain": flow.Drain(t.Context())} {
			if !errors.Is(err, pipeline.ErrConfig) || !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", call, err, want)
			}
		}
	}
}
