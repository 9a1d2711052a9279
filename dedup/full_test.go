package dedup_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/internal/servers/servertest"
)

// At maxmemory a claim for a batch still writes, because its records free more than it takes. One
// without a batch is refused: it would fill Redis without end.
func TestClaimOnAFullRedis(t *testing.T) {
	t.Parallel()
	c := servertest.OwnRedis(t).Client(t)
	name := servertest.Prefix(t)
	window, err := dedup.New(t.Context(), c, name, dedup.Config{ExpectedIDs: 1000})
	if err != nil {
		t.Fatal(err)
	}
	guard := "{" + name + "}:guard"
	if err := c.Do(t.Context(), c.B().Hset().Key(guard).FieldValue().FieldValue("x", "y").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	set(t, c, "maxmemory", "1") // less than it uses, whatever its buffers do
	b := dedup.Batch{Guard: guard, Root: "00000000-0000-7000-8000-000000000001", Records: 2}
	verdicts, err := window.Claim(t.Context(), b, nil, []string{"a", "a"})
	if err != nil || verdicts[0] != dedup.VerdictFresh || verdicts[1] != dedup.VerdictDuplicate {
		t.Errorf("a claim with a guard: %v, %v, want fresh, duplicate", verdicts, err)
	}
	if fresh, err := window.Mark(t.Context(), "b"); err == nil {
		t.Errorf("Mark: %v, want a refusal", fresh)
	} else if re, ok := rueidis.IsRedisErr(errors.Unwrap(err)); !ok || !strings.Contains(re.Error(), "OOM") {
		t.Errorf("Mark: %v, want the server's refusal", err)
	}
}

// A part of the log that was deleted or evicted is made again by the next claim, and expires.
func TestDeletedPartOfTheLogExpiresAgain(t *testing.T) {
	t.Parallel()
	servertest.EachRedis(t, func(t *testing.T, c rueidis.Client) {
		name, ctx := servertest.Prefix(t), t.Context()
		d := open(t, c, name, dedup.Config{ExpectedIDs: 1000})
		keys := func() []string {
			t.Helper()
			all, err := c.Do(ctx, c.B().Keys().Pattern("{"+name+"}:dedup:*").Build()).AsStrSlice()
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		for _, id := range []string{"a", "b"} {
			if _, err := d.Mark(ctx, id); err != nil {
				t.Fatal(err)
			}
			for _, key := range keys() {
				ttl, err := c.Do(ctx, c.B().Pttl().Key(key).Build()).AsInt64()
				if err != nil || ttl <= 0 {
					t.Errorf("after %s: %s has a time to live of %d, %v, want one", id, key, ttl, err)
				}
				if strings.HasSuffix(key, ":0") {
					if err := c.Do(ctx, c.B().Del().Key(key).Build()).Error(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	})
}
