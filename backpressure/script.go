package backpressure

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

// Layout is the version of the keys' layout that this package reads and writes.
const Layout = "2"

var (
	//go:embed common.lua
	commonLua string
	//go:embed write.lua
	writeLua string

	//go:embed acquire.lua
	acquireLua string
	//go:embed release.lua
	releaseLua string
	//go:embed notify.lua
	notifyLua string
	//go:embed stats.lua
	statsLua string
	//go:embed audit.lua
	auditLua string
	//go:embed repair.lua
	repairLua string
	//go:embed configure.lua
	configureLua string

	acquireScript = redisx.NewScript(redisx.NumberLua, redisx.RightsLua, redisx.CallLua, commonLua, writeLua, acquireLua)
	releaseScript = redisx.NewScript(redisx.NumberLua, redisx.RightsLua, redisx.CallLua, commonLua, writeLua, releaseLua)
	notifyScript  = redisx.NewScript(redisx.NumberLua, redisx.RightsLua, redisx.CallLua, commonLua, writeLua, notifyLua)
	statsScript   = redisx.NewScript(redisx.NumberLua, redisx.CallLua, commonLua, statsLua)
	auditScript   = redisx.NewScript(redisx.NumberLua, redisx.CallLua, commonLua, auditLua)
	repairScript  = redisx.NewScript(redisx.NumberLua, redisx.RightsLua, redisx.CallLua, commonLua, writeLua, repairLua)

	configureScript = redisx.NewScript(redisx.RightsLua, redisx.CallLua, configureLua)
)

// request is what a script is asked with.
type request struct {
	member  string
	records int64
	bytes   int64
	wait    time.Duration // how long its place in the queue lasts; 0: it does not wait
}

// result is a script's reply.
type result struct {
	Stats
	granted bool
	removed bool
	what    string
	// next is when the next reservation or place in the queue expires; negative: there is none.
	next time.Duration
}

// run runs a script. lag is the lag that the caller knows; negative: none.
func (g *Gate) run(ctx context.Context, script *redisx.Script, lag time.Duration, q request) (rueidis.RedisResult, error) {
	i := func(n int64) string { return strconv.FormatInt(n, 10) }
	millis := func(d time.Duration) string { return i(d.Milliseconds()) }
	millionths := func(f float64) string { return i(int64(f * 1e6)) }
	c := g.cfg
	lagMillis := int64(-1)
	if lag >= 0 {
		lagMillis = lag.Milliseconds()
	}
	args := append([]string{
		Layout, g.Channel(), i(c.High), i(c.Low), i(c.HighBytes), i(c.LowBytes), millis(c.HighLag), millis(c.LowLag), i(lagMillis),
		millionths(c.HighMemory), millionths(c.LowMemory), strconv.Itoa(len(c.Records)), strconv.Itoa(len(c.Bytes)),
		millis(g.grantTTL()), q.member, i(q.records), i(q.bytes), millis(c.ReservationTTL), millis(q.wait), c.LagKey,
	}, g.sources...)
	// The context's deadline is hidden from the client, which would close the connection at it.
	cctx, cancel := redisx.Outlive(ctx, 0)
	defer cancel()
	r := g.server.Run(cctx, redisx.Call{Script: script, Keys: g.keys, Args: args})
	err := r.Error()
	if err == nil {
		return r, nil
	}
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if e, ok := rueidis.IsRedisErr(err); ok {
		if _, version, ok := strings.Cut(e.Error(), "HEADRACE layout "); ok {
			return r, fmt.Errorf("%w: the data has layout %s, this program needs layout %s", ErrLayout, version, Layout)
		}
		if _, text, ok := strings.Cut(e.Error(), "HEADRACE source "); ok {
			return r, fmt.Errorf("%w: %s", ErrSource, text)
		}
	}
	return r, err
}

// call runs a script that returns the gate.
func (g *Gate) call(ctx context.Context, what string, script *redisx.Script, lag time.Duration, q request) (result, error) {
	r, err := g.run(ctx, script, lag, q)
	if err != nil {
		return result{}, g.wrap(what, err)
	}
	v, err := parse(r)
	if err != nil {
		return result{}, g.wrap(what, err)
	}
	return v, nil
}

func parse(r rueidis.RedisResult) (result, error) {
	v, err := r.ToArray()
	if err != nil {
		return result{}, err
	}
	if len(v) != 14 {
		return result{}, fmt.Errorf("unexpected reply: got %d elements, want 14", len(v))
	}
	var out result
	var granted, removed, closed, lag, producers, next, offset int64
	for i, p := range []any{
		&granted, &removed, &out.what, &closed, &out.Records, &out.ReservedRecords, &out.Bytes, &out.ReservedBytes, &lag, &producers,
		&out.Waiting, &out.memory, &next, &offset,
	} {
		switch p := p.(type) {
		case *string:
			*p, err = v[i].ToString()
		case *int64:
			*p, err = v[i].AsInt64()
		}
		if err != nil {
			return result{}, fmt.Errorf("unexpected reply: element %d: %w", i, err)
		}
	}
	out.granted, out.removed, out.Closed = granted == 1, removed == 1, closed == 1
	out.Lag, out.Producers = time.Duration(max(lag, 0))*time.Millisecond, producers
	out.Memory = float64(out.memory) / 1e6
	out.next, out.ClockBehind = time.Duration(next)*time.Millisecond, time.Duration(offset)*time.Millisecond
	return out, nil
}

// full is the error of a request that was refused.
func (r result) full(g *Gate, q request) *FullError {
	e := &FullError{Gate: g.name, What: r.what, Waiting: r.Waiting}
	if e.What == "" {
		e.What = "queue"
	}
	switch e.What {
	case "records":
		e.Depth, e.Reserved, e.Asked, e.High, e.Low = r.Records, r.ReservedRecords, q.records, g.cfg.High, g.cfg.Low
	case "bytes":
		e.Depth, e.Reserved, e.Asked, e.High, e.Low = r.Bytes, r.ReservedBytes, q.bytes, g.cfg.HighBytes, g.cfg.LowBytes
	case "lag":
		e.Depth, e.High, e.Low = r.Lag.Milliseconds(), g.cfg.HighLag.Milliseconds(), g.cfg.LowLag.Milliseconds()
	case "memory":
		e.Depth, e.High, e.Low = r.memory, int64(g.cfg.HighMemory*1e6), int64(g.cfg.LowMemory*1e6)
	}
	return e
}
