package staging_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// Each kind of bad row, in each table, rejects its record in all tables with its code. The other
// records stay, and lines find the heads that come with the same promotion.
func TestGroupKeepsWholeRecords(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	var all []placed
	for n, c := range []struct {
		name  string
		spoil func(*sale)
		want  []string
	}{
		{"a rule on the parent", func(s *sale) { s.Heads[0].Kind = "rule" },
			[]string{"heads rule ruled bad ×1", "lines group ruled bad ×2", "notes group ruled bad ×1"}},
		{"a check on the parent", func(s *sale) { s.Heads[0].Kind = "check" },
			[]string{"heads insert sqlstate_23514 bad ×1", "lines group sqlstate_23514 bad ×2", "notes group sqlstate_23514 bad ×1"}},
		{"NULL in the parent", func(s *sale) { s.Heads[0].Cust = nil },
			[]string{"heads insert sqlstate_23502 bad ×1", "lines group sqlstate_23502 bad ×2", "notes group sqlstate_23502 bad ×1"}},
		{"a foreign key to a table outside", func(s *sale) { s.Heads[0].Cust = ptr(int64(99)) },
			[]string{"heads insert sqlstate_23503 bad ×1", "lines group sqlstate_23503 bad ×2", "notes group sqlstate_23503 bad ×1"}},
		{"a trigger of the parent", func(s *sale) { s.Heads[0].Kind = "trigger" },
			[]string{"heads insert sqlstate_P0001 bad ×1", "lines group sqlstate_P0001 bad ×2", "notes group sqlstate_P0001 bad ×1"}},
		{"a rule on a child", func(s *sale) { s.Lines[1].N = 666 },
			[]string{"heads group ruled bad ×1", "lines rule ruled bad ×2", "notes group ruled bad ×1"}},
		{"a check on a child", func(s *sale) { s.Lines[0].N = -1 },
			[]string{"heads group sqlstate_23514 bad ×1", "lines insert sqlstate_23514 bad ×2", "notes group sqlstate_23514 bad ×1"}},
		{"NULL in a child", func(s *sale) { s.Lines[1].SKU = nil },
			[]string{"heads group sqlstate_23502 bad ×1", "lines insert sqlstate_23502 bad ×2", "notes group sqlstate_23502 bad ×1"}},
		{"a child without its parent", func(s *sale) { s.Lines[1].Head = "bad, too" },
			[]string{"heads group sqlstate_23503 bad ×1", "lines insert sqlstate_23503 bad ×1", "lines insert sqlstate_23503 bad, too ×1", "notes group sqlstate_23503 bad ×1"}},
		{"a trigger of a child", func(s *sale) { s.Lines[1].SKU = ptr("trigger") },
			[]string{"heads group sqlstate_P0001 bad ×1", "lines insert sqlstate_P0001 bad ×2", "notes group sqlstate_P0001 bad ×1"}},
		{"a trigger of a table without a key", func(s *sale) { s.Notes[0].Text = "trigger" },
			[]string{"heads group sqlstate_P0001 bad ×1", "lines group sqlstate_P0001 bad ×2", "notes insert sqlstate_P0001 bad ×1"}},
		{"text that COPY cannot take", func(s *sale) { s.Lines[1].SKU = ptr("\x00") },
			[]string{"lines stage nul_character bad ×1"}}, // lines lead the group
	} {
		bad := goodSale("bad", 2)
		c.spoil(&bad)
		l := salesLoad(goodSale(fmt.Sprint("a", n), 3), bad, goodSale(fmt.Sprint("b", n), 0), goodSale(fmt.Sprint("c", n), 1))
		stageGroup(t, g.TableGroup, l, staging.OutcomeStaged)
		stageGroup(t, g.TableGroup, l, staging.OutcomeAlreadyStaged)
		groupFate(t, g.TableGroup, l.Batch.ID, staging.FateStaged)
		p := promoteGroup(t, g.TableGroup)
		if p.Records != 4 || p.Rows != 10 || p.Conflicts != 0 || p.RejectedByRule+4*p.Rejected != 4 || len(p.Batches) != 1 || len(p.Mismatched) != 0 {
			t.Errorf("%s: promoted %+v, want 10 rows of 4 records", c.name, p)
		}
		if d := cmp.Diff(c.want, groupRejects(t, g.TableGroup, l.Batch.ID)); d != "" {
			t.Errorf("%s: rejects (-want +got):\n%s", c.name, d)
		}
		keys, err := g.RejectedKeys(t.Context(), []string{l.Batch.ID})
		if r := keys[l.Batch.ID]; err != nil || len(r) != 1 || r[0].Key != "bad" || r[0].Place != 1 {
			t.Errorf("%s: keys %+v, %v, want that of the bad sale", c.name, keys, err)
		}
		for i, s := range l.Rows {
			all = append(all, placed{fmt.Sprintf("%s %d", l.Batch.ID, i), s.Notes[0].Head, s, i == 1})
		}
		stageGroup(t, g.TableGroup, l, staging.OutcomeAlreadyPromoted)
		groupFate(t, g.TableGroup, l.Batch.ID, staging.FatePromoted)
	}
	checkSales(t, pool, g, all)
}

