package lookup

import (
	"context"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// sweep lets the parts of versions that nothing names any more expire: the description of the last
// version was damaged or deleted, so the swap could not name its parts. Parts that expire already
// are left alone: another refresh may be writing them. The first refresh of a table finds none.
func (t *Table[K, V]) sweep(ctx context.Context, current string) error {
	expired := int64(0)
	for _, node := range t.server.Nodes() {
		for cursor := uint64(0); ; {
			scan := node.B().Arbitrary("SCAN").Args(strconv.FormatUint(cursor, 10), "MATCH", redisx.EscapeGlob(t.versions)+"*", "COUNT", "1000").Build()
			page, err := node.Do(ctx, scan).AsScanEntry()
			if err != nil {
				return err
			}
			for _, key := range page.Elements {
				if strings.HasPrefix(key, t.versions+current+":") {
					continue
				}
				ttl, err := t.server.Read(ctx, "PTTL", key).AsInt64()
				if err == nil && ttl == -1 {
					ms := t.cfg.Keep.Milliseconds() + expired*stagger.Milliseconds()
					err = t.server.Client().Do(ctx, t.server.Client().B().Pexpire().Key(key).Milliseconds(ms).Build()).Error()
					expired++
				}
				if err != nil && !rueidis.IsRedisNil(err) {
					return err
				}
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
	return nil
}
