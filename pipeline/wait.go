package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/headrace/headrace/internal/pgschema"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/rueidis"
)

// attemptTimeout bounds one call of the function given to Await.
const attemptTimeout = 10 * time.Second

// Await calls open until it succeeds. It retries, with growing pauses, while a store is not ready:
// the connection is refused, ends or times out, the host name does not resolve yet, Postgres is
// starting up, recovering or still a standby, or Redis is loading its data. Any other error, such
// as a wrong password or a bad configuration, is returned at once. When ctx ends, Await returns the
// last error of open joined with that of ctx.
//
// The constructors of the patterns fail when their store is unavailable, although Run would wait
// for it. Call them in Await to start a program before its stores. Give ctx a deadline. open
// receives a context of its own for each attempt, so it must not keep it. log receives one line
// when the wait begins, lines at growing intervals, and one line at its end. Nil: slog.Default().
func Await(ctx context.Context, log *slog.Logger, open func(ctx context.Context) error) error {
	if open == nil {
		return fmt.Errorf("%w: the function of Await is nil, must open the stores", ErrConfig)
	}
	_, log = sinks(nil, log)
	waiting := newOutage(log, "opening the stores")
	pause := backoff{}
	for {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		err := open(attempt)
		silent := attempt.Err() != nil && errors.Is(err, context.DeadlineExceeded)
		cancel()
		switch {
		case err == nil:
			waiting.succeeded("")
			return nil
		case ctx.Err() != nil:
			return errors.Join(err, ctx.Err())
		case !silent && !isNotReady(err):
			return err
		}
		waiting.failed("", err)
		if sleep(ctx, pause.next()) != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

// isNotReady reports whether a store cannot be reached yet and may be reached soon.
func isNotReady(err error) bool {
	if errors.Is(err, pgschema.ErrStandby) {
		return true // until it is promoted, or the name of the primary leads to another server
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// 57P03: starting up, in recovery; 57P01, 57P02: shutting down, a crash; 53300: too many
		// connections; 25006: a standby, or read-only for now.
		return strings.HasPrefix(pg.Code, "57P") || strings.HasPrefix(pg.Code, "08") || pg.Code == "53300" || pg.Code == "25006"
	}
	if re, ok := rueidis.IsRedisErr(err); ok {
		return re.IsLoading() || re.IsClusterDown() || re.IsTryAgain() || strings.HasPrefix(re.Error(), "MASTERDOWN")
	}
	if pgconn.SafeToRetry(err) {
		return true // pgx has noticed before the statement that the server has ended the connection
	}
	var network net.Error // covers refused and reset connections, timeouts, and unknown hosts
	return errors.As(err, &network) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, rueidis.ErrNoSlot)
}

// backoff yields growing pauses with jitter, from 50 ms to 5 s.
type backoff struct{ d time.Duration }

func (b *backoff) next() time.Duration {
	b.d = min(max(2*b.d, 50*time.Millisecond), 5*time.Second)
	return b.d/2 + rand.N(b.d/2)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// withGrace returns a context that ends a grace period after ctx does.
func withGrace(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if sleep(work, grace) == nil {
			cancel()
		}
	})
	return work, func() { stop(); cancel() }
}

// poke wakes the reader of a channel with room for one value.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