// A record that refers to the head of another one goes with it. One that only clashed with a record
// that goes is kept.
func TestGroupRecordsThatDependOnOthers(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables+"CREATE UNIQUE INDEX ON heads (kind) WHERE kind LIKE 'only%'")
	g := openSales(t, pool)
	one, two := goodSale("a1", 1), goodSale("a2", 1)
	one.Heads[0].Kind, two.Heads[0].Kind = "only once", "only once"
	one.Lines[0].SKU = ptr("trigger")
	three := goodSale("b", 1)
	three.Lines[0].Head = "a1"
	stageGroup(t, g.TableGroup, salesLoad(one, two, three, goodSale("c", 2)), staging.OutcomeStaged)
	promoteGroup(t, g.TableGroup)
	if got := rowsOf(t, pool, "heads"); !cmp.Equal(got, map[string]int{"a2": 1, "c": 1}) {
		t.Errorf("heads %v, want a2 and c", got)
	}
	if got := rowsOf(t, pool, "lines"); !cmp.Equal(got, map[string]int{"a2": 1, "c": 2}) {
		t.Errorf("lines %v, want those of a2 and c", got)
	}
}

// A record without a row in any table is filtered, and several values of one record are one record.
func TestGroupCountsRecords(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	l := salesLoad(goodSale("b", 1), sale{}, goodSale("a", 2), sale{Lines: []saleLine{{"a", 9, ptr("sku"), 666}}})
	l.Pos = []int32{3, 1, 0, 0}
	l.Batch.Records, l.Duplicates, l.Filtered = 6, 1, 1
	l.Rejects = []staging.Reject{{Pos: 5, Code: "no_json", Payload: []byte("{")}}
	stageGroup(t, g.TableGroup, l, staging.OutcomeStaged)
	s, err := g.Stats(t.Context())
	if err != nil || s.Batches != 1 || s.Records != 6 || s.Rows != 8 {
		t.Errorf("staged %+v, %v, want 8 rows of 6 records", s, err)
	}
	p := promoteGroup(t, g.TableGroup)
	want := staging.PromoteResult{Batches: p.Batches, Epoch: p.Epoch, Records: 6, Kept: 2, Duplicates: 1, Filtered: 2, Rejected: 1, Rows: 3, RejectedByRule: 5}
	if d := cmp.Diff(want, p); d != "" || len(p.Batches) != 1 {
		t.Errorf("promotion (-want +got):\n%s", d)
	}
	if got := rowsOf(t, pool, "heads"); !cmp.Equal(got, map[string]int{"b": 1}) {
		t.Errorf("heads %v, want b", got)
	}
	if s, err = g.Stats(t.Context()); err != nil || s.Batches+s.Rows != 0 {
		t.Errorf("still staged: %+v, %v", s, err)
	}
}

// A worker that dies between two COPYs leaves nothing in any table.
func TestGroupIsStagedInOneTransaction(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	l := salesLoad(goodSale("a", 2))
	for _, point := range []string{"before copy", "between copies", "before commit"} {
		dead := errors.New("dead")
		g.SetHook(func(p string) error {
			if p == point {
				return dead
			}
			return nil
		})
		if _, err := g.Stage(t.Context(), l); !errors.Is(err, dead) {
			t.Errorf("%s: %v, want the death", point, err)
		}
		g.SetHook(nil)
		for _, target := range salesTargets {
			for _, own := range []string{"_staging_a", "_staging_b", "_registry_a", "_registry_b"} {
				if n := query[int](t, pool, "SELECT count(*) FROM "+target+own); n > 0 {
					t.Errorf("%s: %s%s has %d rows, want none", point, target, own, n)
				}
			}
		}
		groupFate(t, g.TableGroup, l.Batch.ID, staging.FateUnknown)
	}
}

