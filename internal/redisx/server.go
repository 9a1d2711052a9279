package redisx

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// Server is a client together with what Open learned about the server behind it. This type is
// concurrency safe.
type Server struct {
	client       rueidis.Client
	guard        string      // a key that never exists
	takesHeaders bool        // scripts may begin with #!lua
	textOnly     atomic.Bool // scripts run by their text, never by their hash

	reconnecting sync.Mutex

	now   func() time.Time // a test's own, so that Retry needs no real time
	sleep func(context.Context, time.Duration) bool
}

// Open probes the server behind client. guard is a key that never exists; it carries the hash tag
// of the package's keys, so that the probes reach the right node. Open writes nothing, and never
// closes client. A server that refuses the probe for now is asked again: a transient refusal is not
// a missing feature.
func Open(ctx context.Context, client rueidis.Client, guard string) (*Server, error) {
	s := &Server{client: client, guard: guard, now: time.Now, sleep: Sleep}
	headers, err := s.Probe(ctx, AllowOOM+"return 1")
	if err == nil && !headers {
		err = s.checkEval(ctx)
	}
	if err != nil {
		return nil, err
	}
	s.takesHeaders = headers
	return s, nil
}

// checkEval returns an error if the server runs no script at all: EVAL is renamed or not permitted.
// It does not repeat what the server prints of the script.
func (s *Server) checkEval(ctx context.Context) error {
	err := s.Retry(ctx, func() error {
		return s.client.Do(ctx, s.client.B().Eval().Script("return 1").Numkeys(1).Key(s.guard).Build()).Error()
	})
	if _, isReply := rueidis.IsRedisErr(err); !isReply || Refused(err) || !strings.Contains(strings.ToLower(err.Error()), "'eval'") {
		return nil // the first script that is used shows it
	}
	return fmt.Errorf("the server runs no scripts: EVAL must have its own name, and the user the right to it: %w", err)
}

// Client returns the client given to Open.
func (s *Server) Client() rueidis.Client { return s.client }

// Probe reports whether the server runs a script, with the guard key as KEYS[1], and whether its
// reply is 1. An error reply of another kind than a refusal means that the server lacks what the
// script uses. A script that catches errors itself must return those that it does not understand.
func (s *Server) Probe(ctx context.Context, body string) (bool, error) {
	var n int64
	err := s.Retry(ctx, func() (err error) {
		n, err = s.client.Do(ctx, s.client.B().Eval().Script(body).Numkeys(1).Key(s.guard).Build()).AsInt64()
		return err
	})
	if _, isReply := rueidis.IsRedisErr(err); isReply && !Refused(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("probe: %w", err)
	}
	return n == 1, nil
}

// Read runs a read command on the primary, and retries while the server refuses it or the
// connection breaks. key is the command's first argument.
func (s *Server) Read(ctx context.Context, command, key string, args ...string) (r rueidis.RedisResult) {
	_ = s.retryRead(ctx, func() error { // its error is the one of r
		r = s.client.Do(ctx, s.Command(command, key, args...))
		return r.Error()
	})
	return r
}

// ReadAll runs the read commands that build returns on the primary, pipelined, and retries all of
// them while the server refuses any or the connection breaks. The slice has a result for each.
func (s *Server) ReadAll(ctx context.Context, build func() []rueidis.Completed) (r []rueidis.RedisResult) {
	_ = s.retryRead(ctx, func() error { // the errors are those of r
		r = s.client.DoMulti(ctx, build()...)
		for _, x := range r {
			if err := x.Error(); Refused(err) || lost(ctx, err) {
				return err
			}
		}
		return nil
	})
	return r
}

// Command builds a read command that a client with SendToReplicas does not take for a read, so that
// the primary answers it. The client does not send it again after a connection error: it would use
// the command's memory again while the writer of the broken connection may still read it.
// [Server.Read] and [Server.ReadAll] build it anew instead.
func (s *Server) Command(command, key string, args ...string) rueidis.Completed {
	return s.client.B().Arbitrary(command).Keys(key).Args(args...).Build()
}
