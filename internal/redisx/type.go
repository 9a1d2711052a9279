package redisx

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// KeyType is a key and the type that it must have, as TYPE returns it.
type KeyType struct{ Key, Type string }

// TypeError describes a key that has another type than it must have.
type TypeError struct{ Key, Type, Want string }

func (e *TypeError) Error() string {
	return fmt.Sprintf("%s is a %s, must be a %s", e.Key, e.Type, e.Want)
}

// IsWrongType reports whether a command or script failed because a key has another type.
func IsWrongType(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && strings.Contains(e.Error(), "WRONGTYPE")
}

// briefly is how long a call that has failed may take to find out why.
const briefly = time.Second

// WrongType returns the first of keys that has another type than it must have, if err is about a
// key of another type. It returns nil for every other error, and if it does not find the key within
// a second: another program may have deleted it, or the user may not run TYPE. It takes one round
// trip. All keys must share a slot.
func (s *Server) WrongType(ctx context.Context, err error, keys ...KeyType) *TypeError {
	if !IsWrongType(err) || len(keys) == 0 {
		return nil
	}
	ctx, cancel := Briefly(ctx)
	defer cancel()
	cmds := make([]rueidis.Completed, len(keys))
	for i, k := range keys {
		cmds[i] = s.Command("TYPE", k.Key)
	}
	for i, r := range s.client.DoMulti(ctx, cmds...) {
		have, err := r.ToString()
		if err == nil && have != "none" && have != keys[i].Type {
			return &TypeError{Key: keys[i].Key, Type: have, Want: keys[i].Type}
		}
	}
	return nil
}

// Briefly returns a context that ends with ctx, but after a second at the latest: for finding out
// why a call failed. It hides the deadline of ctx; see [Outlive].
func Briefly(ctx context.Context) (context.Context, context.CancelFunc) {
	brief, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if ctx.Err() != nil {
		cancel() // AfterFunc does so a little later
	}
	stop := context.AfterFunc(ctx, cancel)
	timer := time.AfterFunc(briefly, cancel)
	return brief, func() { stop(); timer.Stop(); cancel() }
}
