package staging

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// The head of a binary COPY: signature, flags, no extension. Its end: a row of -1 columns.
var (
	copyHead = []byte("PGCOPY\n\377\r\n\000\000\000\000\000\000\000\000\000")
	copyTail = []byte{0xff, 0xff}
)

// span is the rows [lo, hi) that one record made.
type span struct {
	pos    int32
	lo, hi int
}

// encoder turns records into binary COPY while the server reads it: the two run at the same time. A
// record of which a row cannot be written leaves no row and is kept as rejected.
type encoder[T any] struct {
	t     *Table[T]
	load  *Load[T]
	spans []span // nil: row i is record i
	order []int  // the rows in order of their records; nil: as they are
	from  int    // first record of this COPY
	to    int
	no    int32
	row   Row

	sent    []int // index of the record of each row that was written, if remember
	keep    bool
	rejects *[]Reject
	rows    int // written
	kept    int // records written
	spill   []byte
	state   int // 0 head, 1 rows, 2 done
	err     error
	missing error // refused a record, and may be due to the surroundings

	limit   time.Duration // of one COPY, where slow records are looked for
	others  bool          // the table has taken other batches meanwhile
	late    []int         // records that were too slow alone, to be tried again
	lastTry bool          // this is done now
	halfway func() error
}

// records lists the rows of each record; rows of one record need not be adjacent.
func (l *Load[T]) records() ([]span, []int) {
	if l.Pos == nil {
		return nil, nil
	}
	var order []int
	if !slices.IsSorted(l.Pos) {
		order = make([]int, len(l.Pos))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(l.Pos[a], l.Pos[b]) })
	}
	spans := make([]span, 0, len(l.Pos))
	for i := range l.Pos {
		p := l.Pos[i]
		if order != nil {
			p = l.Pos[order[i]]
		}
		if n := len(spans); n > 0 && spans[n-1].pos == p {
			spans[n-1].hi++
		} else {
			spans = append(spans, span{p, i, i + 1})
		}
	}
	return spans, order
}

func (e *encoder[T]) span(i int) span {
	if e.spans == nil {
		return span{int32(i), i, i + 1}
	}
	return e.spans[i]
}

func (e *encoder[T]) rowOf(i int) *T {
	if e.order != nil {
		i = e.order[i]
	}
	return &e.load.Rows[i]
}

// record appends the rows of record i to the row's buffer, or rejects it.
func (e *encoder[T]) record(i int) {
	r := &e.row
	at, s := len(r.buf), e.span(i)
	for n := s.lo; n < s.hi; n++ {
		v, begin := e.rowOf(n), len(r.buf)
		r.buf = binary.BigEndian.AppendUint16(r.buf, uint16(len(e.t.cols)+1))
		if e.t.fields != nil {
			p := unsafe.Pointer(v)
			for j := range e.t.fields {
				f := &e.t.fields[j]
				f.put(unsafe.Add(p, f.offset), r, &r.cols[j])
			}
		} else {
			r.i = 0
			e.t.fill(v, r)
			if r.i != len(r.cols) && r.err == nil {
				r.err = fmt.Errorf("%w: %d values for %d columns: %s", ErrConfig, r.i, len(r.cols), badCalls)
			}
		}
		if size := len(r.buf) - begin; size > e.t.maxRow && r.flaw == nil && r.err == nil {
			e.tooLarge(s.pos, size)
		}
		if r.flaw != nil || r.err != nil {
			f := r.flaw
			r.flaw = nil
			r.buf = r.buf[:at]
			if r.err == nil {
				*e.rejects = append(*e.rejects, e.t.reject(e.load, s.pos, v, f.code, f.reason))
			}
			return
		}
		r.buf = binary.BigEndian.AppendUint64(r.size(8), uint64(recordOf(e.no, s.pos)))
	}
	e.kept++
	e.rows += s.hi - s.lo
	if e.keep {
		for range s.hi - s.lo {
			e.sent = append(e.sent, i)
		}
	}
}

