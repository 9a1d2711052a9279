package queue

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
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
	if n, err := q.server.ReplyLimit(ctx); err == nil {
		q.replyLimit.Store(n)
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
// cannot send is ErrReplyLimit. A lost connection is the error of the client.
func (q *Queue) readNarrow(ctx context.Context, id string, n int, have []rueidis.RedisMessage) ([]rueidis.RedisMessage, error) {
	probed := false
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
			have, probed = append(have, part...), false
		case answered(err) || ctx.Err() != nil:
			return nil, err
		case step > 1:
			step /= 2
		default: // the server answers before and after a record that it cannot send
			if err := q.checkConnection(ctx); err != nil {
				return nil, err
			}
			if probed {
				return nil, q.replyLimitError(fmt.Sprintf("batch %s, position %d: ", id, n-len(have)-1), err)
			}
			probed = true
		}
	}
	return have, nil
}

// checkConnection sends a command with a small reply. It fails when the connection does.
func (q *Queue) checkConnection(ctx context.Context) error {
	return q.server.Retry(ctx, func() error {
		return q.client.Do(ctx, q.server.Command("LLEN", q.keys[keyReady])).Error()
	})
}

// replyLimitError is ErrReplyLimit about what the server cannot send. err is that of the client.
func (q *Queue) replyLimitError(what string, err error) error {
	return fmt.Errorf("%w: %sclient-output-buffer-limit normal is %d bytes: raise it: %w", ErrReplyLimit, what, q.replyLimit.Load(), err)
}

// readSome reads what build asks for with n, or with less if the server cannot send so much at
// once, and returns the n that it has read. With 1 that is ErrReplyLimit.
func (q *Queue) readSome(ctx context.Context, n int, build func(n int) []rueidis.Completed) (r []rueidis.RedisResult, read int, err error) {
	if q.replyLimit.Load() > 0 {
		n = min(n, narrowChunk)
	}
	for probed := false; ; {
		r = q.client.DoMulti(ctx, build(n)...)
		failed := slices.IndexFunc(r, func(x rueidis.RedisResult) bool { return !answered(x.Error()) || redisx.Refused(x.Error()) })
		if failed < 0 {
			return r, n, nil
		}
		err = r[failed].Error()
		if answered(err) || !q.limitsReplies(ctx) {
			return q.server.ReadAll(ctx, func() []rueidis.Completed { return build(n) }), n, nil
		}
		switch {
		case n > 1:
			n /= 2
		default: // the server answers before and after a record that it cannot send
			if err := q.server.Read(ctx, "LLEN", q.keys[keyReady]).Error(); err != nil {
				return nil, 0, err
			}
			if probed {
				return nil, 0, q.replyLimitError("", err)
			}
			probed = true
		}
	}
}

// readEach sends n read commands, and returns their replies. With an error it returns those before
// the command that failed.
func (q *Queue) readEach(ctx context.Context, n int, command func(i int) rueidis.Completed) (all []rueidis.RedisResult, err error) {
	for step := n; len(all) < n; {
		some, read, err := q.readSome(ctx, min(step, n-len(all)), func(n int) []rueidis.Completed {
			cmds := make([]rueidis.Completed, n)
			for i := range cmds {
				cmds[i] = command(len(all) + i)
			}
			return cmds
		})
		if err != nil {
			return all, err
		}
		all, step = append(all, some...), read
	}
	return all, nil
}

// limitsReplies reports whether the server is known to bound replies. It asks the server if that is
// not known.
func (q *Queue) limitsReplies(ctx context.Context) bool {
	if q.replyLimit.Load() == 0 && ctx.Err() == nil {
		q.learnReplyLimit(ctx)
	}
	return q.replyLimit.Load() > 0 && ctx.Err() == nil
}
