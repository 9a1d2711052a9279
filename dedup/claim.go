package dedup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/internal/uid"
	"github.com/redis/rueidis"
)

// durableTries is how often a durable claim is made before ErrNotDurable is returned. A second
// claim is safe because the verdicts are stored, and useful because the claim script writes at each
// call: the next WAITAOF also covers the first claim.
const durableTries = 3

// maxPlace is the largest number of records in a root: a place has four bytes.
const maxPlace = 1<<32 - 1

// Claim claims ids[i] for the record at position pos[i] of the batch and returns one verdict for
// each id: [VerdictFresh] if no place in the window holds the id or this very place does, otherwise
// [VerdictDuplicate]. A nil pos means 0, 1, 2, …. If an id occurs twice in one call, the lower
// position wins.
//
// With a guard, a verdict is final: it is stored with the batch and returned by each later call,
// also to the batches that this one is split into. If the batch no longer exists, Claim returns
// [ErrGone].
//
// A call with up to 1,000 ids that fails has claimed nothing, with two exceptions: after a lost
// connection the outcome is unknown, and after [ErrNotDurable] the claims remain. A larger call is
// several commands: if a later one fails, the claims of the earlier ones remain. In every case it
// is safe to claim again.
func (d *Deduplicator) Claim(ctx context.Context, b Batch, pos []int32, ids []string) ([]Verdict, error) {
	pos, ids, order, err := d.checkBatch(b, pos, ids)
	if err != nil {
		return nil, err
	}
	fields, err := d.fields(pos, ids)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	replied, err := d.claim(ctx, b, parts(b, pos, fields))
	if err != nil {
		return nil, err
	}
	if len(replied) != len(ids) {
		return nil, fmt.Errorf("dedup: claim: unexpected reply: got %d verdicts, want %d", len(replied), len(ids))
	}
	verdicts := make([]Verdict, len(ids))
	for i := range replied {
		v := VerdictFresh
		if replied[i] == 'd' {
			v = VerdictDuplicate
		}
		if order != nil {
			verdicts[order[i]] = v
		} else {
			verdicts[i] = v
		}
	}
	return verdicts, nil
}

// perClaim is the number of ids that one command claims. 1,000 known ids take the server up to 7
// ms.
const perClaim = 1000

// part is the part of a call that one command claims.
type part struct {
	fields []string
	first  int    // record of the batch
	mask   string // one byte for each record from first, '1' for those that are claimed; "" for all
	runs   string
	texts  []string // the entries of each run
}

// parts splits ids at ascending positions of a batch.
func parts(b Batch, pos []int32, fields []string) []part {
	all := make([]part, 0, (len(fields)+perClaim-1)/perClaim)
	for from := 0; from < len(fields); from += perClaim {
		to := min(from+perClaim, len(fields))
		p := part{fields: fields[from:to], first: int(pos[from])}
		if span := int(pos[to-1]) - p.first + 1; span > to-from {
			mask := bytes.Repeat([]byte{'0'}, span)
			for _, at := range pos[from:to] {
				mask[int(at)-p.first] = '1'
			}
			p.mask = string(mask)
		}
		p.texts, p.runs = entries(b.Offset, pos[from:to], p.fields)
		all = append(all, p)
	}
	return all
}

// claimArgs returns the arguments of claim.lua.
func (d *Deduplicator) claimArgs(b Batch, p part, tables []table) []string {
	args := d.args(strconv.Itoa(b.Records), strconv.Itoa(p.first), p.mask, string(root(b.Root)), p.runs, lengths(p.fields))
	return append(append(args, slotArgs(tables, p.fields, d.asText)...), p.texts...)
}

// claim claims the parts, in their order, and returns one byte for each id.
func (d *Deduplicator) claim(ctx context.Context, b Batch, parts []part) (string, error) {
	keys := d.keys
	if b.Guard != "" {
		keys = append(slices.Clip(keys), b.Guard)
	}
	var verdicts strings.Builder
	claimed := func(replies []reply, err error) error {
		if err != nil {
			if errors.Is(err, ErrNotDurable) {
				return err
			}
			return fmt.Errorf("dedup: claim: %w", err)
		}
		for _, r := range replies {
			if r.gone {
				return ErrGone
			}
			text, err := r.value.ToString()
			if err != nil {
				return fmt.Errorf("dedup: claim: %w", err)
			}
			verdicts.WriteString(text)
		}
		return nil
	}
	if d.cfg.Durable {
		err := claimed(d.claimDurably(ctx, keys, b, parts))
		return verdicts.String(), err
	}
	for _, p := range parts {
		err := claimed(d.place(ctx, b.Guard, func(tables []table) ([]rueidis.RedisResult, error) {
			return []rueidis.RedisResult{d.run(ctx, claimScript, keys, d.claimArgs(b, p, tables))}, nil
		}))
		if err != nil {
			return "", err
		}
	}
	return verdicts.String(), nil
}

// claimDurably claims all parts and then waits until the server has them on disk.
func (d *Deduplicator) claimDurably(ctx context.Context, keys []string, b Batch, parts []part) (replies []reply, err error) {
	var notDurable error
	for range durableTries {
		replies, err = d.place(ctx, b.Guard, func(tables []table) (r []rueidis.RedisResult, err error) {
			r, notDurable = d.sendDurably(ctx, keys, b, parts, tables)
			return r, nil
		})
		// Only a missing confirmation is retried. Every other error goes to the caller, whose lease may
		// have expired.
		if err != nil || notDurable == nil || ctx.Err() != nil {
			break
		}
	}
	if err == nil && notDurable != nil && !replies[0].gone {
		err = fmt.Errorf("%w: %w", ErrNotDurable, notDurable)
	}
	return replies, err
}

