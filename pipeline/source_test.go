package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/pipeline/pipelinetest"
	"github.com/headrace/headrace/queue"
)

// read collects what a source yields, errors as their texts.
func read(s pipeline.Source) (out []string) {
	for p, err := range s {
		if err != nil {
			p = []byte("error: " + err.Error())
		}
		out = append(out, string(p))
	}
	return out
}

func TestLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200_000)
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"empty":             {"", nil},
		"ends":              {"a\nb\r\n\n  \nc", []string{"a", "b", "c"}},
		"malformed goes on": {"{\n}", []string{"{", "}"}},
		"long":              {"a\n" + long + "\nb\n" + long, []string{"a", "error: pipeline: line 2: the line is too long: more than 100000 bytes", "b", "error: pipeline: line 4: the line is too long: more than 100000 bytes"}},
		"spaces and tabs":   {"\tb\t\n x \n\t\n", []string{"\tb\t", " x "}},
		"byte order mark":   {"\uFEFFa\n\uFEFFb\n", []string{"a", "\uFEFFb"}},
		"only a mark":       {"\uFEFF", nil},
		"part of a mark":    {"\xef\xbb", []string{"\xef\xbb"}},
		"just fits":         {long[:100_000] + "\r\n", []string{long[:100_000]}},
	} {
		for reader, r := range map[string]io.Reader{"whole": strings.NewReader(c.in), "in halves": iotest.HalfReader(strings.NewReader(c.in))} {
			if got := read(pipeline.Lines(r, 100_000)); !slices.Equal(got, c.want) {
				t.Errorf("%s, %s: got %d lines %.200q, want %.200q", name, reader, len(got), got, c.want)
			}
		}
	}
	got := read(pipeline.Lines(io.MultiReader(strings.NewReader("a\n"), iotest.ErrReader(io.ErrClosedPipe)), 0))
	if len(got) != 2 || got[0] != "a" || !strings.Contains(got[1], "could not read line 2") {
		t.Errorf("a reader that fails: got %q, want the line and the error", got)
	}
	once := iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("a\nb\n"))) // its second read fails, the third one does not
	if got := read(pipeline.Lines(once, 0)); len(got) != 1 || !strings.Contains(got[0], "could not read line 1") {
		t.Errorf("a reader that fails once: got %q, want only the error", got)
	}
}

func TestNDJSON(t *testing.T) {
	t.Parallel()
	in := "\uFEFF{\"a\":1}\r\n\n  [1, 2]\ntrue false\n{\"a\":\"\xff\"}\n\x00\n" + strings.Repeat("[", 20_000) + "\n\"" + strings.Repeat("x", 30_000) + "\"\n-1e9"
	want := []string{
		`{"a":1}`, "  [1, 2]",
		"error: pipeline: line 4: invalid character 'f' after top-level value, at byte 6",
		"error: pipeline: line 5: the text is not valid UTF-8",
		`error: pipeline: line 6: invalid character '\x00' looking for beginning of value, at byte 1`,
		"error: pipeline: line 7: invalid character '[' exceeded max depth, at byte 10001",
		"error: pipeline: line 8: the line is too long: more than 25000 bytes",
		"-1e9",
	}
	if d := cmp.Diff(want, read(pipeline.NDJSON(strings.NewReader(in), 25_000))); d != "" {
		t.Error("(-want +got)", d)
	}
	for what, s := range map[string]pipeline.Source{"the limit of NDJSON is -1": pipeline.NDJSON(strings.NewReader(in), -1), "the reader of NDJSON is nil": pipeline.NDJSON(nil, 0)} {
		for _, err := range s {
			if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), what) {
				t.Errorf("got %v, want ErrConfig: %s", err, what)
			}
		}
	}
}

