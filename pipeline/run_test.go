package pipeline_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headrace/headrace/pipeline"
)

// journal records events in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

// service runs until its context ends, then returns err.
func (j *journal) service(name string, started *sync.WaitGroup, err error) pipeline.Service {
	started.Add(1)
	return pipeline.ServiceFunc(func(ctx context.Context) error {
		started.Done()
		<-ctx.Done()
		j.add(name + " ends")
		if err != nil {
			return err
		}
		return ctx.Err()
	})
}

// Services are stopped one after the other, in the order in which they were given.
func TestRunStopsInOrder(t *testing.T) {
	t.Parallel()
	var j journal
	var started sync.WaitGroup
	names := []string{"producer", "worker", "promoter", "lookups"}
	var services []pipeline.Service
	for _, n := range names {
		services = append(services, j.service(n, &started, nil))
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { started.Wait(); cancel() }()
	if err := pipeline.Run(ctx, services...); err != nil {
		t.Fatal(err)
	}
	want := []string{"producer ends", "worker ends", "promoter ends", "lookups ends"}
	if !slices.Equal(j.lines, want) {
		t.Errorf("got %q, want %q", j.lines, want)
	}
}

// The first error, or a panic, stops all and is returned. What ends with nil before does not.
func TestRunReturnsTheFirstError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, fail := range map[string]func(context.Context) error{
		"error": func(context.Context) error { return broken },
		"panic": func(context.Context) error { panic(broken) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var j journal
			var started sync.WaitGroup
			a, b := j.service("a", &started, errors.New("a later one")), j.service("b", &started, nil)
			finished := pipeline.ServiceFunc(func(context.Context) error { j.add("finished"); return nil })
			err := pipeline.Run(t.Context(), a, finished, pipeline.ServiceFunc(func(ctx context.Context) error {
				started.Wait()
				return fail(ctx)
			}), b)
			if !errors.Is(err, broken) || !strings.Contains(err.Error(), "service 2") {
				t.Errorf("error %v, want that of service 2", err)
			}
			slices.Sort(j.lines)
			if want := []string{"a ends", "b ends", "finished"}; !slices.Equal(j.lines, want) {
				t.Errorf("got %q, want %q", j.lines, want)
			}
		})
	}
	empty := pipeline.Run(t.Context(), &pipeline.Worker[item]{})
	if empty == nil || !strings.HasPrefix(empty.Error(), "pipeline: service 0 (*pipeline.Worker): ") {
		t.Errorf("error %q, want the service without the type of its rows", empty)
	}
	if err := pipeline.Run(t.Context(), (*pipeline.Worker[item])(nil)); !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("a nil service: %v, want ErrConfig", err)
	}
	if err := pipeline.Run(t.Context(), pipeline.ServiceFunc(func(context.Context) error { return nil })); err != nil {
		t.Errorf("services that have all finished: %v, want nil", err)
	}
}

// Every goes on after an error, logs the outage once, and refuses an invalid interval.
func TestEveryGoesOn(t *testing.T) {
	t.Parallel()
	log := newLines()
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := pipeline.Run(ctx, pipeline.Every(time.Millisecond, "closing windows", slog.New(log), func(context.Context) error {
		if calls++; calls == 10 {
			cancel()
		}
		if calls < 5 {
			return errors.New("away")
		}
		return nil
	}))
	if err != nil || calls < 10 || calls > 11 { // the one that was about to begin
		t.Errorf("%d calls, %v, want 10 or 11", calls, err)
	}
	if got := log.all(); len(got) != 2 || !strings.Contains(got[0], "closing windows failed") || !strings.Contains(got[1], "closing windows works again") {
		t.Errorf("log %q, want the beginning and the end", got)
	}
	if err := pipeline.Run(t.Context(), pipeline.Every(0, "x", nil, nil)); !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("an interval of 0: %v, want ErrConfig", err)
	}
}

// One call runs a program's parts. On shutdown the worker ends before the promoter, so what it has
// staged last is promoted.
func TestRunAPipeline(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	records := numbered("a", 1000, "good")
	r.push(records...)
	worker, err := pipeline.NewWorker(r.flow, pipeline.WorkerConfig{Records: 50, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	promoter, err := pipeline.NewPromoter(r.flow, pipeline.PromoterConfig{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- pipeline.Run(ctx, worker, promoter) }()
	r.settled()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	r.check(want{rows: idsOf(records)})
}

// A job that waits for a stuck pipeline ends with the reason, also when the program was stopped.
func TestRunReturnsAStall(t *testing.T) {
	t.Parallel()
	for want, result := range map[bool]error{
		false: context.Canceled,
		true:  errors.Join(context.Canceled, pipeline.ErrStuck),
	} {
		ctx, cancel := context.WithCancel(t.Context())
		err := pipeline.Run(ctx, pipeline.ServiceFunc(func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			return result
		}))
		if errors.Is(err, pipeline.ErrStuck) != want || !want && err != nil {
			t.Errorf("the service returned %v: got %v", result, err)
		}
	}
}
