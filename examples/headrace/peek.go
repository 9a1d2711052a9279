package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headrace/headrace/examples/internal/ops"
	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/queue"
)

// peek shows records where they are.
type peek struct {
	What string `arg:"" optional:"" default:"ready" enum:"ready,leased,handed-off" help:"ready, leased or handed-off."`
	N    int    `short:"n" default:"10" help:"How many, 1 to 1000."`
}

// Validate is called by kong after parsing.
func (v *peek) Validate() error { return between("-n", v.N, 1, 1000) }

func between(flag string, n, lo, hi int) error {
	if n < lo || n > hi {
		return fmt.Errorf("%s is %d, must be from %d to %d", flag, n, lo, hi)
	}
	return nil
}

type handedOff struct {
	Batch   string    `json:"batch"`
	Attempt int64     `json:"attempt"`
	Records int       `json:"records"`
	Since   time.Time `json:"since"`
}

// Run shows the oldest records first.
func (v *peek) Run(ctx context.Context, s *session) error {
	q, err := s.queue(ctx)
	if err != nil {
		return err
	}
	if v.What == "ready" {
		return v.ready(ctx, s, q)
	}
	if v.What == "leased" {
		return v.leased(ctx, s, q)
	}
	batches, err := q.HandedOff(ctx)
	if err != nil {
		return err
	}
	var text strings.Builder
	width, _ := program.Width(s.Out)
	list := []handedOff{}
	for _, b := range batches[:min(v.N, len(batches))] {
		list = append(list, handedOff{b.ID, b.Attempt, b.Records, b.Since})
		rest := fmt.Sprintf("attempt %d, %d records since %s", b.Attempt, b.Records, b.Since.Format(time.TimeOnly))
		fmt.Fprintln(&text, program.Wrap(b.ID+"  ", rest, width))
	}
	return s.print(map[string]any{"handed_off": list}, text.String())
}

// ready shows the records that wait. It reads them in parts, so one that is leased meanwhile may be
// left out.
func (v *peek) ready(ctx context.Context, s *session, q *queue.Queue) error {
	list, err := s.list("ready")
	if err != nil {
		return err
	}
	for list.n < v.N {
		part := min(v.N-list.n, readAtOnce)
		payloads, err := ops.Ready(ctx, s.client, q.Name(), list.n, part)
		if err != nil {
			return err
		}
		for _, b := range payloads {
			if err := list.add(func() any { return ops.Payload(b) }, func() string { return ops.Readable(b) }); err != nil {
				return err
			}
		}
		if len(payloads) < part {
			break
		}
	}
	return list.end("", "", "")
}

type leased struct {
	Batch    string    `json:"batch"`
	Worker   string    `json:"worker"`
	Attempt  int64     `json:"attempt"`
	Records  int       `json:"records"`
	Sealed   time.Time `json:"sealed"`
	Deadline time.Time `json:"deadline"`
	Failures int       `json:"failures"`
	Crashes  int       `json:"crashes"`
	Reason   string    `json:"reason,omitempty"` // of the last failure
}

// leased shows the batches that workers hold, by deadline. One that has ended meanwhile is left
// out.
func (v *peek) leased(ctx context.Context, s *session, q *queue.Queue) error {
	c, err := s.redis(ctx)
	if err != nil {
		return err
	}
	ids, err := c.Do(ctx, c.B().Zrange().Key("{"+s.Queue+"}:queue:leases").Min("0").Max(strconv.Itoa(v.N-1)).Build()).AsStrSlice()
	if err != nil {
		return err
	}
	var text strings.Builder
	list := []leased{}
	width, _ := program.Width(s.Out)
	batches, err := q.Batches(ctx, ids...)
	if err != nil {
		return err
	}
	for _, b := range batches {
		if b.State != queue.BatchStateLeased {
			continue
		}
		list = append(list, leased{b.ID, b.Worker, b.Attempt, b.Records, b.Sealed, b.Since, b.Failures, b.Crashes, b.Reason})
		rest := fmt.Sprintf("attempt %d, %d records until %s by %s", b.Attempt, b.Records, b.Since.Format(time.TimeOnly), b.Worker)
		fmt.Fprintln(&text, program.Wrap(b.ID+"  ", rest, width))
	}
	return s.print(map[string]any{"leased": list}, text.String())
}

// field is a line with a name and a value. On a terminal, a long value goes on in lines below.
func (s *session) field(name, value string) string {
	heading := fmt.Sprintf("%-9s ", name)
	if width, terminal := program.Width(s.Out); terminal {
		return program.Break(heading, value, width) + "\n"
	}
	return heading + program.Clean(value) + "\n"
}

// fit cuts a line to the width of the terminal. A line that goes elsewhere stays whole.
func (s *session) fit(line string) string {
	if width, terminal := program.Width(s.Out); terminal {
		return program.Fit(line, width)
	}
	return program.Clean(line)
}
