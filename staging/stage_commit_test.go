package staging_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgxpool"
)

// cutter is a connection that breaks where a commit is sent: before the message, or before its
// answer.
type cutter struct {
	net.Conn
	armed *atomic.Int32 // 1: before, 2: after, 3: after that of a promotion
	cuts  *atomic.Int32
}

func (c cutter) Write(b []byte) (int, error) {
	if !bytes.Contains(b, []byte("commit\x00")) || c.armed.Load() == 3 && !bytes.Contains(bytes.ToLower(b), []byte("truncate")) {
		return c.Conn.Write(b)
	}
	switch c.armed.Swap(0) {
	case 1:
		c.cuts.Add(1)
		c.Close() //nolint:errcheck // a test
		return 0, errors.New("cut before the commit")
	case 2, 3:
		c.cuts.Add(1)
		n, err := c.Conn.Write(b)
		c.Read(make([]byte, 1000)) //nolint:errcheck // the server's answer is lost
		c.Close()                  //nolint:errcheck // a test
		return n, err
	}
	return c.Conn.Write(b)
}

// When the connection breaks at the commit, the batch is staged once all the same, with rejects and
// without, and a promotion is done once: the registry and the ledger know how the commit ended.
func TestTheConnectionBreaksAtTheCommit(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	itemTable(t, pool)
	cfg := pool.Config()
	var armed, cuts atomic.Int32
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return cutter{c, &armed, &cuts}, err
	}
	broken, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	tab := itemTable(t, broken)
	rows := 0
	for i := range 20 {
		for _, how := range []int32{1, 2} {
			l := load(items(string(rune('a'+i))+string('0'+how), 7)...)
			rows += 7
			if i%2 == 1 {
				l.Batch.Records++
				l.Rejects = []staging.Reject{{Pos: 7, Code: "bad", Reason: "a test"}}
			}
			armed.Store(how)
			out, err := tab.Stage(t.Context(), l)
			if err != nil || out != staging.OutcomeStaged && out != staging.OutcomeAlreadyStaged {
				t.Fatalf("batch %d, cut %d: %v, %+v", i, how, out, err)
			}
			stage(t, tab, l, staging.OutcomeAlreadyStaged)
		}
	}
	if cuts.Load() != 40 {
		t.Fatalf("%d cuts of 40", cuts.Load())
	}
	armed.Store(3)
	if p := promote(t, tab); p.Rows != rows || len(p.Batches) != 40 || cuts.Load() != 41 {
		t.Errorf("promotion after %d cuts: %+v", cuts.Load(), p)
	}
	count(t, pool, rows)
}
