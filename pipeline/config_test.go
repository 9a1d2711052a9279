package pipeline

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/backpressure"
	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// A stage without its function is a configuration error, not a panic for each record: all of them
// would end in the dead-letter list.
func TestStagesWithoutAFunctionAreRefused(t *testing.T) {
	for what, chain := range map[string]Stage[[]byte, int]{
		`function of stage "decode"`:     Decode[int](nil),
		`function of stage "double"`:     Then(Decode(atoi), Map[int, int]("double", nil)),
		`function of stage "halves"`:     Then3(Decode(atoi), Filter("halves", func(int) bool { return true }), MapBatch[int, int]("halves", nil)),
		`function of stage "parts"`:      Then(Decode(atoi), FlatMap[int, int]("parts", nil)),
		`function of stage "odd"`:        Then3(Decode(atoi), Filter[int]("odd", nil), Filter("even", func(int) bool { return true })),
		`function of stage "own"`:        Then(Decode(atoi), Func[int, int]("own", nil)),
		`snapshot of stage "rates"`:      Then(Decode(atoi), Lookup[int]("rates", nil, func(n, _ int) (int, error) { return n, nil })),
		`function of stage "prices"`:     Then(Decode(atoi), Lookup[int, int, int]("prices", func(context.Context) (int, error) { return 0, nil }, nil)),
		`id function of stage "dedup"`:   Then(Decode(atoi), Dedup[int](brokenWindow{}, nil)),
		"a stage in Flow.Chain has no":   Then(Decode(atoi), Map("", func(n int) (int, error) { return n, nil })),
		"a stage in Flow.Chain is empty": Then(Decode(atoi), Stage[int, int]{}),
	} {
		err := flow(Flow[int]{Queue: named{}, Table: someTable{}, Chain: chain})()
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), what) {
			t.Errorf("error %v, want ErrConfig with %q", err, what)
		}
		if _, tryErr := Try(t.Context(), chain, "7"); !errors.Is(tryErr, ErrConfig) || !strings.Contains(tryErr.Error(), what) {
			t.Errorf("Try: error %v, want ErrConfig with %q", tryErr, what)
		}
	}
}

// anyClient is a client that no call reaches.
type anyClient struct{ rueidis.Client }

