package redisx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// ErrNoAOF reports that the server cannot confirm that writes are on disk.
var ErrNoAOF = errors.New("the server cannot confirm that writes are on disk")

// noAOFError is an ErrNoAOF. Its text is the remedy, after the text of the caller's own ErrNoAOF.
type noAOFError struct {
	remedy string
	err    error // the server's; nil: none
}

func (e *noAOFError) Error() string {
	if e.err == nil {
		return e.remedy
	}
	return e.remedy + ": " + e.err.Error()
}

func (e *noAOFError) Unwrap() []error { return []error{ErrNoAOF, e.err} }

// errUnconfirmed reports that the disk did not confirm the writes in time.
var errUnconfirmed = errors.New("WAITAOF: no confirmation")

// Durably runs the commands that build returns and then WAITAOF, on one connection, and does not
// retry. It returns the results of the commands, and whether the server confirmed their writes on
// its own disk within timeout. A nil error of the second kind does not mean success of a command
// that failed.
//
// WAITAOF covers only the writes of its own connection. So the client of a cluster must not follow
// a redirect of the commands before it: the redirect comes back as a refusal.
func (s *Server) Durably(ctx context.Context, timeout time.Duration, build func() []rueidis.Completed) ([]rueidis.RedisResult, error) {
	if _, ok := ctx.Deadline(); !ok {
		// The client sets no time limit for blocking commands: a frozen server would hold the caller for
		// ever.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*timeout+5*time.Second)
		defer cancel()
	}
	cmds := append(build(), s.waitAOF(timeout))
	var r []rueidis.RedisResult
	if s.client.Mode() == rueidis.ClientModeCluster {
		_ = s.client.Dedicated(func(c rueidis.DedicatedClient) error { // the function's own error, always nil
			r = c.DoMulti(ctx, cmds...)
			return nil
		})
	} else {
		r = s.client.DoMulti(ctx, cmds...) // a blocking command in it sends the whole group on one connection
	}
	last := len(r) - 1
	return r[:last], onDisk(r[last], timeout)
}

// RunDurably runs a script followed by WAITAOF on one connection, and retries while the server
// refuses the script.
func (s *Server) RunDurably(ctx context.Context, timeout time.Duration, c Call) (r rueidis.RedisResult, aof error) {
	_ = s.Retry(ctx, func() error { // its error is the one of r
		for _, build := range []func(Call) rueidis.Completed{s.Evalsha, s.Eval} {
			var rs []rueidis.RedisResult
			rs, aof = s.Durably(ctx, timeout, func() []rueidis.Completed { return []rueidis.Completed{build(c)} })
			if r = rs[0]; !s.NeedsText(r.Error()) {
				break
			}
		}
		s.textRefused(r.Error())
		r = s.Named(ctx, c, r)
		return r.Error()
	})
	return r, aof
}

// checkFsync returns ErrNoAOF for a server that leaves the sync to its operating system: it never
// confirms a write. Where the server does not report its settings, it returns nil.
func (s *Server) checkFsync(ctx context.Context) error {
	policy, err := s.Setting(ctx, "appendfsync")
	if err == nil && policy == "no" {
		err = &noAOFError{"appendfsync is no: set it to everysec or always", nil}
	}
	return err
}

func (s *Server) waitAOF(timeout time.Duration) rueidis.Completed {
	return s.client.B().Waitaof().Numlocal(1).Numreplicas(0).Timeout(max(timeout.Milliseconds(), 1)).Build()
}

// onDisk parses the reply of WAITAOF: how many local and how many replicas' append-only files have
// the writes.
func onDisk(r rueidis.RedisResult, timeout time.Duration) error {
	n, err := r.AsIntSlice()
	switch {
	case err != nil:
		return err
	case len(n) != 2:
		return fmt.Errorf("WAITAOF: unexpected reply: got %d elements, want 2", len(n))
	case n[0] < 1:
		return fmt.Errorf("%w within %v: the disk is slow, appendfsync is no, or the server's clock was set back"+
			" (then set appendfsync to always and back to everysec)", errUnconfirmed, timeout)
	}
	return nil
}

// ProbeAOF reports whether the server can confirm writes on disk. ErrNoAOF: it cannot, and the text
// names what is missing. It tries WAITAOF, which has nothing to wait for on a connection that has
// written nothing. A pooled connection may have written before: its writes need not be confirmed
// for this.
func (s *Server) ProbeAOF(ctx context.Context) error {
	err := s.Retry(ctx, func() error {
		// The first command takes WAITAOF to the node that has the keys.
		r, aof := s.Durably(ctx, time.Millisecond, func() []rueidis.Completed {
			return []rueidis.Completed{s.Command("EXISTS", s.guard)}
		})
		if err := r[0].Error(); Refused(err) {
			return err
		}
		return aof
	})
	_, isReply := rueidis.IsRedisErr(err)
	switch {
	case err == nil || errors.Is(err, errUnconfirmed):
		return s.checkFsync(ctx)
	case !isReply || Refused(err):
		return err
	case strings.Contains(err.Error(), "appendonly"):
		return &noAOFError{"set appendonly yes", err}
	case strings.HasPrefix(err.Error(), "NOPERM"):
		return &noAOFError{"let the user run WAITAOF", err}
	}
	return &noAOFError{"it needs WAITAOF of Redis 7.2 or Valkey, under this name", err}
}
