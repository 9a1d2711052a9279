-- Records the configuration of a program that opens the gate. ARGV 1 layout version,
-- 2 configuration. Reply the one that was recorded before, or ''.
local STATE = KEYS[1]
local DAY = 86400000
local state = call('HMGET', STATE, 'layout', 'config')
if (not state[1] or state[1] == ARGV[1]) and state[2] ~= ARGV[2] then
  needs('HSET', 'PEXPIRE')
  call('HSET', STATE, 'layout', ARGV[1], 'config', ARGV[2])
  call('PEXPIRE', STATE, DAY)
end
return state[2] or ''
