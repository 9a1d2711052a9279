package pipeline_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// A Redis at maxmemory goes on draining, with a Dedup stage, and a worker that starts then works
// too: what a claim takes is less than what an acknowledged record frees.
func TestFullRedisDrains(t *testing.T) {
	t.Parallel()
	own := servertest.OwnRedis(t, "--maxmemory", "24mb", "--maxmemory-policy", "noeviction")
	r := newRig(t, rigOptions{redis: own.Client(t)})
	var records []string
	for i := 0; ; i++ {
		chunk := make([]string, 500)
		for j := range chunk {
			chunk[j] = fmt.Sprintf("a%d-%d %s", i, j, strings.Repeat("x", 350))
		}
		payloads := make([][]byte, len(chunk))
		for j := range chunk {
			payloads[j] = []byte(chunk[j])
		}
		err := r.queue.Push(t.Context(), payloads...)
		if errors.Is(err, queue.ErrMemory) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, chunk...)
		if i > 1000 {
			t.Fatal("Redis is not full yet")
		}
	}
	r.pushed = records
	t.Logf("Redis is full with %d records", len(records))
	// A program that starts now.
	late, err := openRig(t.Context(), rigOptions{redis: own.Client(t), pool: r.pool, name: r.queue.Name()})
	if err != nil {
		t.Fatalf("a program cannot start on a full Redis: %v", err)
	}
	late.t, late.pushed = t, records
	stop := late.start(pipeline.WorkerConfig{Records: 1000}, pipeline.PromoterConfig{})
	defer stop()
	late.settled()
	stop()
	late.check(want{rows: idsOf(records)})
}
