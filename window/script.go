package window

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/redis/rueidis"
)

// Layout is the version of the keys' layout that this package reads and writes.
const Layout = "3"

var (
	//go:embed common.lua
	commonLua string
	//go:embed sets.lua
	setsLua string
	//go:embed windows.lua
	windowsLua string
	//go:embed cursor.lua
	cursorLua string

	//go:embed open.lua
	openLua string
	//go:embed add.lua
	addLua string
	//go:embed take.lua
	takeLua string
	//go:embed settle.lua
	settleLua string
	//go:embed dead.lua
	deadLua string
	//go:embed scan.lua
	scanLua string
	//go:embed merge.lua
	mergeLua string
	//go:embed count.lua
	countLua string
	//go:embed describe.lua
	describeLua string
	//go:embed list.lua
	listLua string
	//go:embed listall.lua
	listAllLua string
	//go:embed stats.lua
	statsLua string
	//go:embed discard.lua
	discardLua string
	//go:embed rebook.lua
	rebookLua string
	//go:embed repair.lua
	repairLua string

	openScript     = newScript(openLua)
	addScript      = newScript(addLua)
	takeScript     = newScript(takeLua)
	settleScript   = newScript(settleLua)
	deadScript     = newScript(deadLua)
	scanScript     = newScript(cursorLua, scanLua)
	mergeScript    = newScript(cursorLua, mergeLua)
	countScript    = newScript(countLua)
	describeScript = newScript(describeLua)
	listScript     = newScript(listLua)
	listAllScript  = newScript(cursorLua, listAllLua)
	statsScript    = newScript(statsLua)
	discardScript  = newScript(discardLua)
	rebookScript   = newScript(rebookLua)
	repairScript   = newScript(repairLua)
)

// newScript returns a script that begins with what all have.
func newScript(parts ...string) *redisx.Script {
	return redisx.NewScript(append([]string{redisx.NumberLua, redisx.RightsLua, redisx.CallLua, commonLua, setsLua, windowsLua}, parts...)...)
}

// maxJitter is how far apart the keys of windows of one age expire, so that Redis does not free
// them all at once; common.lua has it too.
const maxJitter = 30 * time.Second

// run runs a script with the keys and arguments that all scripts have. frees: it may write while
// Redis is at maxmemory, because it frees memory in the end.
func (s *Store) run(ctx context.Context, script *redisx.Script, frees bool, args ...string) (rueidis.RedisResult, error) {
	for try := 0; ; try++ {
		seed := s.seed.Load().(string)
		all := append([]string{
			s.prefix, Layout, seed, ms(s.cfg.Size), ms(s.cfg.Retention), strconv.FormatInt(rand.Int64N(maxJitter.Milliseconds()), 10),
		}, args...)
		r := s.server.Run(ctx, redisx.Call{Script: script, Keys: s.keys, Args: all, AllowOOM: frees})
		what, value := complaint(r.Error())
		switch {
		case what == "layout":
			return r, layoutError(value)
		case what == "seed" && try < 3: // another program was the first
			s.seed.CompareAndSwap(seed, value)
			if script == addScript {
				return r, errSeed // its arguments depend on the seed
			}
			continue
		}
		return r, r.Error()
	}
}

func layoutError(version string) error {
	return fmt.Errorf("%w: the data has layout %s, this program needs layout %s", ErrLayout, version, Layout)
}

// errSeed reports that the seed was another one, and is known now.
var errSeed = errors.New("window: the seed has changed")

// complaint parses the errors of common.lua.
func complaint(err error) (what, value string) {
	e, ok := rueidis.IsRedisErr(err)
	if !ok {
		return "", ""
	}
	_, rest, _ := strings.Cut(e.Error(), "HEADRACE ")
	what, value, _ = strings.Cut(rest, " ")
	return what, value
}

// isWrongType reports whether a key holds another type.
func isWrongType(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && strings.Contains(e.Error(), "WRONGTYPE")
}

// array returns a reply of at least want elements.
func array(r rueidis.RedisResult, err error, want int) ([]rueidis.RedisMessage, error) {
	if err != nil {
		return nil, err
	}
	v, err := r.ToArray()
	if err == nil && len(v) < want {
		err = fmt.Errorf("unexpected reply: got %d elements, want %d", len(v), want)
	}
	return v, err
}

// integers returns a reply of exactly want integers.
func integers(r rueidis.RedisResult, err error, want int) ([]int64, error) {
	if err != nil {
		return nil, err
	}
	v, err := r.AsIntSlice()
	if err == nil && len(v) != want {
		err = fmt.Errorf("unexpected reply: got %d elements, want %d", len(v), want)
	}
	return v, err
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