// Every configuration error wraps ErrConfig and names the field, its value and the range.
func TestConfigErrorsNameTheField(t *testing.T) {
	for want, validate := range map[string]func() error{
		"WorkerConfig.Concurrency is -1, must be 1 to 1024":                                         worker(WorkerConfig{Concurrency: -1}),
		"WorkerConfig.Records is 100001, must be 1 to 100000":                                       worker(WorkerConfig{Records: 100_001}),
		"WorkerConfig.Bytes is -1, must be 1 to 536870912":                                          worker(WorkerConfig{Bytes: -1}),
		"WorkerConfig.Linger is -1ns, must be 0s to 1h0m0s":                                         worker(WorkerConfig{Linger: -1}),
		"WorkerConfig.LeaseDuration is 1ns, must be 100ms to 720h0m0s":                              worker(WorkerConfig{LeaseDuration: 1}),
		"WorkerConfig.BatchTimeout is 1s, must be 1m0s to":                                          worker(WorkerConfig{LeaseDuration: time.Minute, BatchTimeout: time.Second}),
		"WorkerConfig.ShutdownTimeout is -1ns, must be 0s to":                                       worker(WorkerConfig{ShutdownTimeout: -1}),
		"PromoterConfig.PollInterval is -1ns, must be 1ms to":                                       promoter(PromoterConfig{PollInterval: -1}),
		"PromoterConfig.ReconcileInterval is 1ns, must be 1ms to":                                   promoter(PromoterConfig{ReconcileInterval: 1}),
		"PromoterConfig.RefreshInterval is -1s, must be 1ms to":                                     promoter(PromoterConfig{RefreshInterval: -time.Second}),
		"PromoterConfig.ShutdownTimeout is -1ns, must be 0s to":                                     promoter(PromoterConfig{ShutdownTimeout: -1}),
		"WorkerConfig.MaxRecords is 10, must be 2000 to":                                            worker(WorkerConfig{MaxRecords: 10}),
		"WorkerConfig.MaxBytes is 10, must be 16777216 to":                                          worker(WorkerConfig{MaxBytes: 10}),
		"WorkerConfig.CallTimeout is -1ns, must be 10ms to 2m0s":                                    worker(WorkerConfig{CallTimeout: -1}),
		"PromoterConfig.Retention is 1m0s, must be 1h0m0s to":                                       promoter(PromoterConfig{Retention: time.Minute}),
		"PromoterConfig.Promote.MaxRows is -1, must be 0 to 1073741824":                             promoter(PromoterConfig{Promote: staging.PromoteOptions{MaxRows: -1}}),
		"PromoterConfig.Promote.Timeout is -1ns, must be 0s to":                                     promoter(PromoterConfig{Promote: staging.PromoteOptions{Timeout: -1}}),
		"Flow.Queue is nil, must be":                                                                flow(Flow[int]{}),
		"Flow.Queue is nil, must":                                                                   flow(Flow[int]{Queue: (*queue.Queue)(nil)}),
		"Flow.Chain is empty, must begin with Decode":                                               flow(Flow[int]{Queue: named{}}),
		"Flow.Table is nil, must be":                                                                flow(Flow[int]{Queue: named{}, Chain: Decode(atoi)}),
		"Flow.Table is nil, must":                                                                   flow(Flow[int]{Queue: named{}, Chain: Decode(atoi), Table: (*staging.Table[int])(nil)}),
		"the window of the Dedup stage in Flow.Chain is nil, must be":                               flow(Flow[int]{Queue: named{}, Table: someTable{}, Chain: deduped(nil)}),
		"the window of the Dedup stage in Flow.Chain is nil, must":                                  flow(Flow[int]{Queue: named{}, Table: someTable{}, Chain: deduped((*dedup.Deduplicator)(nil))}),
		`Dedup stage in Flow.Chain is named "", must be "orders" like the`:                          flow(Flow[int]{Queue: named{}, Table: someTable{}, Chain: deduped(brokenWindow{})}),
		"Flow.Signals is empty, must come from NewSignals":                                          flow(Flow[int]{Queue: named{}, Table: someTable{}, Chain: Decode(atoi), Signals: &Signals{}}),
		"Flow.Queue has no name, must come from queue.New":                                          flow(Flow[int]{Queue: &queue.Queue{}}),
		"Flow.Table is empty, must come from staging.New":                                           flow(Flow[int]{Queue: named{}, Chain: Decode(atoi), Table: &staging.Table[int]{}}),
		"Flow.Table: staging: invalid configuration: the TableGroup is empty, must come from Group": flow(Flow[int]{Queue: named{}, Chain: Decode(atoi), Table: &staging.TableGroup[int]{}}),
		"Flow.Gate is empty, must come from backpressure.New":                                       flow(Flow[int]{Queue: named{}, Chain: Decode(atoi), Table: someTable{}, Gate: &backpressure.Gate{}}),
		"the Worker is empty, must come from NewWorker":                                             func() error { return new(Worker[int]).Run(context.Background()) },
		"the Promoter is empty, must come from NewPromoter":                                         func() error { return new(Promoter[int]).Run(context.Background()) },
		"the Relay is empty, must come from NewRelay":                                               func() error { return new(Relay).Run(context.Background()) },
		"the queue of NewRelay has no name, must come from":                                         func() error { _, err := NewRelay(&queue.Queue{}, "r", RelayConfig{}); return err },
		"NewSignals: name is empty":                                                                 func() error { _, err := NewSignals(anyClient{}, ""); return err },
		"NewSignals: name has 201 bytes":                                                            func() error { _, err := NewSignals(anyClient{}, strings.Repeat("n", 201)); return err },
		`NewSignals: name is "a b"`:                                                                 func() error { _, err := NewSignals(anyClient{}, "a b"); return err },
		"the function of Listen is nil": func() error {
			s, err := NewSignals(anyClient{}, "orders")
			if err != nil {
				return err
			}
			return s.Listen(context.Background(), nil)
		},
		"the client of NewSignals is nil": func() error { _, err := NewSignals(nil, "orders"); return err },
	} {
		if err := validate(); !errors.Is(err, ErrConfig) || !strings.HasPrefix(err.Error(), "pipeline: invalid configuration: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want ErrConfig with %q", err, want)
		}
	}
}

func worker(c WorkerConfig) func() error {
	return func() error { _, err := c.withDefaults(); return err }
}

func promoter(c PromoterConfig) func() error {
	return func() error { _, err := c.withDefaults(); return err }
}

func flow(f Flow[int]) func() error {
	return func() error {
		_, werr := NewWorker(f, WorkerConfig{})
		_, perr := NewPromoter(f, PromoterConfig{})
		_, berr := f.Books(context.Background())
		if werr == nil || perr == nil || berr == nil || werr.Error() != perr.Error() || werr.Error() != berr.Error() {
			return errors.New("NewWorker, NewPromoter and Books disagree about a flow")
		}
		return werr
	}
}

func deduped(w Deduplicator) Stage[[]byte, int] {
	return Then(Decode(atoi), Dedup(w, func(int) string { return "" }))
}

type named struct{ Queue }

func (named) Name() string { return "orders" }

type someTable struct{ Table[int] }

type gate struct{ notified int }

func (g *gate) Notify(context.Context) error { g.notified++; return nil }

// A nil pointer in an optional field is no value at all.
func TestNilPointersInOptionalFields(t *testing.T) {
	f := Flow[int]{Queue: named{}, Table: someTable{}, Chain: Decode(atoi), Gate: (*gate)(nil)}
	w, err := NewWorker(f, WorkerConfig{Observer: ObserverFunc(nil)})
	if err != nil {
		t.Fatal(err)
	}
	w.flow.notifyGate(t.Context())
	w.events.emit(t.Context(), Event{})
	p, err := NewPromoter(f, PromoterConfig{Observer: (*observerPointer)(nil)})
	if err != nil {
		t.Fatal(err)
	}
	p.flow.notifyGate(t.Context())
	p.events.emit(t.Context(), Event{})
	g := &gate{}
	if f.Gate = g; true {
		f, err = f.validate()
	}
	f.notifyGate(t.Context())
	if err != nil || g.notified != 1 {
		t.Errorf("notified %d times, %v, want once", g.notified, err)
	}
}

type observerPointer struct{ n int }

func (o *observerPointer) Observe(context.Context, Event) { o.n++ }
