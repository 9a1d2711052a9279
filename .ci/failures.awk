# What failed in a log of go test -v, the names last. Each failed test is printed with its own lines
# (the last 25 of them): a viewer of logs may show no more than the end. What is printed outside of
# tests comes before (the last 40 lines), and what follows a panic or a race (20 lines) after it.
/^=== (RUN|CONT|NAME) / { test = $3; more = 0; next }
/^=== PAUSE / { next }
/^(ok|FAIL|PASS)([ \t]|$)/ {
  if ($1 == "FAIL" && NF > 1) failed_packages = failed_packages "\n" $0
  test = ""
  more = 0
  next
}
/^ *--- (FAIL|SKIP|PASS): / {
  if ($2 == "FAIL:") { order[++failures] = $3; at[$3] = $0 }
  more = 0
  next
}
more > 0 { broken = broken "\n" $0; more-- }
/^panic: |^fatal error: |^WARNING: DATA RACE/ {
  broken = broken "\n" (test == "" ? "" : test ": ") $0
  more = 20
}
/^(# github|vet: |make: |.*\.go:[0-9]+:[0-9]+: )/ { if (test == "") broken = broken "\n" $0 }
test != "" { line[test, ++lines[test]] = $0 }
test == "" { outside[++outsiders] = $0 }
END {
  for (n = (outsiders > 40 ? outsiders - 39 : 1); n <= outsiders; n++) print outside[n]
  for (i = 1; i <= failures; i++) {
    t = order[i]
    print at[t]
    for (n = (lines[t] > 25 ? lines[t] - 24 : 1); n <= lines[t]; n++) print line[t, n]
  }
  print "\nfailed:" failed_packages broken
  for (i = 1; i <= failures; i++) print at[order[i]]
}
