package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/headrace/headrace/pipeline"
)

func number(payload []byte) (int, error) { return strconv.Atoi(string(payload)) }

// show tries a chain and prints the rows, and the fate of each record.
func show[T any](chain pipeline.Stage[[]byte, T], payloads ...string) {
	result, err := pipeline.Try(context.Background(), chain, payloads...)
	if err != nil {
		fmt.Println("batch failed:", err)
		return
	}
	fmt.Println(result.Rows)
	for i, r := range result.Records {
		if r.Fate == pipeline.FateRejected {
			fmt.Printf("%s: rejected, %s: %s\n", payloads[i], r.Code, r.Reason)
		} else if r.Fate != pipeline.FateKept {
			fmt.Printf("%s: %v\n", payloads[i], r.Fate)
		}
	}
}

// A chain is tested without servers.
func ExampleTry() {
	chain := pipeline.Then3(
		pipeline.Decode(parseReading),
		pipeline.Dedup(nil, sensorOf), // Try brings a window; a program gives its *dedup.Deduplicator
		pipeline.Filter("above zero", func(r reading) bool { return r.Celsius > 0 }),
	)
	result, err := pipeline.Try(context.Background(), chain, "attic 31", "attic 31", "garden -4", "roof hot")
	fmt.Println(result.Rows, err)
	for _, r := range result.Records {
		fmt.Printf("%v, rows %d, code %q\n", r.Fate, r.Rows, r.Code)
	}
	// Output:
	// [{attic 31}] <nil>
	// kept, rows 1, code ""
	// duplicate, rows 0, code ""
	// filtered, rows 0, code ""
	// rejected, rows 0, code "bad_value"
}

func ExampleDecode() {
	show(pipeline.Decode(number), "1", "x")
	// Output:
	// [1]
	// x: rejected, malformed: strconv.Atoi: parsing "x": invalid syntax
}

func ExampleMap() {
	half := pipeline.Map("half", func(n int) (float64, error) {
		if n < 0 {
			return 0, pipeline.Reject("negative", "%d is below zero", n)
		}
		return float64(n) / 2, nil
	})
	show(pipeline.Then(pipeline.Decode(number), half), "3", "-1")
	// Output:
	// [1.5]
	// -1: rejected, negative: -1 is below zero
}

// One call for the whole batch, as for a remote service.
func ExampleMapBatch() {
	price := pipeline.MapBatch("price", func(_ context.Context, in []int) (out []int, errs []error, err error) {
		out, errs = make([]int, len(in)), make([]error, len(in))
		for i, n := range in {
			if out[i] = 10 * n; n == 13 {
				errs[i] = errors.New("no price")
			}
		}
		return out, errs, nil
	})
	show(pipeline.Then(pipeline.Decode(number), price), "1", "13", "2")
	// Output:
	// [10 20]
	// 13: rejected, rejected: no price
}

// A record becomes several rows. One without a row is filtered.
func ExampleFlatMap() {
	words := pipeline.FlatMap("words", func(payload []byte) ([]string, error) { return strings.Fields(string(payload)), nil })
	show(words, "to be", " ", "or")
	// Output:
	// [to be or]
	//  : filtered
}

func ExampleFilter() {
	small := pipeline.Filter("small", func(n int) bool { return n < 10 })
	show(pipeline.Then(pipeline.Decode(number), small), "3", "30")
	// Output:
	// [3]
	// 30: filtered
}

// All records of a batch see one snapshot of the reference data.
func ExampleLookup() {
	names := func(context.Context) (map[int]string, error) { return map[int]string{1: "one", 2: "two"}, nil }
	name := pipeline.Lookup("name", names, func(n int, names map[int]string) (string, error) {
		if s, ok := names[n]; ok {
			return s, nil
		}
		return "", pipeline.Reject("unknown_number", "%d has no name", n)
	})
	show(pipeline.Then(pipeline.Decode(number), name), "2", "3")
	// Output:
	// [two]
	// 3: rejected, unknown_number: 3 has no name
}

