package redisx

import "time"

// maxMillis is the last integer with which scripts calculate; see number.lua.
const maxMillis = 1<<53 - 1

var minTime, maxTime = time.UnixMilli(-maxMillis), time.UnixMilli(maxMillis)

// UnixMilli returns the Unix time in milliseconds. A time that is further away than Redis can count
// (285,000 years) is as far away as it can count: the method of time.Time overflows to any time.
func UnixMilli(t time.Time) int64 {
	switch {
	case t.Before(minTime):
		return -maxMillis
	case t.After(maxTime):
		return maxMillis
	}
	return t.UnixMilli()
}
