package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/headrace/headrace/examples/internal/ops"
	"github.com/headrace/headrace/examples/internal/program"
)

// stats shows the state of a pipeline. It only reads.
type stats struct {
	windowNames
	Watch seconds `help:"Show it again after this time, such as 5s or 5."`
}

// seconds is a duration of which a plain number is seconds.
type seconds time.Duration

// UnmarshalText parses 5, 5s or 1m.
func (d *seconds) UnmarshalText(text []byte) error {
	v, err := program.ParseDuration(string(text))
	if err != nil || v < 100*time.Millisecond && v != 0 {
		return errors.New("must be a duration such as 5s or 5 (seconds), at least 100ms")
	}
	*d = seconds(v)
	return nil
}

// Run shows the state. It returns an error if the books do not balance.
func (v *stats) Run(ctx context.Context, s *session) error {
	redis, err := s.redis(ctx)
	if err != nil {
		return err
	}
	pool, err := s.postgres(ctx)
	if err != nil {
		return err
	}
	var before *ops.Stats
	return program.Watch(ctx, s.Program, time.Duration(v.Watch), func(ctx context.Context, width int) (string, error) {
		p, err := ops.Open(ctx, redis, pool, s.names())
		if err != nil {
			return "", err
		}
		now, err := p.Stats(ctx)
		if err != nil {
			return "", fmt.Errorf("cannot read the state: %w", err)
		}
		if now.Windows, err = ops.Windows(ctx, redis, v.Windows); err != nil {
			return "", fmt.Errorf("cannot read the windows: %w", err)
		}
		text := now.Text(width, before)
		if s.JSON {
			b, err := json.Marshal(now)
			if err != nil {
				return "", err
			}
			text = string(b) + "\n"
		}
		before = &now
		return text, now.Balanced()
	})
}
