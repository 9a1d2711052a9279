package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// EnvJSON names an environment variable. Set to 1, it makes Run and Note print one JSON object a
// line instead of text. cmd/bench sets it for the benchmarks that it runs, and turns the objects
// back into text unless it was asked for JSON.
const EnvJSON = "HEADRACE_BENCH_JSON"

type note struct {
	Note string `json:"note"`
}

func (n note) String() string { return "# " + n.Note }

// print writes one line. The testing package may have written the benchmark's name without a
// newline before it.
func print(w io.Writer, line fmt.Stringer) {
	if os.Getenv(EnvJSON) != "1" {
		fmt.Fprintln(w, line)
		return
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err) // a rate that is NaN or infinite: measure excludes it
	}
	fmt.Fprintf(w, "%s\n", text)
}

// ParseLine finds the figure or the note in a line that a benchmark printed under EnvJSON. The
// object may follow something that the testing package wrote. Exactly one of the results is
// set when ok is true.
func ParseLine(line string) (figure *Result, text string, ok bool) {
	for _, start := range []string{`{"figure":`, `{"note":`} {
		i := strings.Index(line, start)
		if i < 0 {
			continue
		}
		var both struct {
			Result
			note
		}
		if json.Unmarshal([]byte(line[i:]), &both) != nil {
			return nil, "", false
		}
		if both.Name != "" {
			return &both.Result, "", true
		}
		return nil, both.Note, true
	}
	return nil, "", false
}
