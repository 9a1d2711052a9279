package dedup

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// digestFrom is the length from which Config.Digest stores a digest instead of the id. A digest has
// 16 bytes, so a shorter id can never equal one.
const digestFrom = 16

// field is the name that an id is stored under.
func (d *Deduplicator) field(id string) string {
	if d.cfg.Digest && len(id) >= digestFrom {
		sum := sha256.Sum256([]byte(id))
		return string(sum[:16])
	}
	return id
}

// fields checks ids and returns the names they are stored under. pos may be nil.
func (d *Deduplicator) fields(pos []int32, ids []string) ([]string, error) {
	if len(ids) > MaxIDs {
		return nil, fmt.Errorf("%w: a call has %d ids, must have at most %d", ErrBatch, len(ids), MaxIDs)
	}
	for i, id := range ids {
		reason := ""
		switch {
		case id == "":
			reason = "is empty"
		case len(id) > MaxID:
			reason = fmt.Sprintf("has %d bytes, must have at most %d", len(id), MaxID)
		default:
			continue
		}
		e := &IDError{Index: i, Pos: -1, Reason: reason}
		if pos != nil {
			e.Pos = pos[i]
		}
		return nil, e
	}
	if !d.cfg.Digest {
		return ids, nil
	}
	f := make([]string, len(ids))
	for i, id := range ids {
		f[i] = d.field(id)
	}
	return f, nil
}

// lengths returns the length of each id, or one if they are all the same.
func lengths(fields []string) string {
	if !slices.ContainsFunc(fields, func(f string) bool { return len(f) != len(fields[0]) }) {
		fields = fields[:1]
	}
	n := make([]uint32, len(fields))
	for i, f := range fields {
		n[i] = uint32(len(f))
	}
	return numberArray(n)
}

// appendID appends an id as the log stores it, its length first.
func appendID(b []byte, field string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(field))), field...)
}

// Limits of a run of the log. One command handles a run, so they also bound the arguments of a
// command.
const (
	runBytes   = 8000
	runIDs     = 1000
	entryBytes = 10 // without the id
	runHead    = 18
)

// entries returns the log entries of ids at ascending positions of a batch, by run, and for each
// run its number of ids and its first place. See tables.lua.
func entries(offset int, pos []int32, fields []string) (texts []string, runs string) {
	size := 0
	for _, f := range fields {
		size += entryBytes + len(f)
	}
	b := make([]byte, 0, min(size, runBytes))
	var list []uint32
	first, n := 0, 0
	end := func() {
		texts = append(texts, string(b))
		list = append(list, uint32(n), uint32(offset+first))
	}
	for i, f := range fields {
		p := int(pos[i])
		if n > 0 && (n == runIDs || len(b)+entryBytes+len(f) > runBytes || p-first > math.MaxUint16) {
			end()
			b, n = b[:0], 0
		}
		if n == 0 {
			first = p
		}
		b = append(b, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(p-first))
		b = binary.BigEndian.AppendUint16(b, uint16(runHead+len(b)-6))
		b = appendID(b, f)
		n++
	}
	end()
	return texts, numberArray(list)
}

// root is the digest of a root batch. Two roots share one with a chance of 1 in 2^64, and that
// matters only if the same place of both has the same id.
func root(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return sum[:8]
}

// Shard returns the shard of an id, 0 to n-1, the same in every process and version. A queue that
// is spread over several slots of a cluster sends every copy of an id to the same shard, and gives
// each shard a window of its own. Its hash is public: a sender who chooses ids can choose their
// shard. It panics if n < 1.
func Shard(id string, n int) int {
	if n < 1 {
		panic("dedup: Shard of n < 1")
	}
	hi, _ := bits.Mul64(finish(fnv1a(id)+0x9e3779b97f4a7c15), uint64(n))
	return int(hi)
}

// fnv1a is FNV-1a with a finisher, which its upper bits need.
func fnv1a(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return finish(h)
}

// finish is the finisher of splitmix64, a bijection.
func finish(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
