package staging_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

type pair struct {
	ID int64  `db:"id"`
	V  string `db:"v"`
}

func TestRewriteGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE source AS SELECT i::bigint AS id, 'v' || i AS v FROM generate_series(1, 10000) i; CREATE TABLE target (id bigint PRIMARY KEY, v text)")
	tab := newTable(t, pool, "target", staging.Config[pair]{Key: []string{"id"}, Conflict: staging.ConflictFail})
	broken := errors.New("broken")
	var calls, rows int
	job := staging.Rewrite[pair, pair]{Name: "job", Source: "SELECT id, v FROM source", Key: "id", Rows: 700,
		Transform: func(_ context.Context, in []pair) ([]pair, error) {
			calls++
			rows += len(in)
			if calls == 5 {
				return nil, broken
			}
			out := in[:0]
			for _, p := range in {
				if p.ID%10 != 0 {
					out = append(out, pair{p.ID, p.V + "!"})
				}
			}
			return out, nil
		}}
	if p, err := job.Run(t.Context(), tab); !errors.Is(err, broken) || p.Read != 2800 || p.Last != "2800" || p.Done {
		t.Fatalf("%+v, %v", p, err)
	}
	var seen []staging.RewriteProgress
	job.Progress = func(p staging.RewriteProgress) { seen = append(seen, p) }
	p, err := job.Run(t.Context(), tab) // Fail: a row that came twice would be an error
	if err != nil || p != (staging.RewriteProgress{Last: "10000", Read: 10000, Written: 9000, Done: true}) || len(seen) != 11 {
		t.Errorf("%+v, %v, %d calls of Progress", p, err, len(seen))
	}
	if p, err := job.Run(t.Context(), tab); err != nil || !p.Done || rows != 10700 {
		t.Errorf("a finished job: %+v, %v, %d rows", p, err, rows)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM target t JOIN source s USING (id) WHERE t.v = s.v || '!'"); n != 9000 {
		t.Errorf("%d rows", n)
	}
	// Back over itself, a range of keys.
	self := newTable(t, pool, "target", staging.Config[pair]{Key: []string{"id"}, Conflict: staging.ConflictReplace})
	p, err = staging.Rewrite[pair, pair]{Name: "self", Source: "SELECT id, v FROM target", Key: "id", After: "1000", UpTo: "2000",
		Transform: func(_ context.Context, in []pair) ([]pair, error) {
			for i := range in {
				in[i].V = "self"
			}
			return in, nil
		}}.Run(t.Context(), self)
	if err != nil || p.Written != 900 {
		t.Errorf("%+v, %v", p, err)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM target WHERE v = 'self' AND id > 1000 AND id <= 2000"); n != 900 {
		t.Errorf("%d rows", n)
	}
	if _, err := (staging.Rewrite[pair, pair]{Name: "x", Source: "SELECT zzz", Key: "id", Transform: job.Transform}).Run(t.Context(), tab); err == nil {
		t.Error("a query that fails has no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	job.Name, job.Progress = "cancelled", func(staging.RewriteProgress) { cancel() }
	if _, err := job.Run(ctx, self); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A key that is not unique would lose rows: a later run begins after the key of the last batch. A
// source that Postgres cannot read, and one without the key, are mistakes of the configuration.
func TestRewriteRefusesABadSource(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, "CREATE TABLE source AS SELECT i / 3::bigint AS id, 'v' || i AS v FROM generate_series(0, 99) i; CREATE TABLE target (id bigint, v text)")
	tab := newTable(t, pool, "target", staging.Config[pair]{})
	for name, c := range map[string]struct{ source, key, want string }{
		"twice":       {"SELECT id, v FROM source", "id", `Rewrite.Key is "id", must be unique: Source has the value "0" twice`},
		"no key":      {"SELECT id, v FROM source", "number", `Rewrite.Source with the key "number": ERROR: column hr_source.number does not exist`},
		"no relation": {"SELECT id, v FROM sources", "id", `Rewrite.Source with the key "id": ERROR: relation "sources" does not exist`},
		"no query":    {"SELECT id, v FROM source;", "id", `Rewrite.Source with the key "id": ERROR: syntax error`},
	} {
		job := staging.Rewrite[pair, pair]{Name: name, Source: c.source, Key: c.key, Rows: 4,
			Transform: func(_ context.Context, in []pair) ([]pair, error) { return in, nil }}
		for range 2 { // again: nothing was passed over
			p, err := job.Run(t.Context(), tab)
			if !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "companion") || p.Read != 0 {
				t.Errorf("%s: got %+v, %v, want %q", name, p, err, c.want)
			}
		}
	}
	// The first key that comes twice is at the edge of a batch.
	exec(t, pool, "TRUNCATE source; INSERT INTO source SELECT least(i, 4), 'v' || i FROM generate_series(1, 5) i")
	job := staging.Rewrite[pair, pair]{Name: "at the edge", Source: "SELECT id, v FROM source", Key: "id", Rows: 4,
		Transform: func(_ context.Context, in []pair) ([]pair, error) { return in, nil }}
	for range 2 {
		if p, err := job.Run(t.Context(), tab); !errors.Is(err, staging.ErrConfig) || !strings.Contains(err.Error(), `has the value "4" twice`) || p.Done {
			t.Errorf("at the edge: got %+v, %v, want the key 4", p, err)
		}
	}
}
