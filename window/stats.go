package window

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Stats are the counts of a [Store], read in one step.
type Stats struct {
	// Keys counts the keys with open windows. Due windows wait for a closer, Leased ones are held by
	// one, and Dead ones failed too often.
	Keys, Due, Leased, Dead int64
	// OldestDue is how long the oldest due window has waited for a closer, 0 if none is due. It grows
	// while no closer runs.
	OldestDue time.Duration
	// Windows counts all windows in Redis, including those that are done and remembered.
	Windows int64
	// Late counts the late events; see [Store.Late].
	Late int64
	// Events are the books of the tumbling windows.
	Events EventCounts
	// ClockBehind is how far the server's clock is behind the store's own, because the server's
	// was set back. Leases, delays and retentions follow the store's clock, which never goes back.
	ClockBehind time.Duration
	// Damaged names the books that hold no number, each with its text: another program has
	// overwritten them. They are 0 in Events, and no call changes them until Repair recounts them.
	Damaged string
}

// EventCounts are the books of tumbling windows: Added equals the sum of all the others.
type EventCounts struct {
	Added int64
	// Open to Dead events are in windows of that state.
	Open, Due, Leased, Dead int64
	// Done, Discarded and Expired events were in windows that ended that way.
	Done, Discarded, Expired int64
}

// Balanced returns nil if the books balance, or an [ErrImbalance] with the equation and the
// difference, or with the books that hold no number.
func (s Stats) Balanced() error {
	if s.Damaged != "" {
		return fmt.Errorf("%w: books that hold no number: %s", ErrImbalance, s.Damaged)
	}
	e := s.Events
	if sum := e.Open + e.Due + e.Leased + e.Dead + e.Done + e.Discarded + e.Expired; sum != e.Added {
		return fmt.Errorf("%w: %d events were added, but open + due + leased + dead + done + discarded + expired are %d: off by %d",
			ErrImbalance, e.Added, sum, e.Added-sum)
	}
	return nil
}

// statsElements is the number of elements of the reply of stats.lua.
const statsElements = 17

// Stats reads the counts in one round trip. It changes nothing.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	r, err := s.run(ctx, statsScript, false)
	reply, err := array(r, err, statsElements)
	if err != nil {
		return Stats{}, s.wrap("stats", err)
	}
	var v [statsElements - 1]int64
	for i := range v {
		if v[i], err = reply[i].AsInt64(); err != nil {
			return Stats{}, s.wrap("stats", err)
		}
	}
	damaged, err := reply[len(v)].AsStrSlice()
	if err != nil {
		return Stats{}, s.wrap("stats", err)
	}
	var names []string
	for pair := range slices.Chunk(damaged, 2) {
		names = append(names, fmt.Sprintf("%s = %q", pair[0], pair[1]))
	}
	return Stats{
		Keys: v[0], Due: v[1], Leased: v[2], Dead: v[3], Windows: v[4], Late: v[5], ClockBehind: time.Duration(v[6]) * time.Millisecond,
		Events:    EventCounts{Added: v[7], Open: v[8], Due: v[9], Leased: v[10], Dead: v[11], Done: v[12], Discarded: v[13], Expired: v[14]},
		OldestDue: time.Duration(v[15]) * time.Millisecond,
		Damaged:   strings.Join(names, ", "),
	}, nil
}

// AuditReport is the result of [Store.Audit] and [Store.Repair].
type AuditReport struct {
	// Windows is the number of compared windows.
	Windows int
	// Differences name each window whose keys disagree, and the difference.
	Differences []string
	// Repaired lists the changes that Repair made.
	Repaired []string
}

// Balanced returns nil, or an [ErrImbalance] with the first difference.
func (a AuditReport) Balanced() error {
	if len(a.Differences) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d differences, the first: %s", ErrImbalance, len(a.Differences), a.Differences[0])
}

// Audit compares each window's record with its events and with the sets that contain it, one window
// per step. It blocks no other call and changes nothing, but it reads the keys of every window.
func (s *Store) Audit(ctx context.Context) (AuditReport, error) { return s.audit(ctx, false) }

