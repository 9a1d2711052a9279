package pipeline_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/headrace/headrace/pipeline"
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
