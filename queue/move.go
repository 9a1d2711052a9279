package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/redisx"
)

// ErrPosition reports that a source is at another position than PushFrom expects: another program
// reads it too. The error is a *PositionError.
var ErrPosition = errors.New("queue: the source is at another position")

// PositionError is ErrPosition with the position.
type PositionError struct{ Source, Position, Expected string }

func (e *PositionError) Error() string {
	return fmt.Sprintf("queue: the source %q is at position %q, and not at %q", e.Source, cut(e.Position, MaxPosition), e.Expected)
}

// Is reports whether target is ErrPosition.
func (e *PositionError) Is(target error) bool { return target == ErrPosition }

// Limits of PushFrom.
const (
	// MaxPosition bounds the name of a source and a position, in bytes.
	MaxPosition = 1024
	// MaxMove bounds the records of one PushFrom: they pass through a script.
	MaxMove = 5000
)

// Position returns the position of a source: the last one that PushFrom has moved it to, "" before
// the first.
func (q *Queue) Position(ctx context.Context, source string) (string, error) {
	at, err := q.server.Read(ctx, "HGET", q.positionsType().Key, source).ToString()
	if rueidis.IsRedisNil(err) {
		return "", nil
	}
	return at, wrapKeys(ctx, q.server, "position", err, q.positionsType())
}

// PushFrom pushes the records of a source that follow the position from, and sets the source's
// position to to. Both happen in one step, or neither: after a lost reply, repeat the call with the
// same arguments. It pushes nothing a second time. The positions of the sources are in the hash
// {name}:queue:positions.
//
// If another program has moved the source to another position, the error is a *[PositionError].
// With MaxDepth the whole push is accepted or rejected (ErrFull). With Config.Push.Durable the
// records and the position are on disk when it returns. It takes one round trip.
func (q *Queue) PushFrom(ctx context.Context, source, from, to string, payloads ...[]byte) error {
	if err := q.checkPayloads(ctx, payloads); err != nil {
		return err
	}
	for _, err := range []error{
		within("PushFrom: the number of records", len(payloads), 1, MaxMove),
		within("PushFrom: the length of source in bytes", len(source), 1, MaxPosition),
		within("PushFrom: the length of to in bytes", len(to), 1, MaxPosition),
	} {
		if err != nil {
			return err
		}
	}
	if from == to {
		return fmt.Errorf("%w: PushFrom: to is %q, must differ from the position before", ErrConfig, to)
	}
	args := []string{source, from, to, strconv.FormatInt(q.cfg.Push.MaxDepth, 10)}
	for _, p := range payloads {
		args = append(args, string(p))
	}
	call := q.call(moveScript, fills, args...)
	if !q.cfg.Push.Durable {
		return q.moved(ctx, q.server.Run(ctx, call), source, from, len(payloads))
	}
	r, notDurable := q.server.RunDurably(ctx, q.cfg.Push.DurableTimeout, call)
	if err := q.moved(ctx, r, source, from, len(payloads)); err != nil {
		return err
	}
	return q.durable(notDurable, len(payloads))
}

// positionsType is the hash of the positions of sources.
func (q *Queue) positionsType() redisx.KeyType {
	return redisx.KeyType{Key: q.prefix + "positions", Type: "hash"}
}

// moved parses the reply of move.lua.
func (q *Queue) moved(ctx context.Context, r rueidis.RedisResult, source, from string, n int) error {
	v, err := r.ToArray()
	switch {
	case err != nil:
		return wrapKeys(ctx, q.server, "push", err, q.typeOf(keyStat), q.typeOf(keyReady), q.positionsType())
	case len(v) != 2:
		return unexpected("push", len(v), 2)
	}
	status, err := v[0].AsInt64()
	if err != nil {
		return wrap("push", err)
	}
	if status == 0 {
		depth, err := v[1].AsInt64()
		if err != nil {
			return wrap("push", err)
		}
		return &FullError{Depth: depth, Max: q.cfg.Push.MaxDepth, Records: int64(n)}
	}
	text, err := v[1].ToString()
	switch {
	case err != nil:
		return wrap("push", err)
	case status == -1:
		return q.layoutError(text)
	case status == -2:
		return &PositionError{Source: source, Position: text, Expected: from}
	case status == replyCounter:
		return q.counterError(text)
	}
	return nil
}
