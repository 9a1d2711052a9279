package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
)

// generate pushes orders. It needs no Postgres.
type generate struct {
	Orders     int     `default:"10000" env:"HEADRACE_ORDERS" help:"Records to push, 1 to 100000000."`
	Duplicates float64 `default:"0.05" env:"HEADRACE_DUPLICATES" help:"Share of repeats, 0 to 0.9."`
	Bad        float64 `default:"0.005" env:"HEADRACE_BAD" help:"Share of bad ones, 0 to 0.9."`
	Burst      bool    `env:"HEADRACE_BURST" help:"Give all orders one timestamp."`
	Seed       uint64  `help:"Same seed, same orders (default: the time)."`
	Rate       float64 `help:"Records per second (default: no limit)."`
	File       string  `help:"Push the lines of this file; - is standard input."`
}

type generated struct {
	Pushed     int            `json:"pushed"`
	Repeated   int            `json:"repeated"`
	Refused    int            `json:"refused_lines"`
	Unique     int            `json:"unique,omitempty"`
	Duplicates int            `json:"duplicates,omitempty"`
	Rejects    map[string]int `json:"expected_rejects,omitempty"`
	Seconds    float64        `json:"seconds"`
}

// Validate is called by kong after parsing.
func (v *generate) Validate() error {
	if v.Orders < 1 || v.Orders > 100_000_000 {
		return fmt.Errorf("--orders is %d, must be from 1 to 100000000", v.Orders)
	}
	if v.Rate != 0 && !(v.Rate >= 0.001 && v.Rate <= 1e9) {
		return fmt.Errorf("--rate is %v, must be 0 or from 0.001 to 1000000000", v.Rate)
	}
	for name, share := range map[string]float64{"--duplicates": v.Duplicates, "--bad": v.Bad} {
		if !(share >= 0 && share <= 0.9) {
			return fmt.Errorf("%s is %v, must be from 0 to 0.9", name, share)
		}
	}
	if v.Seed == 0 {
		v.Seed = uint64(time.Now().UnixNano())
	}
	return v.config().Check()
}

func (v *generate) config() orders.Config {
	return orders.Config{Orders: v.Orders, Duplicates: v.Duplicates, Bad: v.Bad, Burst: v.Burst, Seed: v.Seed}
}

// Run pushes the orders.
func (v *generate) Run(ctx context.Context, s *session) error {
	gen, err := orders.NewGenerator(v.config())
	if err != nil {
		return err
	}
	source := stdin
	if v.File != "" && v.File != "-" {
		f, err := os.Open(v.File)
		if err != nil {
			return err
		}
		defer f.Close()
		source = f
	}
	redis, err := s.redis(ctx)
	if err != nil {
		return err
	}
	producer, err := program.Open(ctx, s.Program, func(ctx context.Context) (*orders.Producer, error) {
		return orders.OpenProducer(ctx, redis, s.Queue, orders.Depth)
	})
	if err != nil {
		return err
	}
	if v.Rate > 0 {
		producer.Chunk = max(1, min(orders.PushSize, int(v.Rate/10))) // ten pushes a second, or one a record
	}
	var out generated
	payloads := gen.All()
	var readError error
	if v.File != "" {
		payloads = lines(source, &readError, func(n int, err error) {
			out.Refused++
			s.Say("line %d is not pushed: %v", n, err)
		})
	}
	start := time.Now()
	pushed, err := producer.PushAll(ctx, paced(ctx, payloads, v.Rate), orders.Report(s.Say))
	if err = errors.Join(err, readError); err != nil {
		return fmt.Errorf("%d records are in the queue: %w", pushed.Records, err)
	}
	if ctx.Err() != nil { // it was told to stop between two records
		return fmt.Errorf("%d records are in the queue: %w", pushed.Records, context.Cause(ctx))
	}
	out.Pushed, out.Repeated, out.Seconds = pushed.Records, pushed.Repeated, time.Since(start).Seconds()
	text := fmt.Sprintf("pushed %d records in %.2f s", out.Pushed, out.Seconds)
	if v.File == "" {
		want := gen.Expected()
		out.Unique, out.Duplicates, out.Rejects = want.Unique, want.Duplicates, want.Rejected
		text += ": " + want.String()
	}
	width, _ := program.Width(s.Out)
	if err := s.print(out, program.Wrap("", text, width)+"\n"); err != nil {
		return err
	}
	if out.Refused > 0 {
		return fmt.Errorf("%d lines were not pushed", out.Refused)
	}
	return nil
}

// lines yields the lines of a reader that hold one order each and reports the others by number.
// Empty lines are skipped.
func lines(r io.Reader, failed *error, refuse func(n int, err error)) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		in := bufio.NewReaderSize(r, 1<<20)
		for n := 1; ; n++ {
			line, err := in.ReadBytes('\n')
			if line = bytes.TrimSpace(line); len(line) > 0 {
				if _, bad := orders.Decode(line); bad != nil {
					refuse(n, bad)
				} else if !yield(line) {
					return
				}
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				*failed = err
				return
			}
		}
	}
}

// paced yields no more than rate values a second. 0 is no limit.
func paced(ctx context.Context, values iter.Seq[[]byte], rate float64) iter.Seq[[]byte] {
	if rate == 0 {
		return values
	}
	return func(yield func([]byte) bool) {
		start, n := time.Now(), 0
		for v := range values {
			if !yield(v) {
				return
			}
			n++
			if wait := time.Until(start.Add(time.Duration(float64(n) / rate * float64(time.Second)))); wait > 0 {
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
			}
		}
	}
}
