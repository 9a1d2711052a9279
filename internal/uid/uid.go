// Package uid makes and reads the identifiers that must never repeat: UUID version 7 (RFC 9562), 48
// bits of milliseconds and 74 random bits, of which 14 may hold a tag instead.
//
// A batch is known by such an id everywhere: in its lists, in the staging registry, in the ledger.
// A sequence number would not do. After a FLUSHALL it starts again, meets its own past in the
// ledger, and fresh records are swallowed as "promoted already".
//
// The ids of one process are not monotonic within a millisecond: nothing here sorts by them. Their
// time is the clock of the program that made them, so it is good for a person who reads a log, or
// for comparison with that clock, not for a deadline.
package uid

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Len is the length of an id in its text form.
const Len = 36

// ErrInvalid is wrapped by every error of this package.
var ErrInvalid = errors.New("uid: not a UUID of version 7")

// New returns a new id in the usual lower-case form with hyphens. It is safe for concurrent use and
// cannot fail: crypto/rand ends the program where the system has no randomness.
func New() string {
	return format(at(time.Now()))
}

// MaxTag is the largest tag of [NewTagged].
const MaxTag = 1<<14 - 1

// NewTagged returns a new id whose last 14 bits are the tag, so that a program that has the id
// knows it too. 60 random bits remain.
func NewTagged(tag uint16) string {
	b := at(time.Now())
	binary.BigEndian.PutUint16(b[14:], binary.BigEndian.Uint16(b[14:])&^MaxTag|tag&MaxTag)
	return format(b)
}

// Tag returns the tag of an id that NewTagged has made. It fails if id is no id.
func Tag(id string) (uint16, error) {
	b, err := Parse(id)
	return binary.BigEndian.Uint16(b[14:]) & MaxTag, err
}

func at(now time.Time) (b [16]byte) {
	rand.Read(b[6:]) //nolint:errcheck // documented never to return an error
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint16(b[0:], uint16(ms>>32))
	binary.BigEndian.PutUint32(b[2:], uint32(ms))
	b[6] = b[6]&0x0f | 0x70 // version 7
	b[8] = b[8]&0x3f | 0x80 // the variant of RFC 9562
	return b
}

func format(b [16]byte) string {
	var s [Len]byte
	hex.Encode(s[0:8], b[0:4])
	s[8] = '-'
	hex.Encode(s[9:13], b[4:6])
	s[13] = '-'
	hex.Encode(s[14:18], b[6:8])
	s[18] = '-'
	hex.Encode(s[19:23], b[8:10])
	s[23] = '-'
	hex.Encode(s[24:36], b[10:16])
	return string(s[:])
}

// Parse returns the 16 bytes of an id. It accepts only what New makes: version 7, lower case,
// hyphens in their places. So one id has one text form, and a comparison of strings is a comparison
// of ids.
func Parse(id string) ([16]byte, error) {
	var b [16]byte
	if len(id) != Len {
		return b, fmt.Errorf("%w: %d characters instead of %d", ErrInvalid, len(id), Len)
	}
	n := 0
	for i := 0; i < Len; {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if id[i] != '-' {
				return b, fmt.Errorf("%w: no hyphen at position %d", ErrInvalid, i)
			}
			i++
			continue
		}
		hi, lo := digit(id[i]), digit(id[i+1])
		if hi > 15 || lo > 15 {
			return b, fmt.Errorf("%w: not a lower-case hexadecimal digit near position %d", ErrInvalid, i)
		}
		b[n] = hi<<4 | lo
		n++
		i += 2
	}
	if b[6]>>4 != 7 || b[8]>>6 != 2 {
		return b, fmt.Errorf("%w: wrong version or variant", ErrInvalid)
	}
	return b, nil
}

// Valid reports whether Parse accepts the id.
func Valid(id string) bool {
	_, err := Parse(id)
	return err == nil
}

// Time returns when the id was made, by the clock of the program that made it, to the millisecond.
func Time(id string) (time.Time, error) {
	b, err := Parse(id)
	if err != nil {
		return time.Time{}, err
	}
	ms := uint64(binary.BigEndian.Uint16(b[0:]))<<32 | uint64(binary.BigEndian.Uint32(b[2:]))
	return time.UnixMilli(int64(ms)), nil
}

// digit returns the value of a lower-case hexadecimal digit, or 16 and more for anything else.
func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}
