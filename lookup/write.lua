-- Writes one part of a version, and its time to live in the same step: no part is ever left without
-- one.
local PART = KEYS[1] -- KEYS[2] never exists, see version.go
local TTL = ARGV[1] -- in ms; the rest of ARGV is fields and values by turns
local FIRST, STEP = 2, 1000 -- the arguments of one HSET

needs('HSET', 'PEXPIRE')
for from = FIRST, #ARGV, STEP do
  redis.call('HSET', PART, unpack(ARGV, from, math.min(from + STEP - 1, #ARGV)))
end
redis.call('PEXPIRE', PART, TTL)