// Repair audits and mends what it can; call it until it finds nothing. A window returns to the set
// of its state. A window that lost events moves to the dead-letter list, and its Failure states how
// many; so does a window whose state was overwritten. A window without a record is abandoned. A key
// of another type is deleted, and so is a member of a set that names no window. A key without a
// time to live gets one. Overwritten numbers are recounted.
func (s *Store) Repair(ctx context.Context) (AuditReport, error) { return s.audit(ctx, true) }

func (s *Store) audit(ctx context.Context, repair bool) (a AuditReport, err error) {
	if err := s.auditTypes(ctx, repair, &a); err != nil {
		return a, s.wrap("audit", err)
	}
	before, err := s.Stats(ctx)
	if err != nil {
		return a, err
	}
	names, err := s.windows(ctx, repair, &a)
	if err != nil {
		return a, s.wrap("audit", err)
	}
	counted := map[string]int64{} // events by state
	a.Windows = len(names)
	for len(names) > 0 {
		some := names[:min(len(names), maxScriptWindows)]
		names = names[len(some):]
		all, err := s.describe(ctx, some)
		if err != nil {
			return a, s.wrap("audit", err)
		}
		for i, d := range all {
			counted[d.state] += max(0, d.events)
			why := d.difference()
			if why == "" {
				continue
			}
			a.Differences = append(a.Differences, fmt.Sprintf("window %q: %s", some[i], why))
			if repair {
				done, err := s.repairOne(ctx, some[i])
				if err != nil {
					return a, s.wrap("repair", err)
				}
				a.Repaired = append(a.Repaired, fmt.Sprintf("window %q: %s", some[i], done))
			}
		}
	}
	after, err := s.Stats(ctx)
	if err != nil {
		return a, err
	}
	if after.Damaged != "" {
		a.Differences = append(a.Differences, after.Balanced().Error())
		if !repair {
			return a, nil
		}
		if after, err = s.restoreBooks(ctx, counted, &a); err != nil {
			return a, err
		}
		before = after
	}
	if len(a.Differences) > 0 && !repair {
		return a, nil // the sums follow the windows
	}
	if err := after.Balanced(); err != nil {
		a.Differences = append(a.Differences, err.Error())
	}
	if before.Events == after.Events { // nothing moved meanwhile
		err = s.auditSums(ctx, after.Events, counted, repair, &a)
	}
	if err == nil && repair {
		err = s.balanceBooks(ctx, &a)
	}
	return a, err
}

// balanceBooks corrects a book that holds a wrong number, and that no window shows.
func (s *Store) balanceBooks(ctx context.Context, a *AuditReport) error {
	r, err := s.run(ctx, rebookScript, true, "balance")
	if err == nil {
		var changed int64
		if changed, err = r.AsInt64(); changed == 1 {
			a.Repaired = append(a.Repaired, "balanced the books")
		}
	}
	if err != nil {
		return s.wrap("repair", err)
	}
	return nil
}

// restoreBooks gives the books that hold no number their values.
func (s *Store) restoreBooks(ctx context.Context, counted map[string]int64, a *AuditReport) (Stats, error) {
	args := []string{"restore"}
	for _, state := range []string{"open", "due", "leased", "dead"} {
		args = append(args, strconv.FormatInt(counted[state], 10))
	}
	if _, err := s.run(ctx, rebookScript, true, args...); err != nil {
		return Stats{}, s.wrap("repair", err)
	}
	a.Repaired = append(a.Repaired, "recounted the books that held no number")
	return s.Stats(ctx)
}

// auditSums compares how many events are booked in each state with how many its windows have.
func (s *Store) auditSums(ctx context.Context, e EventCounts, counted map[string]int64, repair bool, a *AuditReport) error {
	for _, line := range []struct {
		state  string
		booked int64
	}{{"open", e.Open}, {"due", e.Due}, {"leased", e.Leased}, {"dead", e.Dead}} {
		off := line.booked - counted[line.state]
		if off == 0 {
			continue
		}
		a.Differences = append(a.Differences, fmt.Sprintf("%d events are booked as %s, but windows of that state have %d: off by %d", line.booked, line.state, counted[line.state], off))
		if !repair {
			continue
		}
		if _, err := s.run(ctx, rebookScript, true, "move", line.state, strconv.FormatInt(off, 10)); err != nil {
			return s.wrap("repair", err)
		}
		done := fmt.Sprintf("booked %d events as expired instead of %s", off, line.state)
		if off < 0 {
			done = fmt.Sprintf("booked %d more events as %s", -off, line.state)
		}
		a.Repaired = append(a.Repaired, done)
	}
	return nil
}

