-- Mends one key that Audit found, if it is still as found. KEYS[1] = the state, KEYS[2] never
-- exists, ARGV[1] = what to do, ARGV[2] = the key, ARGV[3] = see there. Replies 1 if it changed
-- something.
local what, key, detail = ARGV[1], ARGV[2], ARGV[3]
needs('PEXPIRE', 'RENAME', 'SETRANGE')
local kind = redis.call('TYPE', key).ok

if what == 'aside' then -- a key of another type than string is renamed to ARGV[3]
  if kind == 'string' or kind == 'none' then return 0 end
  redis.call('RENAME', key, detail)
  return 1
end
if what == 'length' then -- a part that is gone or too short gets ARGV[3] bytes, and ARGV[4] ms to live
  if kind ~= 'none' and kind ~= 'string' or redis.call('STRLEN', key) >= tonumber(detail) then return 0 end
  redis.call('SETRANGE', key, detail - 1, '\0')
  if redis.call('PTTL', key) == -1 then redis.call('PEXPIRE', key, ARGV[4]) end
  return 1
end
if what == 'forget' then -- a key that no claim can reach
  redis.call('PEXPIRE', key, 1)
  return 1
end
if what == 'state' then -- a state that cannot be read, ARGV[3], is renamed to ARGV[4]
  if kind ~= 'string' or redis.call('GET', key) ~= detail then return 0 end
  redis.call('RENAME', key, ARGV[4])
else -- a key without a time to live gets ARGV[3] ms
  if redis.call('PTTL', key) ~= -1 then return 0 end
  redis.call('PEXPIRE', key, detail)
end
return 1
