package window

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Phase is the state of a tumbling window that is not done.
type Phase string

const (
	// PhaseOpen means that the window accepts events.
	PhaseOpen Phase = "open"
	// PhaseDue means that the window is closed and waits for a closer.
	PhaseDue Phase = "due"
	// PhaseLeased means that a closer holds the window.
	PhaseLeased Phase = "leased"
	// PhaseDead means that the window failed Config.MaxFailures times.
	PhaseDead Phase = "dead"
)

// Summary describes a tumbling window without its events.
type Summary struct {
	Key        string
	Start, End time.Time
	Phase      Phase
	// Events is the number of its events.
	Events int64
	// At is the End of an open window. For the others it is a time by the store's clock (see
	// [Stats].ClockBehind): when the window became or becomes due, when the lease ends, or when the
	// window died.
	At time.Time
	// Reason is why the window was closed; "" for an open one.
	Reason Reason
	// Attempts counts its leases and Failures its failures. Failure is the last failure.
	Attempts, Failures int64
	Failure            string
}

// Windows returns up to n windows of one phase, and the cursor of the next page. The first cursor
// is ""; the last page returns "". Due, leased and dead windows come in the order of At. Open
// windows come key by key, beginning with the key whose last event arrived first; when a key
// receives events meanwhile, its windows may be listed twice. A page of open windows takes one
// round trip. A page of others takes one, and one for every 100 windows. No events are read.
func (s *Store) Windows(ctx context.Context, phase Phase, cursor string, n int) (page []Summary, next string, err error) {
	switch phase {
	case PhaseOpen:
		page, next, err = s.openSummaries(ctx, cursor, n)
	case PhaseDue, PhaseLeased, PhaseDead:
		page, next, err = s.closedSummaries(ctx, phase, cursor, n)
	default:
		err = s.argument("phase is %q, must be open, due, leased or dead", phase)
	}
	if err != nil {
		return nil, "", s.wrap("windows", err)
	}
	return page, next, nil
}

func (s *Store) closedSummaries(ctx context.Context, phase Phase, cursor string, n int) (page []Summary, next string, err error) {
	entries, next, err := s.nextPage(ctx, eventSet{kind: string(phase)}, "-inf", "+inf", cursor, n)
	if err != nil {
		return nil, "", err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.member
	}
	all, err := s.describe(ctx, names)
	if err != nil {
		return nil, "", err
	}
	for i, d := range all {
		w, err := parseName(names[i])
		if err != nil || d.state != string(phase) {
			continue // it has moved meanwhile, or another program wrote the entry: Audit names it
		}
		if d.events < 0 {
			d.events = d.there
		}
		page = append(page, Summary{
			Key: w.key, Start: w.start, End: w.end, Phase: phase, Events: d.events, At: time.UnixMilli(entries[i].at).UTC(),
			Reason: Reason(d.reason), Attempts: d.attempts, Failures: d.failures, Failure: d.failure,
		})
	}
	return page, next, nil
}

// openEntry is a window in the reply of listall.lua, and the place at which the next page begins.
type openEntry struct {
	score, end, key, name string
	events                int64
}

// cursor is the entry in a form that callers only hand back.
func (e openEntry) cursor() string {
	return fmt.Sprintf("%s %s %d %s%s", e.score, e.end, len(e.key), e.key, e.name)
}

func (s *Store) parseOpenCursor(cursor string) (e openEntry, err error) {
	if cursor == "" {
		return e, nil
	}
	f := strings.SplitN(cursor, " ", 4)
	if len(f) == 4 {
		for _, score := range f[:2] {
			if n, err1 := strconv.ParseFloat(score, 64); err1 != nil || math.IsNaN(n) {
				err = s.argument("invalid cursor %q", cursor)
			}
		}
		length, err1 := strconv.Atoi(f[2])
		if err == nil && err1 == nil && length >= 0 && length <= len(f[3]) {
			return openEntry{score: f[0], end: f[1], key: f[3][:length], name: f[3][length:]}, nil
		}
	}
	return e, s.argument("invalid cursor %q", cursor)
}

func (s *Store) openSummaries(ctx context.Context, cursor string, n int) (page []Summary, next string, err error) {
	if n < 1 || n > MaxPage {
		return nil, "", s.argument("n is %d, must be 1 to %d", n, MaxPage)
	}
	from, err := s.parseOpenCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	r, err := s.run(ctx, listAllScript, false, from.score, from.end, from.key, from.name, strconv.Itoa(n))
	v, err := array(r, err, 1)
	if err != nil {
		return nil, "", err
	}
	more, err := v[0].AsInt64()
	if err != nil {
		return nil, "", err
	}
	var last openEntry
	for _, m := range v[1:] {
		if last, err = parseOpenEntry(m); err != nil {
			return nil, "", fmt.Errorf("unexpected reply: %w", err)
		}
		w, err := parseName(last.name + " " + last.key)
		if err != nil {
			continue // a key without open windows, or an entry of another program: Audit names it
		}
		page = append(page, Summary{Key: w.key, Start: w.start, End: w.end, Phase: PhaseOpen, Events: last.events, At: w.end})
	}
	if more == 1 && len(v) > 1 {
		next = last.cursor()
	}
	return page, next, nil
}

func parseOpenEntry(m rueidis.RedisMessage) (e openEntry, err error) {
	v, err := m.ToArray()
	if err == nil && len(v) != 5 {
		err = fmt.Errorf("got %d elements, want 5", len(v))
	}
	if err != nil {
		return e, err
	}
	for i, p := range []*string{&e.score, &e.end, &e.key, &e.name} {
		if *p, err = v[i].ToString(); err != nil {
			return e, err
		}
	}
	e.events, err = v[4].AsInt64()
	return e, err
}