func TestCSV(t *testing.T) {
	t.Parallel()
	got := read(pipeline.CSV(strings.NewReader("id,note\n1,\"a, \"\"b\"\"\nc\"\n2\n3,x,y\n4,\"z\n")))
	want := []string{`{"id":"1","note":"a, \"b\"\nc"}`, "error: pipeline: line 4: wrong number of fields", "error: pipeline: line 5: wrong number of fields", `error: pipeline: line 6: extraneous or missing " in quoted-field`}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := read(pipeline.CSV(strings.NewReader("id,id\n1,2\n"))); len(got) != 1 || !strings.Contains(got[0], `the field "id" twice`) {
		t.Errorf("a header that names a field twice: got %q, want only the error", got)
	}
	got = read(pipeline.CSV(strings.NewReader("id,note\n1,\xff\n2,\ufffd\n\xc3,\xff\n")))
	want = []string{`error: pipeline: line 2: the text is not valid UTF-8: field "note"`, `{"id":"2","note":"` + "\ufffd" + `"}`,
		`error: pipeline: line 4: the text is not valid UTF-8: field "id"`}
	if !slices.Equal(got, want) {
		t.Errorf("texts that are not UTF-8: got %q, want %q", got, want)
	}
	if got := read(pipeline.CSV(strings.NewReader("id,\xff\n1,2\n"))); len(got) != 1 || !strings.Contains(got[0], "not valid UTF-8") {
		t.Errorf("a header that is not UTF-8: got %q, want only the error", got)
	}
	for _, header := range []string{"\uFEFFid,n", "\uFEFF\"id\",n"} { // as spreadsheets write it
		if got := read(pipeline.CSV(strings.NewReader(header + "\n1,\uFEFF2\n"))); !slices.Equal(got, []string{`{"id":"1","n":"` + "\uFEFF" + `2"}`}) {
			t.Errorf("a byte order mark before the header: got %q", got)
		}
	}
	if got := read(pipeline.CSV(strings.NewReader(""))); len(got) != 0 {
		t.Errorf("an empty file: got %q, want nothing", got)
	}
}

// Feed pushes in chunks and states how far it came, whatever fails.
func TestFeed(t *testing.T) {
	t.Parallel()
	source := func(records ...string) pipeline.Source {
		return pipeline.Lines(strings.NewReader(strings.Join(records, "\n")), 10)
	}
	records := []string{"a", "b", "this is too long", "c", "d", "e"}
	skip := func(*pipeline.LineError) error { return nil }
	q := pipelinetest.NewQueue("orders")
	calls := 0
	r, err := pipeline.Feed(t.Context(), source(records...), func(ctx context.Context, p ...[]byte) error { calls++; return q.Push(ctx, p...) },
		pipeline.FeedConfig{Records: 2, OnError: skip})
	if st, _ := q.Stats(t.Context()); err != nil || calls != 3 || st.Ready != 5 || r != (pipeline.FeedResult{Pushed: 5, Skipped: 1}) {
		t.Errorf("got %+v, %v in %d pushes, %d ready, want 5 pushed in 3, 1 skipped", r, err, calls, st.Ready)
	}
	r, err = pipeline.Feed(t.Context(), source(records...), q.Push, pipeline.FeedConfig{})
	var bad *pipeline.LineError
	if !errors.As(err, &bad) || bad.Line != 3 || !errors.Is(err, pipeline.ErrLongLine) || r.Pushed != 2 {
		t.Errorf("without OnError: %+v, %v, want 2 pushed and the error of line 3", r, err)
	}
	partly := func(_ context.Context, p ...[]byte) error {
		return fmt.Errorf("away: %w", &queue.PushError{Pushed: 1, Unknown: 1, Err: errLostReply})
	}
	r, err = pipeline.Feed(t.Context(), source("a", "b", "c"), partly, pipeline.FeedConfig{})
	if !errors.Is(err, errLostReply) || r != (pipeline.FeedResult{Pushed: 1, Unknown: 1}) {
		t.Errorf("a push that fails: %+v, %v, want 1 pushed, 1 unknown", r, err)
	}
	// One shard of three has failed: b is not in the queue, d may be, and the others are.
	parted := func(context.Context, ...[]byte) error {
		return &queue.ShardsPushError{Rest: []int{1}, Unknown: []int{3}, Err: errLostReply}
	}
	r, err = pipeline.Feed(t.Context(), source("a", "b", "c", "d", "e"), parted, pipeline.FeedConfig{})
	if !errors.Is(err, errLostReply) || r != (pipeline.FeedResult{Pushed: 1, Unknown: 4}) {
		t.Errorf("a push that fails in one shard: %+v, %v, want 1 pushed, 4 unknown", r, err)
	}
	if _, err := pipeline.Feed(t.Context(), source(), q.Push, pipeline.FeedConfig{Records: -1}); !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("got %v, want ErrConfig", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pipeline.Feed(ctx, source("a"), q.Push, pipeline.FeedConfig{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the error of the context", err)
	}
}
