package dedup

import "testing"

// The vectors of the reference implementation: key 00…0f, message 00 01 … of each length.
func TestSipHash(t *testing.T) {
	t.Parallel()
	var key [16]byte
	msg := make([]byte, 16)
	for i := range key {
		key[i] = byte(i)
		msg[i] = byte(i)
	}
	for n, want := range map[int]uint64{
		0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 7: 0xab0200f58b01d137, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5,
	} {
		if got := seedOf(key).hash(string(msg[:n])); got != want {
			t.Errorf("%d bytes: got %x, want %x", n, got, want)
		}
	}
}