// One table has lost its part of a batch, by every way in which tables are emptied by hand: the
// batch is set aside in all tables, staged again, and promoted once.
func TestGroupNoticesAPartialLoss(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	for _, target := range salesTargets {
		for _, lost := range []string{"staging", "registry", "staging, registry, refused"} {
			what := target + " lost " + lost + ": "
			l, other := salesLoad(goodSale(what+"a", 2), goodSale(what+"b", 1)), salesLoad(goodSale(what+"c", 1))
			stageGroup(t, g.TableGroup, l, staging.OutcomeStaged)
			open := query[string](t, pool, "SELECT open FROM lines_control")
			for _, part := range strings.Split(lost, ", ") {
				exec(t, pool, "TRUNCATE "+target+"_"+part+"_"+open)
			}
			stageGroup(t, g.TableGroup, other, staging.OutcomeStaged)
			// What is left in the other tables still blocks it, until a promotion.
			stageGroup(t, g.TableGroup, l, staging.OutcomeAlreadyStaged)
			groupFate(t, g.TableGroup, l.Batch.ID, staging.FateStaged)
			p := promoteGroup(t, g.TableGroup)
			if !slices.Equal(p.Mismatched, []string{l.Batch.ID}) || p.Records != 1 || p.Rows != 3 {
				t.Errorf("%s: promoted %+v, want the first batch set aside and 3 rows of the second", what, p)
			}
			groupFate(t, g.TableGroup, l.Batch.ID, staging.FateUnknown)
			stageGroup(t, g.TableGroup, l, staging.OutcomeStaged)
			if p := promoteGroup(t, g.TableGroup); p.Rows != 7 || len(p.Mismatched) != 0 {
				t.Errorf("%s: promoted %+v, want 7 rows", what, p)
			}
		}
	}
	notes := rowsOf(t, pool, "notes")
	for id, n := range notes {
		if n != 1 {
			t.Errorf("%d notes of %s, want 1", n, id)
		}
	}
	if len(notes) != 27 {
		t.Errorf("notes of %d sales, want 27", len(notes))
	}
}

// The epoch of the group changes with that of each table.
func TestGroupEpoch(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	seen := map[string]bool{}
	for _, target := range append(salesTargets, "") {
		e, err := g.Epoch(t.Context())
		if again, _ := g.Epoch(t.Context()); err != nil || seen[e] || again != e {
			t.Errorf("epoch %q, %q, %v, want a new one that stays", e, again, err)
		}
		seen[e] = true
		if target != "" {
			exec(t, pool, "DELETE FROM "+target+"_epoch")
		}
	}
}

