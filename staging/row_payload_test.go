package staging_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
)

// payload is a row whose Go names are not those of its columns.
type payload struct {
	Ident   [16]byte        `db:"id" json:"identity"`
	Note    *string         `db:"note"`
	Amount  string          `db:"amount"`
	Doc     json.RawMessage `db:"doc"`
	Text    string          `db:"doc_text"`
	Raw     []byte          `db:"raw"`
	Ratio   float64         `db:"ratio"`
	Tags    []string        `db:"tags"`
	When    time.Time       `db:"at"`
	Missing string          `db:"missing,nullzero"`
	Small   int             `db:"small"`
	Flag    bool            `db:"flag"`
}

func fillPayload(p *payload, r *staging.Row) {
	r.UUID(p.Ident)
	if p.Note == nil {
		r.Null()
	} else {
		r.String(*p.Note)
	}
	r.String(p.Amount)
	r.Bytes(p.Doc)
	r.String(p.Text)
	r.Bytes(p.Raw)
	r.Float(p.Ratio)
	r.Value(p.Tags)
	r.Time(p.When)
	r.Null()
	r.Int(int64(p.Small))
	r.Bool(p.Flag)
}

// A reject's payload has the names of the columns and the same values, whether the row was rejected
// before it was staged or afterwards.
func TestPayloadsHaveTheNamesOfTheColumns(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, `CREATE TABLE p (id uuid PRIMARY KEY, note text, amount numeric(10, 2), doc jsonb, doc_text json, raw bytea, ratio float8, tags text[],
		at timestamp, missing text, small smallint, flag boolean)`)
	var columns []staging.Column
	for _, c := range []string{"id", "note", "amount", "doc", "doc_text", "raw", "ratio", "tags", "at", "missing", "small", "flag"} {
		columns = append(columns, staging.Column{Name: c})
	}
	rule := []staging.Rule{{Code: "all", Where: "true"}}
	for name, cfg := range map[string]staging.Config[payload]{
		"tags": {Key: []string{"id"}, Rules: rule}, "Fill": {Key: []string{"id"}, Rules: rule, Columns: columns, Fill: fillPayload, IDOf: func(p *payload) string { return staging.FormatUUID(p.Ident) }},
	} {
		tab := newTable(t, pool, "p", cfg)
		quoted := `it's <"ü">`
		good := payload{Ident: [16]byte{1, 0xff}, Note: &quoted, Amount: "1.50", Doc: json.RawMessage(`{"a": [1, "x"]}`), Text: `{"b":2}`,
			Raw: []byte{0, 255}, Ratio: math.Inf(1), Tags: []string{"x", "y"}, When: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Small: 7, Flag: true}
		bad := good
		bad.Small = 70_000
		null := payload{Ident: [16]byte{2}, Amount: "many", Doc: json.RawMessage("1"), Text: "null"}
		l := load(good, bad, null)
		stage(t, tab, l, staging.OutcomeStaged)
		promote(t, tab)
		got := map[string]map[string]any{}
		for _, r := range must(tab.Rejects(t.Context(), staging.RejectFilter{Batch: l.Batch.ID})) {
			var v map[string]any
			if err := json.Unmarshal(r.Payload, &v); err != nil {
				t.Fatalf("%s: %s: %v", name, r.Payload, err)
			}
			got[r.Code] = v
			if v["id"] != r.Key {
				t.Errorf("%s: the key is %s, want %v", name, r.Key, v["id"])
			}
		}
		staged, late := got[staging.CodeRange], got["all"]
		if staged["small"] != 70_000.0 || late["small"] != 7.0 {
			t.Errorf("%s: small is %v and %v, want 70000 and 7", name, staged["small"], late["small"])
		}
		delete(staged, "small")
		delete(late, "small")
		staged["amount"], late["amount"] = "text", "text" // a text that is perhaps no number
		staged["at"] = late["at"]                         // with a zone, and without
		if diff := cmp.Diff(late, staged); diff != "" || len(late) != 11 {
			t.Errorf("%s: payloads (-rule +stage):\n%s", name, diff)
		}
		if n := got[staging.CodeNumeric]; n["amount"] != "many" || n["note"] != nil || n["missing"] != nil {
			t.Errorf("%s: got %v", name, n)
		}
	}
}
