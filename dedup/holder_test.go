package dedup_test

import (
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// Holders names the first place, in whichever table it is, and none after a claim was given
// back.
func TestHolders(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		for _, cfg := range []dedup.Config{{}, {Digest: true}} {
			d := open(t, c, servertest.Prefix(t), cfg)
			before := do(t, c, c.B().Time().Build())
			start, err := before.AsIntSlice()
			if err != nil {
				t.Fatal(err)
			}
			claim(t, d, dedup.Batch{Root: "one", Offset: 40, Records: 3}, nil, "a", "a rather long id of an order", "a")
			claim(t, d, dedup.Batch{Root: "two", Records: 2}, nil, "b", "a")
			holders, err := d.Holders(t.Context(), "b", "a", "none", "a rather long id of an order")
			if err != nil {
				t.Fatal(err)
			}
			for i, w := range []struct {
				root  string
				place int
			}{{"two", 0}, {"one", 40}, {"", 0}, {"one", 41}} {
				h := holders[i]
				if h.Held != (w.root != "") || h.Place != w.place {
					t.Errorf("id %d: got %+v, want place %d of %q", i, h, w.place, w.root)
				}
				for _, r := range []string{"one", "two", ""} {
					if got := h.HeldBy(r); got != (h.Held && r == w.root) {
						t.Errorf("id %d: HeldBy(%q) is %v", i, r, got)
					}
				}
				if at := h.Claimed; h.Held && (at.Before(time.Unix(start[0], 0)) || at.After(time.Unix(start[0]+3600, 0))) {
					t.Errorf("id %d: claimed at %v, want from %v on", i, at, start[0])
				}
			}
			if _, err := d.Release(t.Context(), dedup.Claim{Root: "one", Place: 40, ID: "a"}); err != nil {
				t.Fatal(err)
			}
			if holders, err = d.Holders(t.Context(), "a"); err != nil || holders[0].Held {
				t.Errorf("after a release: got %+v, %v, want no holder", holders, err)
			}
		}
	})
}