// A parent that comes with its child is found in a partitioned table too, also in a partition of a
// partition.
func TestGroupParentIsPartitioned(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE heads (id text, kind text, cust bigint, PRIMARY KEY (id)) PARTITION BY RANGE (id);
		CREATE TABLE heads_low PARTITION OF heads FOR VALUES FROM (MINVALUE) TO ('m');
		CREATE TABLE heads_high PARTITION OF heads FOR VALUES FROM ('m') TO (MAXVALUE) PARTITION BY HASH (id);
		CREATE TABLE heads_high_0 PARTITION OF heads_high FOR VALUES WITH (MODULUS 1, REMAINDER 0);
		CREATE TABLE lines (head text REFERENCES heads, no bigint, sku text, n bigint, PRIMARY KEY (head, no));
		CREATE TABLE notes (head text REFERENCES heads, text text)`)
	g := openSales(t, pool)
	orphan := goodSale("o", 1)
	orphan.Lines[0].Head = "nowhere"
	stageGroup(t, g.TableGroup, salesLoad(goodSale("a", 2), goodSale("z", 2), orphan), staging.OutcomeStaged)
	if p := promoteGroup(t, g.TableGroup); p.Rows != 8 || p.RejectedByRule != 3 {
		t.Errorf("promoted %+v, want 8 rows and 3 rejected", p)
	}
	if rows := rowsOf(t, pool, "lines"); !cmp.Equal(rows, map[string]int{"a": 2, "z": 2}) {
		t.Errorf("got lines %v, want two of each sale", rows)
	}
}

// Void, a late worker, and a batch in both sides are as for one table.
func TestGroupLedgerDecides(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g, late := openSales(t, pool), openSales(t, pool)
	if err := late.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	void, twice := salesLoad(goodSale("a", 1)), salesLoad(goodSale("b", 1))
	stageGroup(t, g.TableGroup, void, staging.OutcomeStaged)
	stageGroup(t, g.TableGroup, twice, staging.OutcomeStaged)
	reached, goOn := make(chan struct{}), make(chan struct{})
	g.SetHook(func(p string) error {
		if p == "after lock" {
			close(reached)
			<-goOn
			g.SetHook(nil)
		}
		return nil
	})
	if f, err := g.Void(t.Context(), void.Batch); err != nil || f != staging.FateVoid {
		t.Errorf("void: %v, %v", f, err)
	}
	done := background(func() (staging.PromoteResult, error) { return g.Promote(t.Context(), staging.PromoteOptions{}) })
	<-reached
	stageGroup(t, late.TableGroup, twice, staging.OutcomeStaged) // into the other side
	close(goOn)
	p := (<-done).must(t)
	if p.Rows != 3 || len(p.Batches) != 2 {
		t.Errorf("promoted %+v, want 3 rows, and the void batch reported", p)
	}
	stageGroup(t, g.TableGroup, void, staging.OutcomeAlreadyVoid)
	groupFate(t, g.TableGroup, void.Batch.ID, staging.FateVoid)
	if p := promoteGroup(t, g.TableGroup); p.Rows != 0 || len(p.Batches) != 1 || p.Batches[0].Fate != staging.FatePromoted {
		t.Errorf("promoted %+v, want the batch of the other side as promoted", p)
	}
	if got := rowsOf(t, pool, "notes"); !cmp.Equal(got, map[string]int{"b": 1}) {
		t.Errorf("notes %v, want one of b", got)
	}
	if _, err := g.Prune(t.Context(), time.Now().Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	old := salesLoad(goodSale("o", 1))
	old.Batch.Sealed = time.Now().Add(-time.Hour)
	if _, err := g.Stage(t.Context(), old); !errors.Is(err, staging.ErrTooOld) {
		t.Errorf("a batch below the floor: %v, want ErrTooOld", err)
	}
}

// A bounded promotion takes whole batches over all tables.
func TestGroupPromotionIsBounded(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	for i := range 5 {
		stageGroup(t, g.TableGroup, salesLoad(goodSale(fmt.Sprint("a", i), 8)), staging.OutcomeStaged) // 10 rows
	}
	calls := 0
	for more := true; more; calls++ {
		p, err := g.Promote(t.Context(), staging.PromoteOptions{MaxRows: 25})
		if err != nil || p.Rows > 25 {
			t.Fatalf("%d rows, %v", p.Rows, err)
		}
		more = p.More
	}
	if got := rowsOf(t, pool, "notes"); calls != 3 || len(got) != 5 {
		t.Errorf("%d calls for %d sales, want 3 for 5", calls, len(got))
	}
}

// What cannot be a group is ErrConfig in every call.
func TestGroupConfig(t *testing.T) {
	t.Parallel()
	pool, other := servertest.Postgres(t), servertest.Postgres(t)
	for _, p := range []string{salesTables, "CREATE TABLE cycle_a (id text PRIMARY KEY); CREATE TABLE cycle_b (id text PRIMARY KEY REFERENCES cycle_a); ALTER TABLE cycle_a ADD FOREIGN KEY (id) REFERENCES cycle_b"} {
		exec(t, pool, p)
	}
	exec(t, other, salesTables)
	type key struct {
		ID string `db:"id"`
	}
	none := func(sale) []saleHead { return nil }
	keys := func(sale) []key { return nil }
	here, there := openSales(t, pool), openSales(t, other)
	for name, c := range map[string]struct {
		g    *staging.TableGroup[sale]
		want string
	}{
		"no member":        {staging.Group[sale](), "0 members"},
		"a nil table":      {staging.Group(staging.Into[sale, saleHead](nil, none)), "nil table"},
		"a nil function":   {staging.Group(staging.Into[sale](here.heads, nil)), "nil table or function"},
		"the zero member":  {staging.Group(staging.Member[sale]{}), "member 1"},
		"twice":            {staging.Group(staging.Into(here.heads, none), staging.Into(here.heads, none)), `"public"."heads" is a member twice`},
		"another database": {staging.Group(staging.Into(here.heads, none), staging.Into(there.notes, func(sale) []saleNote { return nil })), `"public"."notes" is in database`},
		"a cycle": {staging.Group(staging.Into(newTable(t, pool, "cycle_a", staging.Config[key]{}), keys),
			staging.Into(newTable(t, pool, "cycle_b", staging.Config[key]{}), keys)), "form a cycle"},
	} {
		_, serr := c.g.Stage(t.Context(), salesLoad(sale{}))
		_, perr := c.g.Promote(t.Context(), staging.PromoteOptions{})
		_, ferr := c.g.Fates(t.Context(), nil)
		for _, err := range []error{c.g.Check(t.Context()), serr, perr, ferr} {
			if !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want ErrConfig with %q", name, err, c.want)
			}
		}
	}
	if err := here.Check(t.Context()); err != nil || here.Name() != `"public"."lines" + "public"."notes" + "public"."heads"` {
		t.Errorf("a good group: %v, %s", err, here.Name())
	}
}

// Ids of rejects page through all tables, and resolving one reject resolves its record everywhere.
func TestGroupRejectsArePagedAndResolved(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	var all []sale
	for i := range 7 {
		s := goodSale(fmt.Sprint("a", i), 2)
		s.Lines[0].N = 0
		all = append(all, s)
	}
	stageGroup(t, g.TableGroup, salesLoad(all...), staging.OutcomeStaged)
	promoteGroup(t, g.TableGroup)
	var ids []int64
	tables := map[string]int{}
	for after := int64(0); ; {
		page, err := g.Rejects(t.Context(), staging.RejectFilter{After: after, Limit: 3})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			ids, tables[r.Table], after = append(ids, r.ID), tables[r.Table]+1, r.ID
		}
	}
	if want := map[string]int{`"public"."heads"`: 7, `"public"."lines"`: 14, `"public"."notes"`: 7}; !cmp.Equal(tables, want) || len(slices.Compact(ids)) != 28 {
		t.Errorf("%d rejects: %v, want %v", len(ids), tables, want)
	}
	if n, err := g.Resolve(t.Context(), ids[0], ids[0]); err != nil || n != 4 {
		t.Errorf("resolved %d, %v, want the 4 rows of the record", n, err)
	}
	if n, err := g.Resolve(t.Context(), ids...); err != nil || n != 24 {
		t.Errorf("resolved %d, %v, want the other 24", n, err)
	}
}

// A corrected record is written into every table, parents first, once, and the books still balance.
// What is bad again changes nothing.
func TestGroupReplay(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, salesTables)
	g := openSales(t, pool)
	bad := goodSale("bad", 2)
	bad.Lines[1].N = 0
	worse := goodSale("worse", 1)
	worse.Notes[0].Text = "trigger"
	l := salesLoad(goodSale("a", 1), bad, worse)
	stageGroup(t, g.TableGroup, l, staging.OutcomeStaged)
	promoteGroup(t, g.TableGroup)
	rejects, err := g.Rejects(t.Context(), staging.RejectFilter{Key: "bad"})
	if err != nil || len(rejects) != 4 {
		t.Fatalf("%d rejects, %v, want 4", len(rejects), err)
	}
	fix := func(s sale) []staging.Correction[sale] {
		var out []staging.Correction[sale]
		for _, r := range rejects { // each of them names the record
			out = append(out, staging.Correction[sale]{Reject: r.ID, Rows: []sale{s}})
		}
		return out
	}
	nothing := sale{}
	ruled := goodSale("bad", 1)
	ruled.Lines[0].N = 666
	for name, s := range map[string]sale{"no row": nothing, "a rule": ruled} {
		if _, err := g.Replay(t.Context(), fix(s)); !errors.Is(err, staging.ErrLoad) {
			t.Errorf("%s: %v, want ErrLoad", name, err)
		}
	}
	if _, err := g.Replay(t.Context(), fix(bad)); err == nil {
		t.Error("a row that breaks a check: no error")
	}
	good := goodSale("bad", 2)
	p, err := g.Replay(t.Context(), fix(good))
	if err != nil || p.Records != 1 || p.Rows != 4 || p.Conflicts != 0 {
		t.Errorf("replayed %+v, %v, want 4 rows of 1 record", p, err)
	}
	if p, err := g.Replay(t.Context(), fix(good)); err != nil || p.Records != 0 {
		t.Errorf("replayed again: %+v, %v, want nothing", p, err)
	}
	for target, want := range map[string]map[string]int{"heads": {"a": 1, "bad": 1}, "lines": {"a": 1, "bad": 2}, "notes": {"a": 1, "bad": 1}} {
		if got := rowsOf(t, pool, target); !cmp.Equal(got, want) {
			t.Errorf("%s %v, want %v", target, got, want)
		}
	}
	each, err := g.BooksByTable(t.Context(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range each {
		if err := b.Balanced(); err != nil || b.Records != 4 {
			t.Errorf("%s: %v, %d records, want 4 with the replayed one", b.Table, err, b.Records)
		}
	}
	if open, err := g.Rejects(t.Context(), staging.RejectFilter{}); err != nil || len(open) != 3 {
		t.Errorf("%d rejects are open, %v, want the 3 of the other record", len(open), err)
	}
}
