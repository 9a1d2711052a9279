package dedup_test

import (
	"errors"
	"slices"
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

// A server that allows no key of the size that a window needs: the error names the setting and the
// size. Nothing was claimed, and when the setting is right, everything is.
func TestKeyOverASettingOfTheServer(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t)
	c := own.Client(t)
	set := func(bytes string) {
		t.Helper()
		if err := c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("proto-max-bulk-len", bytes).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	d := open(t, c, servertest.Prefix(t), dedup.Config{ExpectedIDs: 2_000_000})
	batch := dedup.Batch{Root: "root", Records: 3}
	set("1mb")
	for range 2 {
		_, err := d.Claim(t.Context(), batch, nil, []string{"a", "b", "c"})
		if err == nil || !strings.Contains(err.Error(), "raise the server's proto-max-bulk-len") {
			t.Errorf("got %v, want an error that names the setting", err)
		}
	}
	set("512mb")
	verdicts, err := d.Claim(t.Context(), batch, nil, []string{"a", "b", "c"})
	if err != nil || slices.Contains(verdicts, dedup.VerdictDuplicate) {
		t.Errorf("got %v, %v, want fresh ids", verdicts, err)
	}
	a, err := d.Audit(t.Context())
	if err != nil || a.Balanced() != nil {
		t.Errorf("got %v, %v, want no difference", a.Differences, err)
	}
}
