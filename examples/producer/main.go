// Command producer pushes generated orders into the Redis queue. Look at [orders.Producer.PushAll]:
// the gate holds the producer back while the workers lag behind, so Redis' memory stays bounded.
// Any other program may produce too: redis-cli LPUSH '{orders}:ready' '{"order_id":…}' does.
//
//	REDIS_URL=redis://localhost:6379 go run ./examples/producer -orders 100000
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/headrace/headrace/examples/internal/monitor"
	"github.com/headrace/headrace/examples/internal/program"
	"github.com/headrace/headrace/examples/orders"
)

const help = `
Usage: producer [flags]

Pushes generated orders into the Redis queue of REDIS_URL. While too many orders
wait, it waits for the workers. While Redis is unavailable, it retries.

Example:
  REDIS_URL=redis://localhost:6379 producer -orders 100000 -bad 0.01
`

func main() { program.Main("producer", run) }

func run(ctx context.Context, p *program.Program, args []string) error {
	var cfg orders.Config
	flags := program.NewFlags(p.Name, help)
	orders.GeneratorFlags(flags, &cfg)
	depth := 0
	orders.DepthFlag(flags, &depth)
	var listen string
	flags.Text(&p.RedisURL, "redis", "URL", "the Redis server (default $REDIS_URL)")
	flags.Listen(&listen)
	if err := flags.Parse(p, args); err != nil {
		return err
	}
	gen, err := orders.NewGenerator(cfg)
	if err != nil {
		return &program.UsageError{Text: err.Error()}
	}
	redis, err := p.Redis(ctx)
	if err != nil {
		return err
	}
	defer redis.Close()
	producer, err := program.Open(ctx, p, func(ctx context.Context) (*orders.Producer, error) {
		return orders.OpenProducer(ctx, redis, orders.Name, depth)
	})
	if err != nil {
		return err
	}
	m, err := monitor.Start(ctx, p, listen, map[string]monitor.Ping{"Redis": program.PingRedis(redis)})
	if err != nil {
		return err
	}
	defer m.Close()
	observe, err := counted(m, orders.Report(p.Say))
	if err != nil {
		return err
	}
	start := time.Now()
	pushed, err := producer.PushAll(ctx, gen.All(), observe)
	if err != nil {
		return fmt.Errorf("%d of %d orders are in the queue: %w", pushed.Records, cfg.Orders, err)
	}
	text := fmt.Sprintf("pushed %d orders in %v: %v", pushed.Records, time.Since(start).Round(time.Millisecond), gen.Expected())
	width, _ := program.Width(p.Out)
	fmt.Fprintln(p.Out, program.Wrap("", text, width))
	if pushed.Repeated > 0 {
		fmt.Fprintf(p.Out, "%d of them were pushed twice, because a reply was lost; the workers drop those that arrived twice\n", pushed.Repeated)
	}
	return nil
}

// counted makes an observer count what it reports.
func counted(m *monitor.Monitor, o orders.PushObserver) (orders.PushObserver, error) {
	pushed, err := m.Counter("headrace.pushed.records", "{record}", "Records that were pushed.")
	if err != nil {
		return o, err
	}
	waiting, err := m.Counter("headrace.pushed.wait", "s", "Time that the gate held pushes back.")
	o.Pushed = func(records int, _, waited time.Duration) {
		pushed(float64(records))
		waiting(waited.Seconds())
	}
	return o, err
}
