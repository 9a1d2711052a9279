package console

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

var (
	//go:embed ready.lua
	readyLua string
	//go:embed inflight.lua
	inflightLua string
	//go:embed dead.lua
	deadLua string

	readyScript    = rueidis.NewLuaScript(readyLua)
	inflightScript = rueidis.NewLuaScript(inflightLua)
	deadScript     = rueidis.NewLuaScript(deadLua)
)

// Bounds of what one page reads of a queue.
const (
	headRecords   = 20      // of the ready list
	headBytes     = 2 << 10 // of each
	flightBatches = 100     // of each state
	deadPage      = 50      // dead letters
	deadLooked    = 1000    // dead letters that a filter looks at for a page
	listBytes     = 2 << 10 // of each payload in a list
	oneBytes      = 64 << 10
)

func (p *pipe) key(kind string) string { return "{" + p.Queue.Name() + "}:queue:" + kind }

// record is the beginning of a record of the ready list.
type record struct {
	begin  []byte
	length int64
}

// readHead reads the oldest records of the ready list.
func (p *pipe) readHead(ctx context.Context) ([]record, error) {
	list, err := readyScript.Exec(ctx, p.Redis, []string{"{" + p.Queue.Name() + "}:ready"},
		[]string{strconv.Itoa(headRecords), strconv.Itoa(headBytes)}).ToArray()
	if err != nil {
		return nil, fmt.Errorf("console: ready list: %w", err)
	}
	out := make([]record, 0, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		length, err := list[i].AsInt64()
		if err != nil {
			return nil, fmt.Errorf("console: ready list: %w", err)
		}
		begin, err := list[i+1].AsBytes()
		if err != nil {
			return nil, fmt.Errorf("console: ready list: %w", err)
		}
		out = append(out, record{begin, length})
	}
	return out, nil
}

// Batch is a sealed batch in the queue.
type Batch struct {
	ID string `json:"id"`
	// At is the deadline of a lease, the time of the next delivery, or when the batch was handed off
	// or set aside, by the server's clock. Left is the time until then, negative for one that is
	// over.
	At   time.Time     `json:"at"`
	Left time.Duration `json:"left_ns"`
	// Worker holds the batch, or held it last; "" where the queue does not know.
	Worker   string    `json:"worker,omitempty"`
	Records  int64     `json:"records"`
	Attempt  int64     `json:"attempt"`
	Root     string    `json:"root"`
	Offset   int64     `json:"offset"`
	Failures int64     `json:"failures"`
	Crashes  int64     `json:"crashes"`
	Reason   string    `json:"reason,omitempty"`
	Sealed   time.Time `json:"sealed"`
	First    time.Time `json:"first_seen"`
}

// DelayedPush is a push whose records may be leased later.
type DelayedPush struct {
	ID      string        `json:"id"`
	Due     time.Time     `json:"due"`
	Left    time.Duration `json:"left_ns"`
	Records int64         `json:"records"`
}

// BatchSet is the batches of one state: the first of them, and how many there are.
type BatchSet struct {
	Total   int64   `json:"total"`
	Batches []Batch `json:"batches"`
}

// QueueBatches is what the queue holds besides the ready list: the batches of each state, and the
// delayed pushes.
type QueueBatches struct {
	Leased    BatchSet      `json:"leased"`
	Waiting   BatchSet      `json:"waiting"`
	HandedOff BatchSet      `json:"handed_off"`
	Broken    BatchSet      `json:"broken"`
	Pushes    int64         `json:"delayed_pushes"`
	Delayed   []DelayedPush `json:"delayed"`
}

