package pipeline_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
)

// A record that makes the chain hang, without regard to its context, is buried all the same. The
// claim of one that only fails is given back.
func TestBurialDoesNotHang(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	hangs := make(chan struct{}, 1)
	r := newRig(t, rigOptions{lease: queue.LeaseConfig{MaxFailures: 1}})
	r.flow.Chain = pipeline.Then(pipeline.Then(
		pipeline.Decode(func(p []byte) (item, error) {
			v, err := decodeItem(p)
			if v.Kind == "hang" && len(hangs) > 0 { // not at first: it is claimed
				<-release
			}
			return v, err
		}),
		pipeline.Dedup(r.window, itemID)),
		pipeline.Func("fail", func(_ context.Context, _ *pipeline.Batch, in pipeline.Records[item]) (pipeline.Records[item], error) {
			select {
			case hangs <- struct{}{}:
			default:
			}
			return in, errors.New("it always fails")
		}))
	r.push("a hang")
	stop := r.start(pipeline.WorkerConfig{Concurrency: 1, LeaseDuration: 200 * time.Millisecond, BatchTimeout: time.Minute}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	r.check(want{dead: []string{"a"}})
}

// A stage that takes the end of its context for an outage does not keep a dead record for ever.
func TestBurialEndsDespiteAnOutage(t *testing.T) {
	t.Parallel()
	failed := make(chan struct{}, 1)
	r := newRig(t, rigOptions{lease: queue.LeaseConfig{MaxFailures: 1}})
	r.flow.Chain = pipeline.Then(pipeline.Then(pipeline.Then(
		pipeline.Decode(decodeItem),
		pipeline.Func("ask", func(ctx context.Context, _ *pipeline.Batch, in pipeline.Records[item]) (pipeline.Records[item], error) {
			if len(failed) > 0 { // not at first: the record is claimed
				<-ctx.Done()
				return in, pipeline.Unavailable(ctx.Err())
			}
			return in, nil
		})),
		pipeline.Dedup(r.window, itemID)),
		pipeline.Func("fail", func(_ context.Context, _ *pipeline.Batch, in pipeline.Records[item]) (pipeline.Records[item], error) {
			select {
			case failed <- struct{}{}:
			default:
			}
			return in, errors.New("it always fails")
		}))
	r.push("a good")
	stop := r.start(pipeline.WorkerConfig{Concurrency: 1, LeaseDuration: 200 * time.Millisecond, BatchTimeout: time.Minute}, pipeline.PromoterConfig{})
	defer stop()
	r.settled()
	stop()
	r.check(want{dead: []string{"a"}})
}