// tooLarge rejects a record with a row over MaxRow, or stops the batch if only the row itself could
// be its payload.
func (e *encoder[T]) tooLarge(pos int32, size int) {
	if int(pos) < len(e.load.Payloads) {
		e.row.flaw = &flaw{CodeRowSize, fmt.Sprintf("a row has %d bytes, must have at most %d", size, e.t.maxRow)}
		return
	}
	e.row.err = fmt.Errorf("%w: batch %s: record %d has a row of %d bytes, must have at most %d, or be in Load.Payloads, to be rejected with what is there",
		ErrLoad, e.load.Batch.ID, pos, size, e.t.maxRow)
}

// Read implements io.Reader. Rows are encoded straight into p; what does not fit waits in spill.
func (e *encoder[T]) Read(p []byte) (int, error) {
	if len(e.spill) > 0 {
		n := copy(p, e.spill)
		e.spill = e.spill[n:]
		return n, nil
	}
	if e.err != nil {
		return 0, e.err
	}
	if e.state == 2 {
		return 0, io.EOF
	}
	if e.load.Encoding != nil && e.from < e.to {
		if e.err = e.load.Encoding(true); e.err != nil {
			return 0, e.err
		}
		defer e.load.Encoding(false) //nolint:errcheck // nothing follows that could be stopped
	}
	r := &e.row
	r.buf = p[:0]
	if e.state == 0 {
		r.buf = append(r.buf, copyHead...)
		e.state = 1
	}
	longest := 0
	for e.from < e.to && len(r.buf)+longest <= len(p) {
		if e.halfway != nil && e.from >= e.to/2 {
			if e.err = e.halfway(); e.err != nil {
				return 0, e.err
			}
			e.halfway = nil
		}
		at := len(r.buf)
		e.record(e.from)
		if r.err != nil {
			e.err = r.err
			return 0, e.err
		}
		e.from++
		longest = max(longest, len(r.buf)-at)
	}
	if e.from == e.to && len(r.buf)+len(copyTail) <= len(p) {
		r.buf = append(r.buf, copyTail...)
		e.state = 2
	}
	if len(r.buf) <= len(p) && (len(r.buf) == 0 || &r.buf[0] == &p[0]) {
		return len(r.buf), nil
	}
	n := copy(p, r.buf) // a row outgrew p, and append moved the bytes elsewhere
	e.spill = r.buf[n:]
	return n, nil
}

// reject describes a record that cannot be staged.
func (t *Table[T]) reject(l *Load[T], pos int32, v *T, code, reason string) Reject {
	x := Reject{Pos: pos, Code: code, Reason: reason, Key: t.idOf(v)}
	if int(pos) < len(l.Payloads) {
		x.Payload = l.Payloads[pos]
	} else {
		x.Payload = t.payload(v)
	}
	return x
}

// idOf finds the record's id for the dedup window; this is the slow path.
func (t *Table[T]) idOf(v *T) string {
	if t.idBy != nil {
		return t.idBy(v)
	}
	for i := range t.fields {
		if t.fields[i].Name == t.cfg.ID {
			return t.fields[i].text(unsafe.Pointer(v))
		}
	}
	return ""
}

// copyRows streams records [from, to) into the staging table of s.
func (t *Table[T]) copyRows(ctx context.Context, q *pgx.Conn, s side, e *encoder[T]) error {
	err := copyIn(ctx, q, t.sql.side[s].copyRows.text, e)
	if e.err != nil {
		return e.err // the server's answer only repeats it
	}
	return err
}

// copyRejects writes the rejected records.
func (t *table) copyRejects(ctx context.Context, q *pgx.Conn, s side, no int32, rejects []Reject) error {
	rejects, err := representable(ctx, q, rejects)
	if err != nil {
		return err
	}
	utf8Server := q.PgConn().ParameterStatus("server_encoding") == "UTF8"
	r := Row{cols: rejectCols}
	r.buf = append(r.buf, copyHead...)
	for _, x := range rejects {
		r.i = 0
		r.buf = binary.BigEndian.AppendUint16(r.buf, uint16(len(rejectCols)))
		r.Int(int64(no))
		r.Int(int64(x.Pos))
		r.String(plain(x.Key))
		r.String(codeWord(x.Code))
		r.String(cutReason(plain(x.Reason)))
		if readable(x.Payload, utf8Server) {
			r.Bytes(x.Payload)
			r.Null()
		} else {
			r.Null()
			r.Bytes(x.Payload)
		}
	}
	r.buf = append(r.buf, copyTail...)
	return copyIn(ctx, q, t.sql.side[s].copyRejects.text, bytes.NewReader(r.buf))
}

