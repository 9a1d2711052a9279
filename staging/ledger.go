package staging

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Void enters b into the ledger as void, durably. If b is already promoted, it returns
// FatePromoted. After FateVoid no copy of b is ever promoted, however late it arrives. Void waits
// for a promotion that is about to commit b, for at most Config.LockTimeout. An error changes
// nothing, unless it wraps [ErrUnknown]: then call Void again. Batch.Records is 0 if it is not
// known, as with a damaged batch of a queue.
func (t *table) Void(ctx context.Context, b Batch) (Fate, error) {
	if err := checkBatch(&b, 0); err != nil {
		return 0, err
	}
	c, err := acquire(ctx, t.pool)
	if err != nil {
		return 0, fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	defer t.rollback(c.Conn())
	f, err := t.void(ctx, c.Conn(), b)
	if err != nil {
		return 0, t.explain("voiding batch "+b.ID, err)
	}
	return f, nil
}

func (t *table) void(ctx context.Context, q *pgx.Conn, b Batch) (Fate, error) {
	// The unique index waits for a promoter that has inserted the batch and not committed yet.
	if _, err := send(ctx, q, append(t.beginning(durably), t.sql.ledgerVoid.with(b.voided()), barrier)...); err != nil {
		return 0, err
	}
	if err := t.at("void inserted"); err != nil {
		return 0, err
	}
	r, err := sendOne(ctx, q, t.sql.ledgerKinds.with(args{"ids": array([]string{b.ID})})) // a new snapshot: it sees what the insert has waited for
	if err != nil {
		return 0, err
	}
	for _, f := range fatesOf(r) {
		return f, t.commit(ctx, q, "")
	}
	return 0, fmt.Errorf("the ledger row was pruned in the meantime")
}

// voided is the ledger's entry of a void batch.
func (b *Batch) voided() args {
	return args{"id": b.ID, "root": b.Root, "offset": text(b.Offset), "records": text(b.Records), "attempt": text(b.Attempt), "worker": b.Worker,
		"sealed": timeText(b.Sealed)}
}

// Fates returns the fates of batches, in the order of ids. It reads the registries first and then
// the ledger, so it finds a batch that is promoted in between. A batch that is found nowhere may be
// in a promotion under way: Fates waits for its end, up to Config.LockTimeout, and then returns
// [ErrBusy]. A batch in the ledger is reported only if the server's synchronous standbys have it;
// otherwise Fates returns [ErrNotDurable].
func (t *table) Fates(ctx context.Context, ids []string) ([]Fate, error) {
	list := array(ids)
	from := fateSource{ledgers: []call{t.sql.ledgerKinds.with(args{"ids": list}), t.sql.readControl.with(nil)},
		settled: func(res []result, missing []int) (map[string]Fate, error) {
			open, err := t.openSides(res[1])
			if err != nil {
				return nil, err
			}
			return fatesOf(res[0]), errors.Join(t.outgrown(open), t.gone(open, missing))
		}, at: t.at,
	}
	if len(t.lane) > 1 {
		from.sides, from.wait = t.sql.side, t.cfg.LockTimeout
	} else {
		from.registries = []call{t.registeredCall(list)}
	}
	return fatesFrom(ctx, ids, t, from)
}

// registeredCall reads the registries of all sides.
func (t *table) registeredCall(ids string) call {
	all := t.sql.side[0].registered
	for _, s := range t.sql.side[1:] {
		all.text += "\nUNION ALL\n" + s.registered.text
	}
	return all.with(args{"ids": ids})
}

// fateSource is where the fates of batches are read.
type fateSource struct {
	registries, ledgers []call
	settled             func(ledgers []result, missing []int) (map[string]Fate, error)
	at                  func(point string) error
	// sides, if given, are read in place of registries, without waiting for a promotion. Those that a
	// promotion holds are read again, and waited for, if a batch is found nowhere else.
	sides   []sideStatements
	wait    time.Duration // for a side that is read again
	missing []int         // lanes whose tables were not found
}

// fatesFrom reads the fates of batches from registries, and then from ledgers.
func fatesFrom(ctx context.Context, ids []string, t groupTable, from fateSource) ([]Fate, error) {
	out := make([]Fate, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	for _, id := range ids {
		if _, ok := parseUUID(id); !ok {
			return nil, fmt.Errorf("%w: batch id %q, must be a UUID", ErrLoad, id)
		}
	}
	known := make(map[string]Fate, len(ids))
	c, err := acquire(ctx, t.view().pool)
	if err != nil {
		return nil, fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	q := c.Conn()
	defer t.rollback(q)
	held, err := from.readSides(ctx, q, t, ids, known)
	if err != nil {
		return nil, err
	}
	if err := from.read(ctx, q, t, known); err != nil {
		return nil, err
	}
	if len(held) > 0 && slices.ContainsFunc(ids, func(id string) bool { return unknown(known, id) }) {
		for _, s := range held {
			if err := from.readSide(ctx, q, t, s, ids, from.wait, known); err != nil {
				return nil, t.explain("reading the fates of batches", err)
			}
		}
		if err := from.read(ctx, q, t, known); err != nil {
			return nil, err
		}
	}
	settled := false
	for i, id := range ids {
		u, _ := parseUUID(id)
		out[i] = known[formatUUID(u)]
		settled = settled || out[i] == FatePromoted || out[i] == FateVoid
	}
	if settled {
		if err := t.confirm(ctx, q); err != nil {
			return nil, t.explain("reading the fates of batches", err)
		}
	}
	return out, nil
}

func unknown(known map[string]Fate, id string) bool {
	u, _ := parseUUID(id)
	_, ok := known[formatUUID(u)]
	return !ok
}

// readSides takes over what the sides hold, without waiting for a promotion. It returns those that
// a promotion holds.
func (from *fateSource) readSides(ctx context.Context, q *pgx.Conn, t groupTable, ids []string, known map[string]Fate) (held []side, err error) {
	for s := range from.sides {
		switch err := from.readSide(ctx, q, t, side(s), ids, statsWait, known); {
		case sqlState(err) == lockNotAvailable:
			held = append(held, side(s))
		case err != nil:
			return nil, t.explain("reading the fates of batches", err)
		}
	}
	return held, nil
}

// readSide takes over what a side holds. It waits for a promotion for up to the given time.
func (from *fateSource) readSide(ctx context.Context, q *pgx.Conn, t groupTable, s side, ids []string, wait time.Duration, known map[string]Fate) error {
	r, err := t.registeredAt(ctx, q, from.sides[s].registered, ids, wait)
	switch {
	case isGone(err, s.lane()):
		from.missing = append(from.missing, s.lane())
		return nil
	case err != nil:
		return err
	}
	from.note(known, r)
	return nil
}

// read takes over what the registries hold, and then what the ledgers have.
func (from *fateSource) read(ctx context.Context, q *pgx.Conn, t groupTable, known map[string]Fate) error {
	res, err := send(ctx, q, append(t.beginning(reads), from.registries...)...)
	if err != nil {
		return t.explain("reading the fates of batches", err)
	}
	from.note(known, res[len(res)-len(from.registries):]...)
	if err := from.at("between registries and ledger"); err != nil {
		return err
	}
	res, err = send(ctx, q, append(from.ledgers, do("commit"))...)
	if err != nil {
		return t.explain("reading the fates of batches", err)
	}
	settled, err := from.settled(res[:len(from.ledgers)], from.missing)
	if err != nil {
		return err
	}
	maps.Copy(known, settled)
	return nil
}

// note takes over what registries hold.
func (*fateSource) note(known map[string]Fate, registries ...result) {
	for _, r := range registries {
		for _, id := range r.texts("id") {
			known[id] = FateStaged
		}
	}
}

func formatUUID(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// RejectsByBatch returns, by batch id, the records of promoted batches whose rows were all
// rejected. It reads them from the durable rejects table, with their payloads. For batches of
// unknown size use [Table.Rejects], which reads page by page.
func (t *table) RejectsByBatch(ctx context.Context, ids []string) (map[string][]Reject, error) {
	return t.rejectsOf(ctx, t.sql.rejectsByBatch, ids)
}

// RejectedKeys returns the same records as [Table.RejectsByBatch], but only Pos, Key, Root and
// Place, which an acknowledgement needs to release their claims. A record with at least one
// promoted row is not among them, and keeps its claim.
func (t *table) RejectedKeys(ctx context.Context, ids []string) (map[string][]Reject, error) {
	return t.rejectsOf(ctx, t.sql.rejectedKeys, ids)
}

func (t *table) rejectsOf(ctx context.Context, s statement, ids []string) (map[string][]Reject, error) {
	out := map[string][]Reject{}
	if len(ids) == 0 {
		return out, nil
	}
	for _, id := range ids {
		if _, ok := parseUUID(id); !ok {
			return nil, fmt.Errorf("%w: batch id %q, must be a UUID", ErrLoad, id)
		}
	}
	rows, err := t.query(ctx, s.with(args{"batches": array(ids)}))
	if err != nil {
		return nil, t.explain("reading rejects", err)
	}
	defer rows.Close()
	for rows.Next() {
		var x rejectRow
		if x, err = pgx.RowToStructByNameLax[rejectRow](rows); err != nil {
			break
		}
		out[x.Batch] = append(out[x.Batch], x.stored().Reject)
	}
	if err = errors.Join(err, rows.Err()); err != nil {
		return nil, t.explain("reading rejects", err)
	}
	return out, nil
}

// Epoch returns the marker of the UNLOGGED tables. A new value means that a crash, or
// [DiscardStaged], has emptied staging.
func (t *table) Epoch(ctx context.Context) (string, error) {
	c, err := acquire(ctx, t.pool)
	if err != nil {
		return "", fmt.Errorf("staging: %w", err)
	}
	defer c.Release()
	e, err := t.mark(ctx, c.Conn())
	if err != nil {
		return "", t.explain("reading the epoch", err)
	}
	return e, nil
}

// mark reads the marker, and sets one if a crash has emptied its table.
func (t *table) mark(ctx context.Context, q *pgx.Conn) (epoch string, err error) {
	for range 3 {
		r, err := t.inOwn(ctx, q, reads, t.sql.readEpoch.with(nil))
		if err != nil {
			return "", err
		}
		if e := r.texts("epoch"); len(e) > 0 {
			return e[0], nil
		}
		if _, err = t.inOwn(ctx, q, writes, t.sql.setEpoch.with(nil)); err != nil {
			return "", err
		}
	}
	return "", errors.New("the epoch marker disappears after it is written")
}

// Books sums the ledger.
func (t *table) Books(ctx context.Context) (Books, error) {
	return t.BooksSince(ctx, time.Time{})
}

// BooksSince sums the ledger over the batches committed since a time. The zero time includes all of
// them.
func (t *table) BooksSince(ctx context.Context, since time.Time) (Books, error) {
	return t.booksBetween(ctx, boundText(since), "infinity")
}

func (t *table) booksBetween(ctx context.Context, since, until string) (Books, error) {
	rows, err := t.query(ctx, t.sql.ledgerBooks.with(args{"since": since, "until": until}))
	if err != nil {
		return Books{}, t.explain("summing the ledger", err)
	}
	b, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Books])
	if err != nil {
		return Books{}, t.explain("summing the ledger", err)
	}
	return b, nil
}

// Balanced returns nil if every record and every row is accounted for. Otherwise the error names
// the equation and the difference. It wraps [ErrImbalance].
func (b Books) Balanced() error {
	return errors.Join(
		b.line("records", b.Records, "kept + duplicates + filtered + rejected", b.Kept+b.Duplicates+b.Filtered+b.Rejected),
		b.line("staged rows", b.Staged, "promoted + conflicts + rejected by a rule", b.Rows+b.Conflicts+b.RejectedByRule))
}

func (Books) line(name string, have int64, parts string, sum int64) error {
	if have == sum {
		return nil
	}
	return fmt.Errorf("%w: %d %s, but %s = %d (off by %+d)", ErrImbalance, have, name, parts, sum, have-sum)
}
