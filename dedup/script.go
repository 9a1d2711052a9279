package dedup

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

//go:embed tables.lua
var tablesLua string

//go:embed claim.lua
var claimLua string

//go:embed find.lua
var findLua string

//go:embed state.lua
var stateLua string

var (
	claimScript = redisx.NewScript(tablesLua, claimLua)
	findScript  = redisx.NewScript(tablesLua, findLua)
	stateScript = redisx.NewScript(tablesLua, stateLua)
)

// run runs a script. A call that the server refused is retried; one whose reply was lost is not,
// because its outcome is unknown, and only the caller knows what that means.
func (d *Deduplicator) run(ctx context.Context, s *redisx.Script, keys, args []string) rueidis.RedisResult {
	return d.server.Run(ctx, d.call(s, keys, args))
}

// call lets a claim with a guard write while Redis is at maxmemory. Otherwise a full queue would never
// drain: a claim takes some 40 bytes, and the record that it lets through frees its payload. A claim
// without a guard frees nothing, so Redis refuses it.
func (d *Deduplicator) call(s *redisx.Script, keys, args []string) redisx.Call {
	return redisx.Call{Script: s, Keys: keys, Args: args, AllowOOM: s == claimScript && len(keys) > len(d.keys)}
}

// runDurably runs a script and then waits until the server has its writes on disk.
func (d *Deduplicator) runDurably(ctx context.Context, s *redisx.Script, keys, args []string) (rueidis.RedisResult, error) {
	r, err := d.server.RunDurably(ctx, d.cfg.DurableTimeout, d.call(s, keys, args))
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNotDurable, err)
	}
	return r, err
}