// auditTypes checks the types of all keys and whether they expire. A key of another type ends an
// audit.
func (s *Store) auditTypes(ctx context.Context, repair bool, a *AuditReport) error {
	var keys []string
	if err := s.scanKeys(ctx, func(key string) { keys = append(keys, key) }); err != nil {
		return err
	}
	var wrong error
	for some := range slices.Chunk(keys, MaxPage) {
		err := s.auditKeys(ctx, some, repair, a)
		if err != nil && !errors.As(err, new(*wrongTypeError)) {
			return err
		}
		wrong = cmp.Or(wrong, err)
	}
	return wrong
}

// wrongTypeError is a difference that ends an audit.
type wrongTypeError struct{ text string }

func (e *wrongTypeError) Error() string { return e.text }

// typeOf returns which type a key must have, "" for a key that this package does not write.
func (s *Store) typeOf(key string) string {
	kind, _, _ := strings.Cut(strings.TrimPrefix(key, s.prefix), ":")
	kind, _, _ = strings.Cut(kind, ".")
	switch kind {
	case "meta", "info", "marks":
		return "hash"
	case "open", "events", "slide", "late", "idle", "due", "leases", "dead", "expiry":
		return "zset"
	case "never":
		return "none"
	}
	return ""
}

// auditKeys checks the types and the times to live of keys. It returns a wrongTypeError if one has
// another type and stays.
func (s *Store) auditKeys(ctx context.Context, keys []string, repair bool, a *AuditReport) (wrong error) {
	replies := s.server.ReadAll(ctx, func() (cmds []rueidis.Completed) {
		for _, key := range keys {
			cmds = append(cmds, s.server.Command("TYPE", key), s.server.Command("PTTL", key))
		}
		return cmds
	})
	b := s.server.Client().B()
	for i, key := range keys {
		got, err := replies[2*i].ToString()
		if err != nil {
			return err
		}
		ttl, err := replies[2*i+1].AsInt64()
		if err != nil {
			return err
		}
		var why, done string
		var mend rueidis.Completed
		switch want := s.typeOf(key); {
		case want == "" || got == "none":
			continue
		case got != want:
			why, done, mend = fmt.Sprintf("type is %s, must be %s", got, want), "deleted key "+key, b.Unlink().Key(key).Build()
			if !repair && wrong == nil {
				wrong = &wrongTypeError{fmt.Sprintf("key %s: %s", key, why)}
			}
		case ttl == -1:
			lives := max(4*s.cfg.Retention, s.cfg.Keep)
			why, done, mend = "it never expires", fmt.Sprintf("let key %s expire in %v", key, lives), b.Pexpire().Key(key).Milliseconds(lives.Milliseconds()).Build()
		default:
			continue
		}
		a.Differences = append(a.Differences, fmt.Sprintf("key %s: %s", key, why))
		if !repair {
			continue
		}
		if err := s.server.Client().Do(ctx, mend).Error(); err != nil {
			return err
		}
		a.Repaired = append(a.Repaired, done)
	}
	return wrong
}

