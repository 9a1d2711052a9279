package dedup

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
)

// hashDigits is how many binary digits of an id's hash the scripts get: the most buckets a generation may have is 2^24.
const hashDigits = 24

// digestFrom is the length from which Config.Digest keeps a digest instead of the id. A kept digest has 16 bytes, so
// shorter ids can never be taken for one.
const digestFrom = 16

// field is the name under which an id is kept.
func (w *Window) field(id string) string {
	if w.cfg.Digest && len(id) >= digestFrom {
		sum := sha256.Sum256([]byte(id))
		return string(sum[:16])
	}
	return id
}

// fields checks ids and returns the names they are kept under. pos may be nil.
func (w *Window) fields(pos []int32, ids []string) ([]string, error) {
	if len(ids) > MaxIDs {
		return nil, fmt.Errorf("dedup: %d ids in one call: at most %d are allowed", len(ids), MaxIDs)
	}
	for i, id := range ids {
		reason := ""
		switch {
		case id == "":
			reason = "is empty"
		case len(id) > MaxID:
			reason = fmt.Sprintf("has %d bytes: at most %d are allowed", len(id), MaxID)
		default:
			continue
		}
		e := &IDError{Index: i, Pos: -1, Reason: reason}
		if pos != nil {
			e.Pos = pos[i]
		}
		return nil, e
	}
	if !w.cfg.Digest {
		return ids, nil
	}
	f := make([]string, len(ids))
	for i, id := range ids {
		f[i] = w.field(id)
	}
	return f, nil
}

// hashes returns the first digits of each field's hash, one after the other.
func hashes(fields []string) string {
	var s strings.Builder
	s.Grow(hashDigits * len(fields))
	for _, f := range fields {
		s.WriteString(digits(hash(f)))
	}
	return s.String()
}

// digits returns the first binary digits of a hash.
func digits(h uint64) string {
	var d [hashDigits]byte
	for i := range d {
		d[i] = '0' + byte(h>>63)
		h <<= 1
	}
	return string(d[:])
}

// hash is FNV-1a with a finisher, which its upper bits need. It decides where an id is kept, so it must stay the same
// in every process and version.
func hash(s string) uint64 {
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

// placer makes the 8-byte digests of the places of one root. Two places of one root never share a digest (each step is
// a bijection of the position); places of different roots do with a chance of 1 in 2^64, and that matters only if
// both hold the same id.
type placer uint64

func newPlacer(root string) placer {
	sum := sha256.Sum256([]byte(root))
	return placer(binary.BigEndian.Uint64(sum[:]))
}

func (p placer) append(b []byte, place int) []byte {
	return binary.BigEndian.AppendUint64(b, finish(uint64(p)+uint64(place)*0x9e3779b97f4a7c15))
}

// Shard returns the shard, 0 to n-1, that an id belongs to: the same in every process and version. A queue that is
// spread over several slots of a cluster sends every copy of an id to the same shard, and gives each shard a window of
// its own. It panics if n < 1.
func Shard(id string, n int) int {
	if n < 1 {
		panic("dedup: Shard of n < 1")
	}
	// Another finisher round than the buckets' use: within a shard, all bits of the bucket hash must still vary.
	hi, _ := bits.Mul64(finish(hash(id)+0x9e3779b97f4a7c15), uint64(n))
	return int(hi)
}
