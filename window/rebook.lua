-- Moves events that no window of a state has out of the books. ARGV 7 state, 8 how many.
tick()
move(ARGV[7], 'expired', tonumber(ARGV[8]))
keepShared()
return 1