func ExampleDedup() {
	show(pipeline.Then(pipeline.Decode(parseReading), pipeline.Dedup(nil, sensorOf)), "attic 30", "attic 31", " 7")
	// Output:
	// [{attic 30}]
	// attic 31: duplicate
	//  7: rejected, missing_id: the record has no id
}

// A stage of one's own passes on each record, or reports its end.
func ExampleFunc() {
	odd := pipeline.Func("odd", func(_ context.Context, b *pipeline.Batch, in pipeline.Records[int]) (out pipeline.Records[int], err error) {
		for i := range in.Len() {
			if in.Values[i]%2 == 0 {
				b.Filter(in.Pos[i])
				continue
			}
			out.Values, out.Pos = append(out.Values, in.Values[i]), append(out.Pos, in.Pos[i])
		}
		return out, nil
	})
	show(pipeline.Then(pipeline.Decode(number), odd), "1", "2", "3")
	lossy := pipeline.Func("lossy", func(_ context.Context, _ *pipeline.Batch, in pipeline.Records[int]) (out pipeline.Records[int], err error) {
		return pipeline.Records[int]{Values: in.Values[1:], Pos: in.Pos[1:]}, nil
	})
	_, err := pipeline.Try(context.Background(), pipeline.Then(pipeline.Decode(number), lossy), "1", "2")
	fmt.Println("accounted for:", !errors.Is(err, pipeline.ErrUnaccounted))
	// Output:
	// [1 3]
	// 2: filtered
	// accounted for: false
}

func ExampleBatch() {
	sort := pipeline.Func("sort", func(_ context.Context, b *pipeline.Batch, in pipeline.Records[string]) (out pipeline.Records[string], err error) {
		for i, v := range in.Values {
			switch v {
			case "again":
				b.Duplicate(in.Pos[i])
			case "noise":
				b.Filter(in.Pos[i])
			case "bad":
				b.Reject(in.Pos[i], "bad_word", "a bad word")
			default:
				out.Values, out.Pos = append(out.Values, v), append(out.Pos, in.Pos[i])
			}
		}
		return out, nil
	})
	text := pipeline.Decode(func(payload []byte) (string, error) { return string(payload), nil })
	show(pipeline.Then(text, sort), "good", "again", "noise", "bad")
	// Output:
	// [good]
	// again: duplicate
	// noise: filtered
	// bad: rejected, bad_word: a bad word
}

func add(k int) pipeline.Stage[int, int] {
	return pipeline.Map(fmt.Sprint("add ", k), func(n int) (int, error) { return n + k, nil })
}

func ExampleThen() {
	chain := pipeline.Then(pipeline.Decode(number), add(1))
	fmt.Println(chain.Name())
	show(chain, "1")
	// Output:
	// decode → add 1
	// [2]
}

func ExampleThen3() {
	show(pipeline.Then3(pipeline.Decode(number), add(1), add(10)), "1")
	// Output: [12]
}

func ExampleThen4() {
	show(pipeline.Then4(pipeline.Decode(number), add(1), add(10), add(100)), "1")
	// Output: [112]
}

// Longer chains are joined from shorter ones.
func ExampleThen5() {
	five := pipeline.Then5(pipeline.Decode(number), add(1), add(10), add(100), add(1000))
	show(pipeline.Then(five, add(10_000)), "1")
	// Output: [11112]
}

func ExampleReject() {
	chain := pipeline.Decode(func([]byte) (int, error) { return 0, pipeline.Reject("too_old", "it is %d days old", 90) })
	show(chain, "x")
	// Output:
	// []
	// x: rejected, too_old: it is 90 days old
}

// A service that is unavailable costs no record: the batch is redelivered later.
func ExampleUnavailable() {
	away := pipeline.Map("rate", func(int) (int, error) { return 0, pipeline.Unavailable(errors.New("no answer from the rates")) })
	show(pipeline.Then(pipeline.Decode(number), away), "1")
	// Output: batch failed: stage "rate": no answer from the rates
}
