package orders

import (
	"bytes"
	"strconv"
)

// What Postgres takes into a jsonb column is less than what is valid JSON. One value that it
// refuses would fail the COPY of a whole batch, so it has to be found here.
const (
	maxRawDepth    = 100 // the server's stack bounds it, at a few thousand
	maxRawNumber   = 64  // characters; numeric holds 16,383 digits after the point
	maxRawExponent = 3   // digits; 1e999999 is valid JSON and out of range
)

// checkRaw finds what jsonb refuses in raw, which is valid JSON. escapes reports that there may
// be a backslash in it.
func checkRaw(raw []byte, escapes bool) error {
	depth := 0
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; c {
		case '"':
			if !escapes {
				i += 1 + bytes.IndexByte(raw[i+1:], '"')
				break
			}
			end := stringEnd(raw, i+1)
			if err := checkEscapes(raw[i+1 : end]); err != nil {
				return err
			}
			i = end
		case '{', '[':
			if depth++; depth > maxRawDepth {
				return invalid(CodeBadRaw, "raw is nested deeper than %d levels", maxRawDepth)
			}
		case '}', ']':
			depth--
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			end := numberEnd(raw, i)
			if err := checkNumber(raw[i:end]); err != nil {
				return err
			}
			i = end - 1
		}
	}
	return nil
}

// stringEnd is the place of the quote that ends the string whose text begins at i.
func stringEnd(raw []byte, i int) int {
	for ; i < len(raw) && raw[i] != '"'; i++ {
		if raw[i] == '\\' {
			i++
		}
	}
	return i
}

func numberEnd(raw []byte, i int) int {
	for i < len(raw) && (raw[i] >= '0' && raw[i] <= '9' || raw[i] == '.' || raw[i]|0x20 == 'e' || raw[i] == '+' || raw[i] == '-') {
		i++
	}
	return i
}

func checkNumber(n []byte) error {
	if len(n) <= len("1e999") { // nearly all: too short to be out of range
		return nil
	}
	if len(n) > maxRawNumber {
		return invalid(CodeBadRaw, "raw holds a number of %d characters: at most %d", len(n), maxRawNumber)
	}
	if at := bytes.IndexAny(n, "eE"); at >= 0 {
		if exponent := bytes.TrimLeft(n[at+1:], "+-0"); len(exponent) > maxRawExponent {
			return invalid(CodeBadRaw, "raw holds the number %s: its exponent may have at most %d digits", n, maxRawExponent)
		}
	}
	return nil
}

// checkEscapes refuses \u0000, which no text of Postgres can hold, and halves of surrogate pairs.
func checkEscapes(s []byte) error {
	for {
		at := bytes.IndexByte(s, '\\')
		if at < 0 {
			return nil
		}
		if s[at+1] != 'u' {
			s = s[at+2:]
			continue
		}
		r := hex4(s[at+2:])
		s = s[at+6:]
		switch {
		case r == 0:
			return invalid(CodeBadRaw, `raw holds \u0000, which no text in the database can hold`)
		case r >= 0xDC00 && r <= 0xDFFF:
			return invalid(CodeBadRaw, `raw holds \u%04x, the second half of a character without the first`, r)
		case r >= 0xD800 && r <= 0xDBFF:
			low := 0
			if len(s) >= 6 && s[0] == '\\' && s[1] == 'u' {
				low = hex4(s[2:])
			}
			if low < 0xDC00 || low > 0xDFFF {
				return invalid(CodeBadRaw, `raw holds \u%04x, the first half of a character without the second`, r)
			}
			s = s[6:]
		}
	}
}

func hex4(s []byte) int {
	n, _ := strconv.ParseUint(string(s[:4]), 16, 16) // the parser has checked the digits
	return int(n)
}
