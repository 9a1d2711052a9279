package pipeline

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/queue"
)

// Source yields payloads, or errors about single records. Any iterator of that type is a source: a
// function that calls yield for each record.
type Source = iter.Seq2[[]byte, error]

// LineError is an error about one record of a [Lines], [NDJSON] or [CSV] source. The source
// continues after it.
type LineError struct {
	Line int // from 1
	Err  error
}

func (e *LineError) Error() string {
	return fmt.Sprintf("pipeline: line %d: %s", e.Line, strings.TrimPrefix(e.Err.Error(), "pipeline: "))
}
func (e *LineError) Unwrap() error { return e.Err }

// ErrLongLine is wrapped by the error about a line that exceeds the limit of [Lines] or [NDJSON].
var ErrLongLine = errors.New("pipeline: the line is too long")

// ErrNotUTF8 is wrapped by the error about a text of a [CSV] or [NDJSON] source that JSON cannot
// hold.
var ErrNotUTF8 = errors.New("pipeline: the text is not valid UTF-8")

// Lines is a source of one record per line, in any format. It skips blank lines and a byte order
// mark at the beginning, and passes the others on as they are, without their ends: the chain
// rejects malformed ones, with their payload. A line of more than limit bytes (0:
// [queue.DefaultMaxPayload]) is a [LineError].
func Lines(r io.Reader, limit int) Source {
	return lines("Lines", r, limit, func([]byte) error { return nil })
}

// NDJSON is a source of one JSON value per line. It is [Lines], but a line that is not valid JSON
// in UTF-8 is a [LineError], and is not pushed. Choose it where the line numbers help to mend the
// file, and Lines where malformed lines shall be among the rejects.
func NDJSON(r io.Reader, limit int) Source {
	return lines("NDJSON", r, limit, func(line []byte) error {
		if !utf8.Valid(line) {
			return ErrNotUTF8
		}
		var value json.RawMessage
		err := json.Unmarshal(line, &value)
		var at *json.SyntaxError
		if errors.As(err, &at) {
			return fmt.Errorf("%w, at byte %d", err, at.Offset)
		}
		return err
	})
}

// lines is the source of a function that takes the lines that check accepts.
func lines(function string, r io.Reader, limit int, check func(line []byte) error) Source {
	limit = cmp.Or(limit, queue.DefaultMaxPayload)
	return func(yield func([]byte, error) bool) {
		if redisx.IsNil(r) {
			yield(nil, fmt.Errorf("%w: the reader of %s is nil, must be an io.Reader", ErrConfig, function))
			return
		}
		if limit < 0 {
			yield(nil, fmt.Errorf("%w: the limit of %s is %d, must be at least 0 bytes", ErrConfig, function, limit))
			return
		}
		in := withoutMark(r)
		for line := 1; ; line++ {
			text, long, err := readLine(in, limit)
			switch {
			case err != nil && !errors.Is(err, io.EOF):
				yield(nil, fmt.Errorf("pipeline: could not read line %d: %w", line, err))
				return
			case long:
				if !yield(nil, &LineError{line, fmt.Errorf("%w: more than %d bytes", ErrLongLine, limit)}) {
					return
				}
			case len(bytes.TrimSpace(text)) > 0:
				bad := check(text)
				if bad != nil {
					text, bad = nil, &LineError{line, bad}
				}
				if !yield(text, bad) {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
}

// withoutMark skips a byte order mark, which spreadsheets write at the beginning of UTF-8. It would
// become a part of the first name or record.
func withoutMark(r io.Reader) *bufio.Reader {
	const mark = "\uFEFF"
	in := bufio.NewReaderSize(r, 64<<10)
	first, err := in.Peek(1)
	for err == nil && len(first) < len(mark) && strings.HasPrefix(mark, string(first)) { // a short line may be all there is for now
		first, err = in.Peek(len(first) + 1)
	}
	if string(first) == mark {
		_, _ = in.Discard(len(mark))
	}
	if err != nil && !errors.Is(err, io.EOF) { // Peek has taken the error: it must come after the bytes
		return bufio.NewReader(io.MultiReader(bytes.NewReader(first), failed{err}))
	}
	return in
}

// failed is a reader that has failed.
type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

// readLine reads a line without its end. It reads past a line that is too long and keeps nothing of
// it.
func readLine(in *bufio.Reader, limit int) (line []byte, long bool, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if !long {
			line = append(line, part...)
			long = len(bytes.TrimRight(line, "\r\n")) > limit
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return bytes.TrimRight(line, "\r\n"), long, err
	}
}

// CSV is a source of CSV records after a header line. Each payload is a JSON object that maps the
// names in the header, which must be unique, to the texts of the fields. A record that cannot be
// parsed, has a different number of fields than the header, or is not valid UTF-8, is a
// [LineError]. A byte order mark at the beginning is skipped.
func CSV(r io.Reader) Source {
	return func(yield func([]byte, error) bool) {
		if redisx.IsNil(r) {
			yield(nil, fmt.Errorf("%w: the reader of CSV is nil, must be an io.Reader", ErrConfig))
			return
		}
		in := csv.NewReader(withoutMark(r))
		in.ReuseRecord = true
		header, err := in.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			yield(nil, fmt.Errorf("pipeline: could not read the header: %w", err))
			return
		}
		header = slices.Clone(header)
		for i, name := range header {
			if !utf8.ValidString(name) {
				yield(nil, fmt.Errorf("%w: the header has the name %q", ErrNotUTF8, name))
				return
			}
			if slices.Contains(header[:i], name) {
				yield(nil, fmt.Errorf("pipeline: the header names the field %q twice", name))
				return
			}
		}
		for {
			fields, err := in.Read()
			var bad *csv.ParseError
			switch {
			case errors.Is(err, io.EOF):
				return
			case errors.As(err, &bad):
				if !yield(nil, &LineError{bad.StartLine, bad.Err}) {
					return
				}
				continue
			case err != nil:
				yield(nil, fmt.Errorf("pipeline: could not read a record: %w", err))
				return
			}
			object := make(map[string]string, len(fields))
			var changed error // what JSON would change silently
			for i, f := range fields {
				if object[header[i]] = f; changed == nil && !utf8.ValidString(f) {
					line, _ := in.FieldPos(i)
					changed = &LineError{line, fmt.Errorf("%w: field %q", ErrNotUTF8, header[i])}
				}
			}
			if changed != nil {
				if !yield(nil, changed) {
					return
				}
				continue
			}
			payload, err := json.Marshal(object)
			if !yield(payload, err) {
				return
			}
		}
	}
}
