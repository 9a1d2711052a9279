package staging_test

import (
	"slices"
	"strings"
)

// smaller lists stories that lack something of this one.
func (s groupStory) smaller() (out []groupStory) {
	for i := range s.promote {
		c := s
		c.promote = slices.Delete(slices.Clone(s.promote), i, i+1)
		out = append(out, c)
	}
	for i := range s.links {
		c := s
		c.links = slices.Delete(slices.Clone(s.links), i, i+1)
		out = append(out, c)
	}
	for i := range s.features {
		for j := range s.features[i] {
			c := s
			c.features[i] = slices.Delete(slices.Clone(s.features[i]), j, j+1)
			out = append(out, c)
		}
		if s.parted[i] {
			c := s
			c.parted[i] = false
			out = append(out, c)
		}
	}
	with := func(i, j int, batch []whole) {
		c := s
		c.promote = slices.Clone(s.promote)
		c.promote[i] = slices.Clone(c.promote[i])
		if len(batch) == 0 {
			c.promote[i] = slices.Delete(c.promote[i], j, j+1)
		} else {
			c.promote[i][j] = batch
		}
		if len(c.promote[i]) > 0 {
			out = append(out, c)
		}
	}
	for i, batches := range s.promote {
		for j, batch := range batches {
			for size := (len(batch) + 1) / 2; size > 0; size /= 2 {
				for from := 0; from < len(batch); from += size {
					with(i, j, slices.Delete(slices.Clone(batch), from, min(from+size, len(batch))))
				}
			}
			for k, w := range batch {
				for table, rows := range w.Parts {
					for n := range rows {
						c := slices.Clone(batch)
						c[k].Parts[table] = slices.Delete(slices.Clone(rows), n, n+1)
						with(i, j, c)
					}
				}
			}
		}
	}
	return slices.DeleteFunc(out, func(c groupStory) bool { return !c.ordered() })
}

// ordered is true if no row refers to a later one, unless the story has such rows.
func (s groupStory) ordered() bool {
	there, missed := map[int64]bool{}, map[int64]bool{}
	for _, batches := range s.promote {
		for _, batch := range batches {
			for _, w := range batch {
				for _, rows := range w.Parts {
					for _, p := range rows {
						if p.Ref != nil && !there[*p.Ref] {
							missed[*p.Ref] = true
						}
						if missed[p.ID] && !s.forward {
							return false
						}
						there[p.ID] = true
					}
				}
			}
		}
	}
	return true
}

// kindOf tells failures of different kinds apart: a story is not made smaller into one that fails
// for another reason.
func kindOf(err error) string {
	for _, k := range []string{"rows of", "and one by one it was kept", "is not rejected", "want a whole record", "Promote:", "Stage:", "books"} {
		if strings.Contains(err.Error(), k) {
			return k
		}
	}
	return ""
}
