# What failed in a log of go test -v, the names last. Each failed test is printed with its own lines
# (the last 25 of them): a viewer of logs may show no more than the end.
/^=== (RUN|CONT|NAME) / { test = $3; next }
/^=== PAUSE / { next }
/^(ok|FAIL|PASS)([ \t]|$)/ {
  if ($1 == "FAIL" && NF > 1) failed_packages = failed_packages "\n" $0
  test = ""
  next
}
/^ *--- (FAIL|SKIP|PASS): / {
  if ($2 == "FAIL:") { order[++failures] = $3; at[$3] = $0 }
  next
}
/^panic: |^fatal error: |^WARNING: DATA RACE/ { broken = broken "\n" (test == "" ? "" : test ": ") $0 }
/^(# github|vet: |make: |.*\.go:[0-9]+:[0-9]+: )/ { if (test == "") broken = broken "\n" $0 }
test != "" { line[test, ++lines[test]] = $0 }
END {
  for (i = 1; i <= failures; i++) {
    t = order[i]
    print at[t]
    for (n = (lines[t] > 25 ? lines[t] - 24 : 1); n <= lines[t]; n++) print line[t, n]
  }
  print "\nfailed:" failed_packages broken
  for (i = 1; i <= failures; i++) print at[order[i]]
}
