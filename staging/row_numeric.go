package staging

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// The signs of a binary numeric.
const (
	numPos  = 0x0000
	numNeg  = 0x4000
	numNaN  = 0xC000
	numInf  = 0xD000
	numMinf = 0xF000
)

// decimalNumber prints ±coef × 10^-scale.
func decimalNumber(neg bool, coef uint64, scale int) json.Number {
	s := strconv.FormatUint(coef, 10)
	switch {
	case scale < 0 || scale > 1000:
		s += "e" + strconv.Itoa(-scale)
	case scale > 0:
		s = strings.Repeat("0", max(0, scale+1-len(s))) + s
		s = s[:len(s)-scale] + "." + s[len(s)-scale:]
	}
	if neg {
		s = "-" + s
	}
	return json.Number(s)
}

func formatFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

func (r *Row) numericHead(digits, weight int, sign uint16, scale int) {
	b := r.size(8 + 2*digits)
	b = binary.BigEndian.AppendUint16(b, uint16(digits))
	b = binary.BigEndian.AppendUint16(b, uint16(int16(weight)))
	b = binary.BigEndian.AppendUint16(b, sign)
	r.buf = binary.BigEndian.AppendUint16(b, uint16(scale))
}

// putDecimal writes ±coef × 10^-scale. Postgres keeps base 10,000 digits that are aligned at the
// decimal point.
func (r *Row) putDecimal(c *column, neg bool, coef uint64, scale int) {
	if c.kind != kNumeric {
		r.wrongType(c, "decimal number", decimalNumber(neg, coef, scale))
		return
	}
	if scale < 0 || scale > 1000 {
		r.refuse(c, CodeRange, "scale %d", scale)
		return
	}
	sign := uint16(numPos)
	if neg && coef != 0 {
		sign = numNeg
	}
	// Fill the last group up with zeros, so that groups are aligned: the group of 10^0 has weight 0.
	pad := (4 - scale%4) % 4
	var groups [7]uint16 // at most 20 digits and 3 of padding: 6 groups
	n := 0
	rest := coef
	if pad > 0 {
		pow := [...]uint64{1, 10, 100, 1000}
		low := pow[4-pad] // the last group holds 4-pad digits of coef
		groups[n] = uint16(rest % low * pow[pad])
		rest /= low
		n++
	}
	for rest > 0 {
		groups[n] = uint16(rest % 10000)
		rest /= 10000
		n++
	}
	weight := n - 1 - (scale+pad)/4 // of groups[n-1]
	for n > 0 && groups[n-1] == 0 {
		n--
		weight--
	}
	low := 0
	for low < n && groups[low] == 0 {
		low++
	}
	if n == low {
		weight = 0
	}
	r.numericHead(n-low, weight, sign, scale)
	for i := n - 1; i >= low; i-- {
		r.buf = binary.BigEndian.AppendUint16(r.buf, groups[i])
	}
}

// putNumericText reads what Postgres' own numeric input reads: digits with a point, an exponent,
// NaN, Infinity.
func (r *Row) putNumericText(c *column, s string) {
	t := strings.TrimSpace(s)
	bad := func() { r.refuse(c, CodeNumeric, "%.60q is not a number", s) }
	neg := false
	if t != "" && (t[0] == '-' || t[0] == '+') {
		neg = t[0] == '-'
		t = t[1:]
	}
	switch strings.ToLower(t) {
	case "nan":
		if len(t) != len(strings.TrimSpace(s)) { // a NaN has no sign
			bad()
			return
		}
		r.numericHead(0, 0, numNaN, 0)
		return
	case "infinity", "inf":
		sign := uint16(numInf)
		if neg {
			sign = numMinf
		}
		r.numericHead(0, 0, sign, 0)
		return
	}
	exp := 0
	if i := strings.IndexAny(t, "eE"); i >= 0 {
		e, err := strconv.Atoi(t[i+1:])
		if err != nil || e > 131072 || e < -16383 {
			bad()
			return
		}
		exp, t = e, t[:i]
	}
	whole, frac, _ := strings.Cut(t, ".")
	if whole == "" && frac == "" {
		bad()
		return
	}
	if len(whole)+len(frac) <= 19 && exp == 0 {
		var coef uint64
		for _, part := range [2]string{whole, frac} {
			for i := 0; i < len(part); i++ {
				if part[i] < '0' || part[i] > '9' {
					bad()
					return
				}
				coef = coef*10 + uint64(part[i]-'0')
			}
		}
		r.putDecimal(c, neg, coef, len(frac))
		return
	}
	digits := whole + frac
	for i := 0; i < len(digits); i++ {
		if digits[i] < '0' || digits[i] > '9' {
			bad()
			return
		}
	}
	point := len(whole) + exp // digits before the point; may be negative or beyond the end
	scale := max(0, len(digits)-point)
	if point > 131072 || scale > 16383 {
		r.refuse(c, CodeRange, "%.60q does not fit %s", s, c.sqlType)
		return
	}
	// Align the digits to groups of four around the point.
	if point < 0 {
		digits, point = strings.Repeat("0", -point)+digits, 0
	}
	if point > len(digits) {
		digits += strings.Repeat("0", point-len(digits))
	}
	lead := (4 - point%4) % 4
	digits = strings.Repeat("0", lead) + digits
	point += lead
	if tail := (len(digits) - point) % 4; tail != 0 {
		digits += strings.Repeat("0", 4-tail)
	}
	var groups []uint16
	for i := 0; i < len(digits); i += 4 {
		d := digits[i : i+4]
		groups = append(groups, uint16(d[0]-'0')*1000+uint16(d[1]-'0')*100+uint16(d[2]-'0')*10+uint16(d[3]-'0'))
	}
	weight := point/4 - 1
	for len(groups) > 0 && groups[0] == 0 {
		groups = groups[1:]
		weight--
	}
	for len(groups) > 0 && groups[len(groups)-1] == 0 {
		groups = groups[:len(groups)-1]
	}
	sign := uint16(numPos)
	if neg && len(groups) > 0 {
		sign = numNeg
	}
	if len(groups) == 0 {
		weight = 0
	}
	r.numericHead(len(groups), weight, sign, scale)
	for _, g := range groups {
		r.buf = binary.BigEndian.AppendUint16(r.buf, g)
	}
}
