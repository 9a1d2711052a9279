package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/pipeline"
)

// stuck is how long the job may take to account for the last records.
const stuck = 3 * time.Minute

func run(ctx context.Context, p *program.Program, o options) error {
	gen, err := orders.NewGenerator(o.Orders)
	if err != nil {
		return err
	}
	n, err := startNodes(ctx, p)
	if err != nil {
		return err
	}
	defer n.stop()
	shards, err := openShards(ctx, n, o.Depth)
	if err != nil {
		return err
	}
	var parts []*part
	for i := range shards.Len() {
		part, err := openPart(ctx, n, shards, i, o.Worker)
		if err != nil {
			return err
		}
		parts = append(parts, part)
	}
	if err := createParent(ctx, n); err != nil {
		return err
	}

	payloads := gen.All()
	if o.payloads != nil {
		payloads = o.payloads(n, payloads)
	}
	repeated, err := work(ctx, shards, parts, payloads)
	if err != nil {
		return err
	}
	show := func(out io.Writer) error { return report(ctx, out, n, shards, parts, gen.Expected(), repeated) }
	if o.after != nil {
		if err := o.after(ctx, n, show); err != nil {
			return err
		}
	}
	return show(p.Out)
}

// work runs the parts, pushes everything, and returns when all of it is accounted for. It returns
// how many records were pushed again.
func work(ctx context.Context, s *pipeline.Shards, parts []*part, payloads iter.Seq[[]byte]) (repeated int, err error) {
	running, stop := context.WithCancel(ctx)
	defer stop()
	services := []pipeline.Service{pipeline.ServiceFunc(func(ctx context.Context) error {
		defer stop() // the other services end with the job
		var err error
		if repeated, err = pushAll(ctx, s, payloads); err != nil {
			return fmt.Errorf("pushing: %w", err)
		}
		draining, cancel := context.WithTimeout(ctx, stuck)
		defer cancel()
		for _, part := range parts {
			if err := part.flow.Drain(draining); err != nil {
				return err
			}
		}
		return nil
	})}
	for _, part := range parts {
		services = append(services, part.services...)
	}
	err = pipeline.Run(running, services...)
	if err == nil {
		err = ctx.Err()
	}
	return repeated, err
}
