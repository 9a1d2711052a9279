package dedup

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

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
	claimScript = newScript(claimLua)
	findScript  = newScript(findLua)
	stateScript = newScript(stateLua)
)

type script struct{ text, sha string }

func newScript(text string) script {
	text = tablesLua + text
	sum := sha1.Sum([]byte(text))
	return script{text: text, sha: hex.EncodeToString(sum[:])}
}

// exec runs a script once. It is never retried behind the caller's back: what a lost reply means is for the caller to
// say.
func (w *Deduplicator) exec(ctx context.Context, s script, keys, args []string) rueidis.RedisResult {
	b := w.client.B()
	r := w.client.Do(ctx, b.Evalsha().Sha1(s.sha).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
	if noScript(r.Error()) {
		r = w.client.Do(ctx, w.client.B().Eval().Script(s.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
	}
	return r
}

// execFenced runs a script and then waits until the server has its writes on disk. WAITAOF speaks of the writes of its
// own connection, so both go out in one DoMulti: a blocking command in it makes the client send the whole group on one
// connection. A cluster's client must not follow a redirect of the script alone, so a connection of our own is used there;
// the script has not run where it is redirected, and is sent anew when the client knows better.
func (w *Deduplicator) execFenced(ctx context.Context, s script, keys, args []string) (rueidis.RedisResult, error) {
	if _, ok := ctx.Deadline(); !ok {
		// The client gives blocking commands no time limit of its own, and a frozen server would hold us for ever.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*w.cfg.DurableTimeout+5*time.Second)
		defer cancel()
	}
	wait := func() rueidis.Completed {
		return w.client.B().Waitaof().Numlocal(1).Numreplicas(0).Timeout(w.cfg.DurableTimeout.Milliseconds()).Build()
	}
	for try := 0; ; try++ {
		r := w.together(ctx, w.client.B().Evalsha().Sha1(s.sha).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build(), wait())
		if noScript(r[0].Error()) {
			r = w.together(ctx, w.client.B().Eval().Script(s.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build(), wait())
		}
		if !moved(r[0].Error()) || try == 50 {
			return r[0], fenced(r[1])
		}
		select {
		case <-time.After(100 * time.Millisecond): // the client asks for the cluster's map within a second
		case <-ctx.Done():
			return r[0], fenced(r[1])
		}
	}
}

// together runs commands on one connection.
func (w *Deduplicator) together(ctx context.Context, cmds ...rueidis.Completed) (r []rueidis.RedisResult) {
	if w.client.Mode() != rueidis.ClientModeCluster {
		return w.client.DoMulti(ctx, cmds...)
	}
	_ = w.client.Dedicated(func(c rueidis.DedicatedClient) error { // its error is f's
		r = c.DoMulti(ctx, cmds...)
		return nil
	})
	return r
}

func moved(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	_, to := e.IsMoved()
	return to
}

// fenced reads WAITAOF's reply: the number of local and of replica AOFs that have the writes.
func fenced(r rueidis.RedisResult) error {
	n, err := r.AsIntSlice()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotDurable, err)
	}
	if len(n) == 0 || n[0] < 1 {
		return fmt.Errorf("%w: WAITAOF timed out", ErrNotDurable)
	}
	return nil
}

func noScript(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && e.IsNoScript()
}

// check asks the server for what the configuration relies on.
func (w *Deduplicator) check(ctx context.Context) error {
	if !w.cfg.AllowEviction {
		info, err := w.client.Do(ctx, w.client.B().Info().Section("memory").Build()).ToString()
		if _, isReply := rueidis.IsRedisErr(err); err != nil && !isReply {
			return fmt.Errorf("dedup: %w", err)
		}
		// A server that does not tell (an emulation, a hosted one with INFO cut down) is taken at the operator's word.
		policy, limit := infoField(info, "maxmemory_policy:"), infoField(info, "maxmemory:")
		if policy != "" && policy != "noeviction" && limit != "0" {
			return fmt.Errorf("%w: maxmemory-policy is %s, not noeviction (Config.AllowEviction accepts that)", ErrEviction, policy)
		}
	}
	if w.cfg.Durable {
		// The first command takes it to the node that has the window.
		_, err := w.together(ctx, w.client.B().Exists().Key(w.keys[1]).Build(), w.client.B().Waitaof().Numlocal(1).Numreplicas(0).Timeout(1).Build())[1].AsIntSlice()
		if _, isReply := rueidis.IsRedisErr(err); isReply {
			return fmt.Errorf("%w: %w", ErrNoAOF, err)
		} else if err != nil {
			return fmt.Errorf("dedup: %w", err)
		}
	}
	return nil
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
