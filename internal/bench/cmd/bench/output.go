package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/headrace/headrace/internal/bench"
)

// printer writes figures and notes as text or as JSON.
type printer struct {
	w    io.Writer
	json bool
}

func (p printer) figure(r *bench.Result) {
	if p.json {
		p.object(r)
		return
	}
	fmt.Fprintln(p.w, r)
}

func (p printer) note(text string) {
	if p.json {
		p.object(map[string]string{"note": text})
		return
	}
	fmt.Fprintln(p.w, "#", text)
}

func (p printer) object(v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // a type of ours that JSON does not know
	}
	fmt.Fprintf(p.w, "%s\n", text)
}

// filter reads what `go test` prints, forwards figures and notes as they come, and keeps the end of
// the rest for the case of a failure.
type filter struct {
	out     printer
	figures int
	partial []byte
	rest    []string
}

// keep is how many lines of a failed benchmark are shown.
const keep = 40

func (f *filter) Write(b []byte) (int, error) {
	f.partial = append(f.partial, b...)
	for {
		line, after, ok := bytes.Cut(f.partial, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		f.line(string(line))
		f.partial = after
	}
}

// flush handles a last line without its end.
func (f *filter) flush() {
	if len(f.partial) > 0 {
		f.line(string(f.partial))
		f.partial = nil
	}
}

func (f *filter) line(line string) {
	figure, note, ok := bench.ParseLine(line)
	switch {
	case ok && figure != nil:
		f.figures++
		f.out.figure(figure)
	case ok:
		f.out.note(note)
	default:
		f.rest = append(f.rest, line)
		f.rest = f.rest[max(0, len(f.rest)-keep):]
	}
}

func (f *filter) lastWords() string { return strings.Join(f.rest, "\n") }