// windows returns the names of all windows, from every set that has some and from the keys. It
// reports names that are not valid.
func (s *Store) windows(ctx context.Context, repair bool, a *AuditReport) ([]string, error) {
	seen := map[string]bool{}
	var out []string
	visit := func(name string) bool {
		if _, err := parseName(name); err != nil {
			return false
		}
		if !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
		return true
	}
	sets := slices.Clone(s.keys[3:]) // due, leases, dead and expiry
	info, events := s.prefix+"info:", s.prefix+"events:"
	err := s.scanKeys(ctx, func(key string) {
		for _, p := range []string{info, events} {
			if len(key) > len(p) && key[:len(p)] == p {
				visit(key[len(p):])
			}
		}
		for _, set := range s.keys[3:] {
			if strings.HasPrefix(key, set+".") {
				sets = append(sets, key) // one of its buckets
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for _, key := range sets {
		var odd []string
		err := s.zscan(ctx, key, func(name string) {
			if !visit(name) {
				odd = append(odd, name)
			}
		})
		if err == nil {
			err = s.auditNames(ctx, key, odd, repair, a)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// auditNames reports members of a set that name no window, and removes them.
func (s *Store) auditNames(ctx context.Context, key string, names []string, repair bool, a *AuditReport) error {
	for _, name := range names {
		a.Differences = append(a.Differences, fmt.Sprintf("key %s: member %.100q names no window", key, name))
		if !repair {
			continue
		}
		if err := s.server.Client().Do(ctx, s.server.Client().B().Zrem().Key(key).Member(name).Build()).Error(); err != nil {
			return err
		}
		a.Repaired = append(a.Repaired, fmt.Sprintf("removed %.100q from key %s", name, key))
	}
	return nil
}

// description is what describe.lua returns of a window.
type description struct {
	state               string
	events, there       int64
	attempts            int64
	reason              string
	failures            int64
	failure             string
	inOpen, inDue       bool
	inLeases, inDead    bool
	inExpiry, forgotten bool
	expired             bool
	odd                 string // the first field or score that holds no number, with its text
}

// difference returns in what the keys of a window disagree, or "".
func (d description) difference() string {
	switch {
	case d.expired:
		return "" // the next closer removes it
	case d.forgotten && d.there == 0 && !d.inOpen && !d.inDue && !d.inLeases && !d.inDead && !d.inExpiry:
		return "" // it ended meanwhile
	case d.forgotten:
		return fmt.Sprintf("it has no record, but %d events", d.there)
	case d.odd != "":
		return fmt.Sprintf("%q is no number that this package writes", d.odd)
	case d.there != d.events:
		return fmt.Sprintf("its record counts %d events, but %d are there", d.events, d.there)
	case d.inOpen != (d.state == "open"), d.inDue != (d.state == "due"), d.inLeases != (d.state == "leased"), d.inDead != (d.state == "dead"):
		return fmt.Sprintf("its state is %s, but it is in open %v, due %v, leases %v, dead %v", d.state, d.inOpen, d.inDue, d.inLeases, d.inDead)
	case !d.inExpiry:
		return "it is not in expiry"
	}
	return ""
}

func (s *Store) describe(ctx context.Context, names []string) ([]description, error) {
	var out []description
	for len(names) > 0 {
		some := names[:min(len(names), maxScriptWindows)]
		names = names[len(some):]
		r, err := s.run(ctx, describeScript, false, some...)
		v, err := array(r, err, len(some))
		if err != nil {
			return nil, err
		}
		for _, m := range v {
			f, err := m.ToArray()
			if err != nil || len(f) != 9 {
				return nil, fmt.Errorf("unexpected reply: got %d elements, want 9: %w", len(f), err)
			}
			var d description
			var sets string
			for i, p := range []any{&d.state, &d.events, &d.there, &d.attempts, &d.reason, &d.failures, &d.failure, &sets, &d.odd} {
				switch p := p.(type) {
				case *string:
					*p, err = f[i].ToString()
				case *int64:
					*p, err = f[i].AsInt64()
				}
				if err != nil {
					return nil, fmt.Errorf("unexpected reply: element %d: %w", i, err)
				}
			}
			d.forgotten = d.state == ""
			for _, c := range sets {
				switch c {
				case 'O':
					d.inOpen = true
				case 'D':
					d.inDue = true
				case 'L':
					d.inLeases = true
				case 'B':
					d.inDead = true
				case 'X':
					d.inExpiry = true
				case 'E':
					d.expired = true
				}
			}
			out = append(out, d)
		}
	}
	return out, nil
}

func (s *Store) repairOne(ctx context.Context, window string) (string, error) {
	r, err := s.run(ctx, repairScript, true, window)
	v, err := array(r, err, 1)
	if err != nil {
		return "", err
	}
	return v[0].ToString()
}