// sendDurably sends the parts, and WAITAOF after the last one, on one connection: a server that
// crashes between two parts breaks it, so no part is forgotten unnoticed.
func (d *Deduplicator) sendDurably(ctx context.Context, keys []string, b Batch, parts []part, tables []table) (r []rueidis.RedisResult, notDurable error) {
	if len(parts) == 1 {
		one, err := d.server.RunDurably(ctx, d.cfg.DurableTimeout, d.call(claimScript, keys, d.claimArgs(b, parts[0], tables)))
		return []rueidis.RedisResult{one}, err
	}
	_ = d.server.Retry(ctx, func() error { // its error is one of r
		r, notDurable = d.server.Durably(ctx, d.cfg.DurableTimeout, func() []rueidis.Completed {
			cmds := make([]rueidis.Completed, len(parts))
			for i, p := range parts {
				cmds[i] = d.server.Eval(d.call(claimScript, keys, d.claimArgs(b, p, tables)))
			}
			return cmds
		})
		r[0] = d.server.Named(ctx, d.call(claimScript, keys, nil), r[0])
		for _, x := range r {
			if err := x.Error(); redisx.Refused(err) {
				return err
			}
		}
		return nil
	})
	return r, notDurable
}

// checkBatch checks the batch and its positions, and sorts them into ascending order. order has the
// original index of each; it is nil if the positions were sorted already.
func (d *Deduplicator) checkBatch(b Batch, pos []int32, ids []string) ([]int32, []string, []int, error) {
	if len(ids) == 0 && len(pos) == 0 {
		return nil, nil, nil, nil // no record of the batch has an id
	}
	switch {
	case b.Root == "":
		return nil, nil, nil, fmt.Errorf("%w: Batch.Root is empty", ErrBatch)
	case b.Offset < 0:
		return nil, nil, nil, fmt.Errorf("%w: Batch.Offset is %d, must not be negative", ErrBatch, b.Offset)
	case b.Records < 0 || b.Records > MaxIDs:
		return nil, nil, nil, fmt.Errorf("%w: Batch.Records is %d, must be 0 to %d", ErrBatch, b.Records, MaxIDs)
	case int64(b.Offset) > maxPlace-int64(b.Records):
		return nil, nil, nil, fmt.Errorf("%w: Batch.Offset is %d: a root has at most %d records", ErrBatch, b.Offset, int64(maxPlace))
	case b.Guard != "" && hashTag(b.Guard) != d.name:
		return nil, nil, nil, fmt.Errorf("%w: Batch.Guard %q lacks the hash tag {%s}: the batch and the window must share a slot", ErrBatch, b.Guard[:min(len(b.Guard), maxGuardText)], d.name)
	case pos == nil && len(ids) != b.Records:
		return nil, nil, nil, fmt.Errorf("%w: pos is nil, so ids must have Batch.Records elements: it has %d, Batch.Records is %d", ErrBatch, len(ids), b.Records)
	case pos != nil && len(pos) != len(ids):
		return nil, nil, nil, fmt.Errorf("%w: pos has %d elements, must have %d, one for each id", ErrBatch, len(pos), len(ids))
	}
	if pos == nil {
		pos = make([]int32, len(ids))
		for i := range pos {
			pos[i] = int32(i)
		}
		return pos, ids, nil, nil
	}
	var order []int
	if !slices.IsSorted(pos) {
		order = make([]int, len(pos))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(i, j int) int { return int(pos[i]) - int(pos[j]) })
		p, s := make([]int32, len(pos)), make([]string, len(ids))
		for i, from := range order {
			p[i], s[i] = pos[from], ids[from]
		}
		pos, ids = p, s
	}
	for i, p := range pos {
		if p < 0 || int(p) >= b.Records {
			return nil, nil, nil, fmt.Errorf("%w: position %d is not in a batch of %d records", ErrBatch, p, b.Records)
		}
		if i > 0 && pos[i-1] == p {
			return nil, nil, nil, fmt.Errorf("%w: position %d occurs twice", ErrBatch, p)
		}
	}
	return pos, ids, order, nil
}

// maxGuardText bounds how much of a key is in an error.
const maxGuardText = 512

// hashTag returns the part of a key that decides its slot in a cluster.
func hashTag(key string) string {
	_, rest, _ := strings.Cut(key, "{")
	tag, _, _ := strings.Cut(rest, "}")
	return tag
}

// Mark marks ids as seen and reports which of them were new. It is for streams without batches. A
// program that dies between Mark and the processing of a new id has lost that id for one window. So
// has a program that repeats a Mark whose reply was lost. Use Claim where that matters.
func (d *Deduplicator) Mark(ctx context.Context, ids ...string) (fresh []bool, err error) {
	verdicts, err := d.Claim(ctx, Batch{Root: uid.New(), Records: len(ids)}, nil, ids)
	if err != nil {
		return nil, err
	}
	fresh = make([]bool, len(ids))
	for i, v := range verdicts {
		fresh[i] = v == VerdictFresh
	}
	return fresh, nil
}
