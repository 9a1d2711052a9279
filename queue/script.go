package queue

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// script is a Lua script in two forms: as it is, and with the header that lets it write while Redis is at
// maxmemory, for everything that frees memory in the end. miniredis takes no header.
type script struct {
	body, sha       string
	oomBody, oomSHA string
}

const oomHeader = "#!lua flags=allow-oom\n"

func newScript(body string) *script {
	sum := func(s string) string { h := sha1.Sum([]byte(s)); return hex.EncodeToString(h[:]) }
	return &script{body: body, sha: sum(body), oomBody: oomHeader + body, oomSHA: sum(oomHeader + body)}
}

var (
	//go:embed lease.lua
	leaseLua string
	//go:embed own.lua
	ownLua string
	//go:embed ack.lua
	ackLua string
	//go:embed settle.lua
	settleLua string
	//go:embed redeliver.lua
	redeliverLua string
	//go:embed requeue.lua
	requeueLua string
	//go:embed drop.lua
	dropLua string
	//go:embed push.lua
	pushLua string
	//go:embed stats.lua
	statsLua string
	//go:embed audit.lua
	auditLua string

	leaseScript     = newScript(leaseLua)
	ownScript       = newScript(ownLua)
	ackScript       = newScript(ackLua)
	settleScript    = newScript(settleLua)
	redeliverScript = newScript(redeliverLua)
	requeueScript   = newScript(requeueLua)
	dropScript      = newScript(dropLua)
	pushScript      = newScript(pushLua)
	statsScript     = newScript(statsLua)
	auditScript     = newScript(auditLua)
)

// evalsha and eval build the two ways to run s.
func (q *Queue) evalsha(s *script, oom bool, args []string) rueidis.Completed {
	sha := s.sha
	if oom && q.oomFlag {
		sha = s.oomSHA
	}
	return q.c.B().Evalsha().Sha1(sha).Numkeys(int64(len(q.keys))).Key(q.keys...).Arg(args...).Build()
}

func (q *Queue) eval(s *script, oom bool, args []string) rueidis.Completed {
	body := s.body
	if oom && q.oomFlag {
		body = s.oomBody
	}
	return q.c.B().Eval().Script(body).Numkeys(int64(len(q.keys))).Key(q.keys...).Arg(args...).Build()
}

// run runs s. It tries again when the server says that it has not run it, and only then.
func (q *Queue) run(ctx context.Context, s *script, oom bool, args ...string) rueidis.RedisResult {
	for try := 0; ; try++ {
		r := q.c.Do(ctx, q.evalsha(s, oom, args))
		if noScript(r.Error()) {
			r = q.c.Do(ctx, q.eval(s, oom, args))
		}
		if !refused(r.Error()) || !pause(ctx, try) {
			return r
		}
	}
}

func noScript(err error) bool {
	re, ok := rueidis.IsRedisErr(err)
	return ok && re.IsNoScript()
}

// refused says whether a command was refused for now, without having begun: the server is loading, or a cluster is
// moving the queue's slot, or is between two masters (then the client has nobody to ask). A redirect comes back only
// where the client must not follow it. Every script names a key
// that never exists ("never"), so a node from which half of the slot has moved away refuses it with TRYAGAIN instead
// of taking the keys that it no longer has for batches that are gone.
func refused(err error) bool {
	re, ok := rueidis.IsRedisErr(err)
	if !ok {
		return errors.Is(err, rueidis.ErrNoSlot)
	}
	_, moved := re.IsMoved()
	_, ask := re.IsAsk()
	return moved || ask || re.IsTryAgain() || re.IsClusterDown() || re.IsLoading() ||
		strings.HasPrefix(re.Error(), "MASTERDOWN") || strings.HasPrefix(re.Error(), "UNBLOCKED")
}

// pause waits a little before the next try; false: enough.
func pause(ctx context.Context, try int) bool {
	if try > 120 { // half a minute
		return false
	}
	return sleep(ctx, min(time.Duration(try+1)*5*time.Millisecond, 250*time.Millisecond))
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// outlive returns a context that is cancelled a grace after ctx is, so that the reply of a script that has run already is
// not thrown away. It hides the deadline of ctx: rueidis would wait for it even when ctx is cancelled before.
func outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	if ctx.Done() == nil {
		return ctx, func() {}
	}
	c, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if grace == 0 || !sleep(c, grace) {
			cancel()
			return
		}
		cancel()
	})
	return c, func() { stop(); cancel() }
}

func ms(d time.Duration) string {
	if d > 0 && d < time.Millisecond {
		d = time.Millisecond
	}
	return strconv.FormatInt(d.Milliseconds(), 10)
}

func itoa(n int) string { return strconv.Itoa(n) }
