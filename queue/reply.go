package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// A server closes the connection of a client for which more than client-output-buffer-limit normal
// is waiting to be sent, without an answer. A Queue that lost a reply asks for that bound, and from
// then on leases smaller batches and reads larger ones in small steps.

// replyShare is the part of the bound that a reply may take: the server counts in blocks.
const replyShare = 4

// replyOverhead is what a record takes in a reply in addition to its bytes, at most.
const replyOverhead = 16

// narrowChunk is how many records the first step of a narrow read takes.
const narrowChunk = 64

// learnReplyLimit asks the server for its bound of replies. A server that does not report it has
// none.
func (q *Queue) learnReplyLimit(ctx context.Context) {
	setting, err := q.server.Setting(ctx, "client-output-buffer-limit")
	if err != nil {
		return
	}
	f := strings.Fields(setting) // class, hard bound, soft bound, seconds, and so on
	for i := 0; i+1 < len(f); i += 4 {
		if f[i] == "normal" {
			n, _ := strconv.ParseInt(f[i+1], 10, 64)
			q.replyLimit.Store(n)
		}
	}
}

// withinReply bounds a lease so that its records fit in a reply.
func (q *Queue) withinReply(o LeaseOptions) LeaseOptions {
	if limit := int(q.replyLimit.Load()); limit > 0 {
		o.Bytes = max(1, min(o.Bytes, limit/replyShare))
		o.Records = max(1, min(o.Records, limit/replyShare/replyOverhead))
	}
	return o
}

// readNarrow reads n records of a batch in steps that the server can send. One record that it
// cannot send is ErrReplyLimit.
func (q *Queue) readNarrow(ctx context.Context, id string, n int, have []rueidis.RedisMessage) ([]rueidis.RedisMessage, error) {
	for step := narrowChunk; len(have) < n; {
		var part []rueidis.RedisMessage
		err := q.server.Retry(ctx, func() (err error) {
			part, err = q.client.Do(ctx, q.readList(id, len(have), min(step, n-len(have)))).ToArray()
			return err
		})
		switch {
		case err == nil && len(part) == 0:
			return have, nil // it was settled in between
		case err == nil:
			have = append(have, part...)
		case answered(err) || ctx.Err() != nil:
			return nil, err
		case step > 1:
			step /= 2
		default:
			return nil, fmt.Errorf("%w: batch %s, position %d: client-output-buffer-limit normal is %d bytes: raise it: %w",
				ErrReplyLimit, id, n-len(have)-1, q.replyLimit.Load(), err)
		}
	}
	return have, nil
}