var rejectCols = []column{{name: "hr_batch", kind: kInt4}, {name: "pos", kind: kInt4}, {name: "key", kind: kText}, {name: "code", kind: kText},
	{name: "reason", kind: kText}, {name: "payload", kind: kText}, {name: "bytes", kind: kBytea}}

// readable is true for a payload that the database can hold as text. Any other is kept as bytes.
func readable(payload []byte, utf8Server bool) bool {
	utf, nul := textOK(payload)
	return utf && !nul && (utf8Server || !slices.ContainsFunc(payload, func(c byte) bool { return c >= 0x80 }))
}

// plain makes any string a text that Postgres takes.
func plain(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// newEncoder makes an encoder for records [from, to).
func (t *Table[T]) newEncoder(l *Load[T], spans []span, order []int, from, to int, no int32, m *pgtype.Map, rejects *[]Reject) *encoder[T] {
	return &encoder[T]{t: t, load: l, spans: spans, order: order, from: from, to: to, no: no, rejects: rejects, row: Row{cols: t.cols, m: m}}
}

// carefully copies records [from, to) where a COPY of all of them has failed. It finds the
// offending records by the line that Postgres names, or by halves if it names none, rejects them,
// and copies the others. Each failure costs the records before it a second COPY, so the total cost
// is linear. It runs in a transaction, and every COPY has a savepoint.
func (t *Table[T]) carefully(ctx context.Context, q *pgx.Conn, s side, e *encoder[T]) error {
	if e.from >= e.to {
		return nil
	}
	from, to := e.from, e.to
	rows, kept, rejects := e.rows, e.kept, len(*e.rejects)
	if err := e.startCopy(ctx, q); err != nil {
		return err
	}
	e.keep, e.sent, e.state, e.spill, e.row.checkJSON = true, e.sent[:0], 0, nil, true
	if err := t.at("careful copy"); err != nil {
		return err
	}
	sent, err := 0, error(nil)
	if e.limit > 0 && to-from == 1 {
		sent, err = t.copyOne(ctx, q, s, e)
	} else {
		err = t.copyRows(ctx, q, s, e)
	}
	if err == nil {
		_, err = q.Exec(ctx, "release savepoint hr_copy")
		return err
	}
	slow := e.limit > 0 && sqlState(err) == queryCanceled && isSlow(err) && ctx.Err() == nil && sent <= mostSlowBytes
	if !isData(err) && !slow {
		return err
	}
	if _, err := q.Exec(ctx, "rollback to savepoint hr_copy; release savepoint hr_copy"); err != nil {
		return err
	}
	e.rows, e.kept, *e.rejects = rows, kept, (*e.rejects)[:rejects]
	if to-from == 1 {
		if slow {
			return e.slowRecord(from, err)
		}
		sp := e.span(from)
		if isMissing(err) {
			e.missing = err
		}
		code, reason := refusalOf(err)
		if isTooWide(err) {
			reason += "; a staged row is 8 bytes longer than in the target: one that fits there can be replayed"
		}
		*e.rejects = append(*e.rejects, t.reject(e.load, sp.pos, e.rowOf(sp.lo), code, reason))
		return nil
	}
	mid := from + (to-from)/2
	if line := copyLine(err, t.stagingName[s]); line > 0 && line <= len(e.sent) {
		mid = e.sent[line-1]
	}
	cuts := []int{from, mid, mid + 1, to}
	if mid == from {
		cuts = []int{from, mid + 1, to}
	}
	for i := range len(cuts) - 1 {
		e.from, e.to = cuts[i], cuts[i+1]
		if err := t.carefully(ctx, q, s, e); err != nil {
			return err
		}
	}
	return nil
}

// copyLine finds the line in "COPY orders_staging_a, line 17, column total".
func copyLine(err error, table string) int {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return 0
	}
	where := pg.Where
	i := strings.Index(where, table)
	if i < 0 {
		return 0
	}
	n, seen := 0, false
	for _, c := range where[i+len(table):] {
		if c >= '0' && c <= '9' {
			n, seen = n*10+int(c-'0'), true
			if n > 1<<30 {
				return 0
			}
		} else if seen {
			break
		}
	}
	return n
}
