package redisx

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// How long Retry waits for a server that refuses commands.
const (
	// patience covers what ends without an operator: a moving slot, a loading server, a failover.
	patience = 30 * time.Second
	// shortPatience covers MISCONF and NOREPLICAS, which may last until an operator acts.
	shortPatience = 5 * time.Second

	firstPause = 5 * time.Millisecond // between two tries; each pause is longer by as much
	maxPause   = 250 * time.Millisecond
)

// Refused reports whether the server refused a command for now, before it began. The same command
// may be sent again. A redirect (MOVED, ASK) comes back only where the client must not follow it;
// see [Server.Durably].
func Refused(err error) bool {
	return patienceFor(err) > 0
}

// patienceFor returns how long a refusal is worth waiting for. 0: err is not a refusal.
func patienceFor(err error) time.Duration {
	if errors.Is(err, rueidis.ErrNoSlot) {
		return patience // the client has found no primary for the slot, and has sent nothing
	}
	e, ok := rueidis.IsRedisErr(err)
	if !ok {
		return 0
	}
	if _, moved := e.IsMoved(); moved {
		return patience
	}
	if _, ask := e.IsAsk(); ask {
		return patience
	}
	// With cluster-allow-reads-when-down, a script runs in a cluster that is down until its first
	// write. None of its writes has gone through: the cluster does not come up under a script.
	if strings.Contains(e.Error(), clusterDown) {
		return patience
	}
	code, _, _ := strings.Cut(e.Error(), " ")
	switch code {
	case "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "UNBLOCKED", "BUSY":
		return patience
	case "MISCONF", "NOREPLICAS":
		return shortPatience
	}
	return 0
}

// NotSent reports whether err shows that the client has sent nothing: it had no connection, and got
// none. The address does not resolve, the server refuses connections or does not answer, or its
// certificate is not trusted.
func NotSent(err error) bool {
	var network *net.OpError
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &network) && network.Op == "dial" || errors.As(err, &certificate)
}

// clusterDown is in the error of a command of a script in a cluster that is down, in the words of
// Redis and of Valkey.
const clusterDown = "while the cluster is down"

// IsReadOnly reports whether a replica refused a write.
func IsReadOnly(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && strings.HasPrefix(e.Error(), "READONLY ")
}

// Retry calls try until it returns no refusal, ctx is done, or the refusal has lasted too long. It
// returns the last error of try. try must send its commands anew: commands cannot be reused.
func (s *Server) Retry(ctx context.Context, try func() error) error {
	return s.retry(ctx, patienceFor, try)
}

// retryRead does the same for reads, which may run twice: it also tries again when the connection
// broke before the reply.
func (s *Server) retryRead(ctx context.Context, try func() error) error {
	return s.retry(ctx, func(err error) time.Duration {
		if lost(ctx, err) {
			return patience
		}
		return patienceFor(err)
	}, try)
}

// lost reports whether the client returned no reply for another reason than its own end or that of
// ctx. A nil is a reply.
func lost(ctx context.Context, err error) bool {
	_, reply := rueidis.IsRedisErr(err)
	return err != nil && !reply && !rueidis.IsRedisNil(err) && ctx.Err() == nil && !errors.Is(err, rueidis.ErrClosing) && !errors.Is(err, context.DeadlineExceeded)
}

func (s *Server) retry(ctx context.Context, patienceFor func(error) time.Duration, try func() error) error {
	begin := s.now()
	for pause := firstPause; ; pause = min(pause+firstPause, maxPause) {
		err := try()
		limit := patienceFor(err)
		if limit == 0 || s.now().Sub(begin) > limit {
			return err
		}
		if IsReadOnly(err) {
			s.reconnect(ctx)
		}
		if !s.sleep(ctx, pause) {
			return err
		}
	}
}

// What reconnect does at most in one call. The client keeps up to 8 shared connections and chooses
// one at random.
const (
	maxQuits   = 16 // connections closed
	goodProbes = 24 // probes in a row that must succeed: the chance that a stale one of 4 connections stays is 1 in 1,000
)

// reconnect closes the connections that lead to a replica, so that the client dials its address
// again. In a cluster the client follows the redirect of a replica, so there is nothing to close.
func (s *Server) reconnect(ctx context.Context) {
	if s.client.Mode() == rueidis.ClientModeCluster {
		return
	}
	s.reconnecting.Lock() // others wait for the first, and then find good connections
	defer s.reconnecting.Unlock()
	// With a context that can be cancelled and has no deadline the client reads in the background, so
	// it notices at once that the server has closed the connection. Otherwise the next command on it
	// would be lost.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	hang := time.AfterFunc(shortPatience, cancel)
	defer hang.Stop()
	for good, quits := 0, 0; good < goodProbes && quits < maxQuits && ctx.Err() == nil; {
		err := s.client.Do(ctx, s.writeNothing()).Error()
		switch {
		case IsReadOnly(err):
			quits, good = quits+1, 0
			_ = s.client.Do(ctx, s.client.B().Arbitrary("QUIT").Build().SetSlot(s.guard)).Error() // it ends with the connection
		case err != nil:
			good = 0
			Sleep(ctx, firstPause)
		default:
			good++
		}
	}
	s.reconnectPool(ctx)
}

// reconnectPool does the same for the connections of blocking commands, which the client keeps in
// a pool. The pool returns the one used last.
func (s *Server) reconnectPool(ctx context.Context) {
	for range maxQuits {
		stale := false
		_ = s.client.Dedicated(func(c rueidis.DedicatedClient) error {
			if stale = IsReadOnly(c.Do(ctx, s.writeNothing()).Error()); stale {
				c.Close()
			}
			return nil
		})
		if !stale {
			return
		}
	}
}

// writeNothing is a write command that changes nothing.
func (s *Server) writeNothing() rueidis.Completed {
	return s.client.B().Unlink().Key(s.guard).Build()
}

// Sleep waits for d and reports true, or false when ctx is done before.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Outlive returns a context that is cancelled a grace after ctx is, so that the reply of a script
// that has already run is not thrown away. It hides the deadline of ctx: the client would wait for
// the deadline even when ctx is cancelled before.
func Outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	if ctx.Done() == nil {
		return ctx, func() {}
	}
	c, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if grace > 0 {
			Sleep(c, grace)
		}
		cancel()
	})
	return outliving{c, ctx}, func() { stop(); cancel() }
}

// outliving is the context of Outlive. Its error is that of the caller's context, so that a call
// which ended at the caller's deadline does not return [context.Canceled].
type outliving struct {
	context.Context

	caller context.Context
}

func (o outliving) Err() error {
	err := o.Context.Err()
	if err != nil && o.caller.Err() != nil {
		return o.caller.Err()
	}
	return err
}

// OutOfMemory reports whether the server refused a command because it is at maxmemory.
func OutOfMemory(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && strings.Contains(e.Error(), "OOM ")
}

// NoPermission reports whether the user may not run a command, or not on the key.
func NoPermission(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && (strings.HasPrefix(e.Error(), "NOPERM ") || strings.Contains(e.Error(), "ACL failure in script") ||
		strings.Contains(e.Error(), "The user executing the script can't ")) // Redis 7.0
}