// readFlight reads the batches of each state in one step.
func (p *pipe) readFlight(ctx context.Context) (f QueueBatches, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("console: batches in flight: %w", err)
		}
	}()
	keys := []string{p.key("leases"), p.key("redo"), p.key("handed"), p.key("broken"), p.key("delayed")}
	reply, err := inflightScript.Exec(ctx, p.Redis, keys, []string{p.key(""), strconv.Itoa(flightBatches)}).ToArray()
	if err != nil {
		return f, err
	}
	if len(reply) != 1+len(keys) {
		return f, fmt.Errorf("unexpected reply: got %d elements, want %d", len(reply), 1+len(keys))
	}
	millis, err := reply[0].AsInt64()
	if err != nil {
		return f, err
	}
	now := time.UnixMilli(millis)
	for i, set := range []*BatchSet{&f.Leased, &f.Waiting, &f.HandedOff, &f.Broken} {
		if set.Total, set.Batches, err = parseMembers(reply[1+i], parseBatch, now); err != nil {
			return f, err
		}
	}
	f.Pushes, f.Delayed, err = parseMembers(reply[len(keys)], parsePush, now)
	return f, err
}

// member is a member of a sorted set of the queue.
type member struct {
	id     string
	at     time.Time
	left   time.Duration
	fields []string
}

func (m member) number(i int) int64 { n, _ := strconv.ParseInt(m.fields[i], 10, 64); return n }

// parseMembers parses a set of inflight.lua.
func parseMembers[V any](set rueidis.RedisMessage, parse func(member) (V, error), now time.Time) (total int64, out []V, err error) {
	list, err := set.ToArray()
	if err != nil {
		return 0, nil, err
	}
	if len(list) == 0 {
		return 0, nil, fmt.Errorf("unexpected reply: got 0 elements, want 1 or more")
	}
	if total, err = list[0].AsInt64(); err != nil {
		return 0, nil, err
	}
	out = []V{}
	for _, e := range list[1:] {
		parts, err := e.ToArray()
		if err != nil {
			return 0, nil, err
		}
		if len(parts) != 3 {
			return 0, nil, fmt.Errorf("unexpected reply: got %d elements, want 3", len(parts))
		}
		var m member
		if m.id, err = parts[0].ToString(); err != nil {
			return 0, nil, err
		}
		score, err := parts[1].AsFloat64()
		if err != nil {
			return 0, nil, err
		}
		m.at = time.UnixMilli(int64(score))
		m.left = m.at.Sub(now)
		if m.fields, err = texts(parts[2]); err != nil {
			return 0, nil, err
		}
		v, err := parse(m)
		if err != nil {
			return 0, nil, err
		}
		out = append(out, v)
	}
	return total, out, nil
}

