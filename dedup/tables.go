package dedup

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// table is what this process must know of a table in Redis to place ids in it. See tables.lua.
type table struct {
	id       string
	seed     seed
	slots    uint64
	segments uint64 // of its index
}

// tableFields is the number of elements that describe a table in a reply.
const tableFields = 4

func parseTable(f []rueidis.RedisMessage) (t table, err error) {
	if t.id, err = f[0].ToString(); err != nil {
		return t, err
	}
	text, err := f[1].ToString()
	if err != nil {
		return t, err
	}
	var key [16]byte
	if n, err := hex.Decode(key[:], []byte(text)); err != nil || n != len(key) {
		return t, fmt.Errorf("unexpected reply: the seed of table %s has %d bytes, want %d", t.id, n, len(key))
	}
	t.seed = seedOf(key)
	for i, n := range []*uint64{&t.slots, &t.segments} {
		if *n, err = f[2+i].AsUint64(); err != nil {
			return t, err
		}
	}
	if t.slots == 0 || t.segments == 0 || t.slots%t.segments != 0 {
		return t, fmt.Errorf("unexpected reply: table %s has %d slots in %d segments", t.id, t.slots, t.segments)
	}
	return t, nil
}

// parseTables parses the tables of a reply, size elements each.
func parseTables(f []rueidis.RedisMessage, size int) ([]table, error) {
	if len(f)%size != 0 {
		return nil, fmt.Errorf("unexpected reply: got %d elements, want %d for each table", len(f), size)
	}
	var tables []table
	for ; len(f) > 0; f = f[size:] {
		t, err := parseTable(f)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// slotArgs returns the arguments that place ids in tables, as place_ids in tables.lua parses them.
// asText passes offsets as strings.
func slotArgs(tables []table, fields []string, asText bool) []string {
	names := make([]string, len(tables))
	args := make([]string, 1, 1+2*len(tables))
	offsets, segments := make([]uint32, len(fields)), make([]uint32, len(fields))
	for i, t := range tables {
		names[i] = t.id
		perSegment := t.slots / t.segments
		for j, f := range fields {
			slot := t.seed.hash(f) >> 32 % t.slots
			offsets[j], segments[j] = uint32(slot%perSegment*32), uint32(slot/perSegment+1)
		}
		array := numberArray
		if asText {
			array = textArray
		}
		offset, segment := array(offsets), ""
		if t.segments > 1 {
			segment = numberArray(segments)
		}
		args = append(args, offset, segment)
	}
	args[0] = strings.Join(names, ",")
	return args
}

// numberArray returns a MessagePack array of numbers, which Lua in Redis parses fastest.
func numberArray(numbers []uint32) string {
	b := append(make([]byte, 0, 5+5*len(numbers)), 0xdd)
	b = append32(b, uint32(len(numbers)))
	for _, v := range numbers {
		b = append32(append(b, 0xce), v)
	}
	return string(b)
}

// fastFormat is the version of Redis since which Lua passes numbers to commands fast. An earlier
// one formats each with %.17g, which takes longer than to make a string of it here and to parse
// that.
const fastFormat = 0x00070200

// textArray returns a MessagePack array of numbers as strings.
func textArray(numbers []uint32) string {
	b := append(make([]byte, 0, 5+11*len(numbers)), 0xdd)
	b = append32(b, uint32(len(numbers)))
	for _, v := range numbers {
		at := len(b)
		b = strconv.AppendUint(append(b, 0), uint64(v), 10)
		b[at] = 0xa0 | byte(len(b)-at-1)
	}
	return string(b)
}

func append32(b []byte, v uint32) []byte {
	return append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}
