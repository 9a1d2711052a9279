package queue

import (
	"context"
	_ "embed"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// layout is the version of the keys and of what they hold. It is in the field "layout" of the
// hash {name}:queue:stat from the first sealed batch or delayed push on.
const layout = "1"

var (
	//go:embed common.lua
	commonLua string
	//go:embed lease.lua
	leaseLua string
	//go:embed hold.lua
	holdLua string
	//go:embed ack.lua
	ackLua string
	//go:embed settle.lua
	settleLua string
	//go:embed redeliver.lua
	redeliverLua string
	//go:embed requeue.lua
	requeueLua string
	//go:embed discard.lua
	discardLua string
	//go:embed reserve.lua
	reserveLua string
	//go:embed release.lua
	releaseLua string
	//go:embed delay.lua
	delayLua string
	//go:embed stats.lua
	statsLua string
	//go:embed audit.lua
	auditLua string
	//go:embed mend.lua
	mendLua string
	//go:embed undo.lua
	undoLua string
	//go:embed move.lua
	moveLua string
	//go:embed reclaim.lua
	reclaimLua string
	//go:embed locate.lua
	locateLua string
	//go:embed pause.lua
	pauseLua string

	leaseScript     = newScript(leaseLua)
	holdScript      = newScript(holdLua)
	ackScript       = newScript(ackLua)
	settleScript    = newScript(settleLua)
	redeliverScript = newScript(redeliverLua)
	requeueScript   = newScript(requeueLua)
	discardScript   = newScript(discardLua)
	reserveScript   = newScript(reserveLua)
	releaseScript   = newScript(releaseLua)
	delayScript     = newScript(delayLua)
	statsScript     = newScript(statsLua)
	auditScript     = newScript(auditLua)
	mendScript      = newScript(mendLua)
	undoScript      = newScript(undoLua)
	moveScript      = newScript(moveLua)
	reclaimScript   = newScript(reclaimLua)
	locateScript    = newScript(locateLua)
	pauseScript     = newScript(pauseLua)
)

func newScript(body string) *redisx.Script {
	return redisx.NewScript("local LAYOUT = '"+layout+"'\n", redisx.NumberLua, redisx.RightsLua, commonLua, body)
}

// drains and fills are the two kinds of scripts. One that frees memory in the end, or lets another
// one or an operator do so, runs while Redis is at maxmemory; one that only takes memory does not.
const drains, fills = true, false

// call returns the call of a script. The prefix of the keys goes before args.
func (q *Queue) call(s *redisx.Script, allowOOM bool, args ...string) redisx.Call {
	return redisx.Call{Script: s, Keys: q.keys, Args: append([]string{q.prefix}, args...), AllowOOM: allowOOM}
}

// run runs a script and retries while the server refuses it.
func (q *Queue) run(ctx context.Context, s *redisx.Script, allowOOM bool, args ...string) rueidis.RedisResult {
	return q.server.Run(ctx, q.call(s, allowOOM, args...))
}

// ms formats a duration in milliseconds, at least one unless it is zero or negative.
func ms(d time.Duration) string {
	if d > 0 && d < time.Millisecond {
		d = time.Millisecond
	}
	return strconv.FormatInt(d.Milliseconds(), 10)
}

func itoa(n int) string { return strconv.Itoa(n) }

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
