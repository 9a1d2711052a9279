package staging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// chunk is the size of one CopyData message. Its body is what a Read of the encoder fills.
const chunk = 64 << 10

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// copyIn runs COPY … FROM STDIN. It differs from pgconn's CopyFrom in one thing: it waits for the
// server's answer before it sends data. A COPY that is small enough to be sent whole, before the
// answer, makes PgBouncer believe forever that the server's connection is still in the middle of
// it: the connection is never given to another client. With 800 clients on 25 connections that was
// the end after 25 batches.
func copyIn(ctx context.Context, q *pgx.Conn, sql string, r io.Reader) error {
	pc := q.PgConn()
	if err := ctx.Err(); err != nil {
		return err
	}
	if pc.IsClosed() || pc.IsBusy() {
		return fmt.Errorf("staging: the connection is closed or busy")
	}
	stop := context.AfterFunc(ctx, func() {
		// At once, so that the server rolls back: the rows' source may run the caller's code, which may
		// not return.
		pc.Conn().Close() //nolint:errcheck // the connection is of no more use
	})
	err := copyNow(ctx, pc, sql, r)
	var pg *pgconn.PgError
	var own *readError
	if !stop() || err != nil && !errors.As(err, &pg) && !errors.As(err, &own) {
		// In the middle of the protocol, or with a deadline in the past: of no more use.
		pc.Conn().Close() //nolint:errcheck // see above
		pc.Close(ctx)     //nolint:errcheck // see above
		if err == nil || ctx.Err() != nil {
			return fmt.Errorf("%w: %w", errInterrupted, errors.Join(ctx.Err(), err))
		}
	}
	if own != nil {
		return own.error
	}
	return err
}

var errInterrupted = errors.New("staging: COPY was interrupted")

// readError is an error of the data's own source; the server was told, and the connection is in
// order.
type readError struct{ error }

func copyNow(ctx context.Context, pc *pgconn.PgConn, sql string, r io.Reader) error {
	fe := pc.Frontend()
	fe.SendQuery(&pgproto3.Query{String: sql})
	if err := fe.Flush(); err != nil {
		return err
	}
	open, err := receive(ctx, pc, true)
	if err != nil || !open {
		return err
	}
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	var source error
	for source == nil {
		var n int
		n, source = r.Read(buf[5:])
		if n > 0 {
			size := n + 4
			buf[0], buf[1], buf[2], buf[3], buf[4] = 'd', byte(size>>24), byte(size>>16), byte(size>>8), byte(size)
			if err := fe.SendUnbufferedEncodedCopyData(buf[:n+5]); err != nil {
				return err
			}
		}
	}
	if source == io.EOF {
		fe.Send(&pgproto3.CopyDone{})
	} else {
		fe.Send(&pgproto3.CopyFail{Message: "the rows' source failed"})
	}
	if err := fe.Flush(); err != nil {
		return err
	}
	_, err = receive(ctx, pc, false)
	var pg *pgconn.PgError
	if source != io.EOF && (err == nil || errors.As(err, &pg)) {
		return &readError{source}
	}
	return err
}

// receive reads up to the server's readiness, or to its readiness for data.
func receive(ctx context.Context, pc *pgconn.PgConn, data bool) (open bool, err error) {
	for {
		msg, rerr := pc.ReceiveMessage(ctx)
		if rerr != nil {
			return false, rerr
		}
		switch m := msg.(type) {
		case *pgproto3.CopyInResponse:
			if data {
				return true, nil
			}
		case *pgproto3.ErrorResponse:
			err = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return false, err
		}
	}
}
