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