// texts reads an array of texts and numbers.
func texts(m rueidis.RedisMessage) ([]string, error) {
	list, err := m.ToArray()
	if err != nil {
		return nil, err
	}
	out := make([]string, len(list))
	for i, e := range list {
		if n, err := e.ToInt64(); err == nil {
			out[i] = strconv.FormatInt(n, 10)
			continue
		}
		if out[i], err = e.ToString(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

const batchFields = 11

func parseBatch(m member) (b Batch, err error) {
	if len(m.fields) != batchFields {
		return b, fmt.Errorf("unexpected reply: got %d fields, want %d", len(m.fields), batchFields)
	}
	return Batch{
		ID: m.id, At: m.at, Left: m.left,
		Attempt: m.number(1), Records: m.number(2), Root: cmp.Or(m.fields[3], m.id), Offset: m.number(4),
		Failures: m.number(5), Crashes: m.number(6), Sealed: time.UnixMilli(m.number(7)), First: time.UnixMilli(m.number(8)),
		Worker: m.fields[9], Reason: visible(m.fields[10]),
	}, nil
}

func parsePush(m member) (DelayedPush, error) {
	if len(m.fields) != 1 {
		return DelayedPush{}, fmt.Errorf("unexpected reply: got %d fields, want 1", len(m.fields))
	}
	return DelayedPush{ID: m.id, Due: m.at, Left: m.left, Records: m.number(0)}, nil
}

// DeadLetter is a dead letter.
type DeadLetter struct {
	ID       string    `json:"id"`
	Died     time.Time `json:"died"`
	First    time.Time `json:"first_seen"`
	Reason   string    `json:"reason"`
	Root     string    `json:"root"`
	Offset   int64     `json:"offset"`
	Attempts int64     `json:"attempts"`
	Failures int64     `json:"failures"`
	Crashes  int64     `json:"crashes"`
	Payload  Payload   `json:"payload"`

	begin []byte // of the payload, as it is
}

// letterPage is a page of dead letters, newest first.
type letterPage struct {
	letters []DeadLetter
	next    string // cursor; "" at the end
}

// letterQuery asks for a page of dead letters.
type letterQuery struct {
	after  string // cursor of the page before
	reason string // a part of the reason
	wanted int
	looked int
	bytes  int    // of each payload
	id     string // of the one letter that is wanted
}

// deadCursor is where the next page begins: after the letter of a time and an id.
type deadCursor struct{ died, id string }

func parseDeadCursor(s string) (deadCursor, error) {
	if s == "" {
		return deadCursor{died: "+inf"}, nil
	}
	died, id, ok := strings.Cut(s, "-")
	if _, err := strconv.ParseInt(died, 10, 64); !ok || err != nil || id == "" {
		return deadCursor{}, fmt.Errorf("%w: invalid cursor %q", ErrArgument, s)
	}
	return deadCursor{died, id}, nil
}

// readLetters reads a page of dead letters.
func (p *pipe) readLetters(ctx context.Context, q letterQuery) (out letterPage, err error) {
	from, err := parseDeadCursor(q.after)
	if err != nil {
		return out, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("console: dead letters: %w", err)
		}
	}()
	reply, err := deadScript.Exec(ctx, p.Redis, []string{p.key("dead")}, []string{
		p.key(""), from.died, from.id, strconv.Itoa(q.wanted), strconv.Itoa(q.looked), strconv.Itoa(q.bytes), q.reason, q.id,
	}).ToArray()
	if err != nil {
		return out, err
	}
	if len(reply) != 3 {
		return out, fmt.Errorf("unexpected reply: got %d elements, want 3", len(reply))
	}
	died, err1 := reply[0].ToString()
	id, err2 := reply[1].ToString()
	list, err3 := reply[2].ToArray()
	if err := cmp.Or(err1, err2, err3); err != nil {
		return out, err
	}
	if id != "" {
		out.next = died + "-" + id
	}
	for _, e := range list {
		l, err := parseLetter(e)
		if err != nil {
			return out, err
		}
		l.Payload = p.h.payload(l.begin, l.Payload.Bytes)
		out.letters = append(out.letters, l)
	}
	return out, nil
}

const letterFields = 8

func parseLetter(m rueidis.RedisMessage) (l DeadLetter, err error) {
	parts, err := m.ToArray()
	if err != nil {
		return l, err
	}
	if len(parts) != 4 {
		return l, fmt.Errorf("unexpected reply: got %d elements, want 4", len(parts))
	}
	if l.ID, err = parts[0].ToString(); err != nil {
		return l, err
	}
	died, err := parts[1].AsFloat64()
	if err != nil {
		return l, err
	}
	if l.Payload.Bytes, err = parts[2].AsInt64(); err != nil {
		return l, err
	}
	f := member{}
	if f.fields, err = texts(parts[3]); err != nil {
		return l, err
	}
	if len(f.fields) != letterFields {
		return l, fmt.Errorf("unexpected reply: got %d fields, want %d", len(f.fields), letterFields)
	}
	l.Died, l.begin = time.UnixMilli(int64(died)), []byte(f.fields[0])
	l.Root, l.Offset, l.Reason = f.fields[1], f.number(2), visible(f.fields[3])
	l.Attempts, l.Failures, l.Crashes, l.First = f.number(4), f.number(5), f.number(6), time.UnixMilli(f.number(7))
	return l, nil
}
