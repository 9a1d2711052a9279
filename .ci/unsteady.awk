# From a log of go test -v: PACKAGE TEST for each failed test. It prints nothing if a failure is not
# that of a test, or if a test may have been left out: then there is nothing to run again.
/^(panic: |fatal error: |\*\*\* Test killed)/ || /WARNING: DATA RACE|race detected during execution|test timed out/ { other = 1 }
/^--- FAIL: / { failed[++n] = $3 }
/^(ok|\?)[ \t]/ { n = 0 }
/^FAIL[ \t]/ {
  if (n == 0) other = 1
  for (i = 1; i <= n; i++) list = list $2 " " failed[i] "\n"
  n = 0
}
END { if (!other) printf "%s", list }
