package servertest

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// Rest waits until the server has done what it does after the last commands, and collects our own
// garbage, so that neither is measured with what comes next: the fsync of each second delays
// writers, and a rewrite of the append-only file forks and takes a core for seconds.
func Rest(b testing.TB, c rueidis.Client) {
	b.Helper()
	runtime.GC()
	<-time.After(1100 * time.Millisecond) // the fsync of what was written comes within a second
	for end := time.Now().Add(time.Minute); ; <-time.After(5 * time.Millisecond) {
		info, err := c.Do(b.Context(), c.B().Info().Build()).ToString()
		if err != nil {
			b.Fatal(err)
		}
		busy := ""
		for _, what := range []string{"aof_rewrite_in_progress:", "aof_rewrite_scheduled:", "aof_pending_bio_fsync:", "rdb_bgsave_in_progress:", "lazyfree_pending_objects:"} {
			if _, after, ok := strings.Cut(info, what); ok && !strings.HasPrefix(after, "0") {
				busy = what
			}
		}
		if busy == "" {
			return
		}
		if time.Now().After(end) {
			b.Fatalf("the server does not come to rest: %s", busy)
		}
	}
}
