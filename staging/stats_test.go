package staging_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

func stats[T any](t testing.TB, tab *staging.Table[T]) staging.Stats {
	t.Helper()
	s, err := tab.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStatsCountWhatIsStaged(t *testing.T) {
	t.Parallel()
	tab := itemTable(t, servertest.Postgres(t))
	if s := stats(t, tab); s != (staging.Stats{}) {
		t.Errorf("of nothing: %+v", s)
	}
	l := load(items("a", 3)...)
	l.Batch.Records, l.Filtered, l.Batch.Sealed = 5, 2, noon
	stage(t, tab, l, staging.OutcomeStaged)
	promote(t, tab)
	for _, prefix := range []string{"b", "c"} {
		l.Batch.ID, l.Rows = staging.NewBatchID(), items(prefix, 3)
		stage(t, tab, l, staging.OutcomeStaged)
	}
	s := stats(t, tab)
	if s.Batches != 2 || s.Records != 10 || s.Rows != 6 || !s.Oldest.Equal(noon) || s.Stuck() != nil || s.Promoting {
		t.Errorf("got %+v, want 2 batches, 10 records, 6 rows", s)
	}
}

// A promotion that keeps failing shows in the Stats of every program, with its reason, until one
// succeeds.
func TestAWedgeIsVisible(t *testing.T) {
	pool, one, two := programs(t)
	stage(t, one, load(items("a", 3)...), staging.OutcomeStaged)
	exec(t, pool, `CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO missing VALUES (1); RETURN NULL; END $$;
		CREATE TRIGGER tr BEFORE INSERT ON items FOR EACH STATEMENT EXECUTE FUNCTION tr();`)
	for range 3 {
		if p, err := one.Promote(t.Context(), staging.PromoteOptions{}); err == nil {
			t.Fatalf("got %+v, want an error", p)
		}
	}
	s := stats(t, two)
	err := s.Stuck()
	if s.Failures != 3 || s.FailingSince.IsZero() || !errors.Is(err, staging.ErrStuck) || !strings.Contains(fmt.Sprint(err), `"missing" does not exist`) {
		t.Errorf("got %+v, %v", s, err)
	}
	exec(t, pool, "CREATE TABLE missing (n int)")
	promote(t, two)
	if s := stats(t, one); s != (staging.Stats{}) {
		t.Errorf("after a success: %+v", s)
	}
	balanced(t, one)
}

// Stats does not wait for a promotion.
func TestStatsDuringAPromotion(t *testing.T) {
	_, one, two := programs(t)
	stage(t, one, load(items("a", 3)...), staging.OutcomeStaged)
	reached, goOn := stopAt(t, one, "after insert")
	p := promoting(t, one)
	<-reached
	stage(t, two, load(items("b", 3)...), staging.OutcomeStaged)
	if s := stats(t, two); !s.Promoting || s.Batches != 1 {
		t.Errorf("got %+v, want promoting, 1 batch", s)
	}
	goOn()
	(<-p).must(t)
}

// A payload is text where it can be, for a reader with psql, and bytes where not.
func TestPayloadsAreReadable(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	tab := itemTable(t, pool)
	utf8 := query[bool](t, pool, "SELECT current_setting('server_encoding') = 'UTF8'")
	payloads := []string{`{"id": "ä"`, "not\xffutf8", "with\x00nul", ""}
	l := load(items("a", 1)...)
	for i, p := range payloads {
		l.Rejects = append(l.Rejects, staging.Reject{Pos: int32(i + 1), Code: "parse", Reason: "no JSON", Payload: []byte(p)})
	}
	l.Batch.Records = 1 + len(payloads)
	stage(t, tab, l, staging.OutcomeStaged)
	promote(t, tab)
	list := must(tab.Rejects(t.Context(), staging.RejectFilter{}))
	for i, r := range list {
		if string(r.Payload) != payloads[i] {
			t.Errorf("got payload %q, want %q", r.Payload, payloads[i])
		}
	}
	texts := map[int]string{4: payloads[3]} // another encoding may lack a character, so there only ASCII is text
	if utf8 {
		texts[1] = payloads[0]
	}
	for i, r := range list {
		want, isText := texts[int(r.Pos)]
		got := query[*string](t, pool, "SELECT payload FROM items_rejects WHERE pos = $1", r.Pos)
		raw := query[[]byte](t, pool, "SELECT bytes FROM items_rejects WHERE pos = $1", r.Pos)
		if isText && (got == nil || *got != want || raw != nil) || !isText && (got != nil || string(raw) != payloads[i]) {
			t.Errorf("payload %d: got the text %v and the bytes %q, want %q (as text: %v)", i, got, raw, payloads[i], isText)
		}
	}
	if len(list) != len(payloads) {
		t.Errorf("%d rejects, want %d", len(list), len(payloads))
	}
	// What the acknowledgement reads of them has no payload: it may be large.
	for _, r := range must(tab.RejectedKeys(t.Context(), []string{l.Batch.ID}))[l.Batch.ID] {
		if r.Payload != nil || r.Reason != "" || r.Root != l.Batch.ID || r.Place != int(r.Pos) {
			t.Errorf("got %+v", r)
		}
	}
}

// After Postgres has refused one COPY, the program itself finds the documents that do not parse. It
// does not take one COPY for each.
func TestManyInvalidDocuments(t *testing.T) {
	t.Parallel()
	type doc struct {
		ID  int64  `db:"id"`
		Doc string `db:"doc"`
	}
	for _, typ := range []string{"json", "jsonb"} {
		t.Run(typ, func(t *testing.T) {
			t.Parallel()
			pool := servertest.Postgres(t)
			exec(t, pool, "CREATE TABLE docs (id bigint PRIMARY KEY, doc "+typ+")")
			tab := newTable(t, pool, "docs", staging.Config[doc]{Key: []string{"id"}})
			copies := 0
			tab.SetHook(func(p string) error {
				if p == "careful copy" {
					copies++
				}
				return nil
			})
			const n = 2000
			var rows []doc
			for i := range int64(n) {
				rows = append(rows, doc{2 * i, "{bad"}, doc{2*i + 1, `{"good": [1, "é", null]}`})
			}
			const deep = 60_000 // Postgres' stack ends before
			rows = append(rows, doc{-1, strings.Repeat("[", deep) + strings.Repeat("]", deep)}, doc{-2, `"\ud800"`}, doc{-3, "1e5"})
			stage(t, tab, load(rows...), staging.OutcomeStaged)
			p := promote(t, tab)
			bad := n + 1
			if typ == "jsonb" { // half of a surrogate pair: json keeps it, jsonb cannot
				bad++
			}
			if p.Rejected != bad || p.Rows != len(rows)-bad {
				t.Errorf("got %d rejected, %d rows, want %d, %d", p.Rejected, p.Rows, bad, len(rows)-bad)
			}
			if copies > 10 {
				t.Errorf("%d COPYs, want 10 at most", copies)
			}
			got := codes(t, tab)
			if got["0"] != "sqlstate_22P02" || got["-1"] != "sqlstate_54001" {
				t.Errorf("got %s and %s, want sqlstate_22P02 and sqlstate_54001", got["0"], got["-1"])
			}
			balanced(t, tab)
		})
	}
}
