package staging

import (
	"context"
	"slices"
)

// laterPasses bounds how often postponed records are tried again.
const laterPasses = 64

// postpones is true for records that lack their parent, where the parent may come with this
// promotion: by a row of the same table, or by a trigger.
func (p *promotion) postpones(w *work) bool {
	return w.source == "insert" && p.parentsCome && !p.lastPass
}

// insertLater tries the postponed records again, as long as some of them are accepted: together,
// then one by one. Before and after, it tries those that were too slow.
func (p *promotion) insertLater(ctx context.Context, w *work) error {
	if err := p.retryLate(ctx, w); err != nil {
		return err
	}
	for pass := 1; p.postponed > 0; pass++ {
		before := p.postponed
		p.postponed, p.again = 0, true
		r, err := sendOne(ctx, p.q, p.sql().resume.with(nil))
		if err != nil {
			return err
		}
		var set []int64
		for row := range r.each() {
			set = append(set, row.int("record"))
		}
		if len(set) == 0 {
			break // they went with their records
		}
		slices.Sort(set)
		set = slices.Compact(set)
		if pass == 1 {
			if set, err = p.rejectTaken(ctx, set); err != nil {
				return err
			}
			if len(set) == 0 {
				break
			}
		}
		for _, records := range p.together(set) {
			if err := p.insertAgain(ctx, w, records); err != nil {
				return err
			}
		}
		p.lastPass = p.postponed == before || pass >= laterPasses
	}
	err := p.retryLate(ctx, w)
	p.again = false
	return err
}

// together divides records by batch, where what is written is counted by batch.
func (p *promotion) together(set []int64) [][]int64 {
	if !p.byBatch {
		return [][]int64{set}
	}
	var out [][]int64
	for i, record := range set {
		if i == 0 || record>>32 != set[i-1]>>32 {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], record)
	}
	return out
}

func (p *promotion) insertAgain(ctx context.Context, w *work, records []int64) error {
	base := "s." + colRecord + " = ANY('" + array(records) + "'::int8[])"
	all := recordSpan{first: slices.Min(records), last: slices.Max(records), rows: int64(len(records)), lastPage: lastPage}
	if !p.lastPass && !p.suppressed(w) {
		n, err := p.limited(ctx, p.partTime(all), func() (int64, error) { return w.run(ctx, base+" AND "+p.which()) })
		if err == nil {
			w.done([]recordSpan{all}, n)
			return nil
		}
		if !p.tooSlow(ctx, err) {
			if err := p.mayBeData(ctx, w, err); err != nil {
				return err
			}
		}
	}
	if p.judges() {
		judged, err := p.judgeRows(ctx, w, base, []recordSpan{all})
		if judged || err != nil {
			return err
		}
	}
	for _, record := range records {
		var err error
		if one := all.one(record); p.suppressed(w) || p.beforeRow {
			err = p.insertEach(ctx, w, one)
		} else {
			err = p.descend(ctx, w, []recordSpan{one})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
