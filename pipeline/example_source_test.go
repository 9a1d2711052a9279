package pipeline_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/pipelinetest"
)

func ExampleLines() {
	for payload, err := range pipeline.Lines(strings.NewReader("{\"n\":1}\n\n{\"n\":2}\n"), 0) {
		fmt.Println(string(payload), err)
	}
	// Output:
	// {"n":1} <nil>
	// {"n":2} <nil>
}

func ExampleNDJSON() {
	for payload, err := range pipeline.NDJSON(strings.NewReader("{\"n\":1}\n{\"n\":\n{\"n\":2}\n"), 0) {
		fmt.Println(string(payload), err)
	}
	// Output:
	// {"n":1} <nil>
	//  pipeline: line 2: unexpected end of JSON input, at byte 5
	// {"n":2} <nil>
}

func ExampleCSV() {
	for payload, err := range pipeline.CSV(strings.NewReader("sensor,celsius\nattic,31\ncellar\n")) {
		fmt.Println(string(payload), err)
	}
	// Output:
	// {"celsius":"31","sensor":"attic"} <nil>
	//  pipeline: line 3: wrong number of fields
}

// A source of one's own is a function that yields payloads.
func ExampleFeed() {
	numbers := func(yield func([]byte, error) bool) {
		for i := range 3 {
			if !yield(fmt.Append(nil, i), nil) {
				return
			}
		}
	}
	q := pipelinetest.NewQueue("numbers")
	result, err := pipeline.Feed(context.Background(), numbers, q.Push, pipeline.FeedConfig{})
	fmt.Println(result.Pushed, err)
	// Output: 3 <nil>
}
