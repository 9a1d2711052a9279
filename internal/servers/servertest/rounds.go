package servertest

import (
	"flag"
	"strconv"
)

// raceShare is how many times fewer rounds of chance a test makes under the race detector, which
// makes each of them many times as slow. It searches for races, and those are in every round.
const raceShare = 10

// Rounds returns how many rounds of chance a test makes: n, and fewer under the race detector.
func Rounds(n int) int {
	if race {
		return max(1, n/raceShare)
	}
	return n
}

// RapidChecks makes the property tests of this process try n random sequences each, see [Rounds].
// TestMain calls it before [Main], so the flag -rapid.checks overrides it.
func RapidChecks(n int) {
	if err := flag.Set("rapid.checks", strconv.Itoa(Rounds(n))); err != nil {
		panic(err)
	}
}
