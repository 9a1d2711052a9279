-- The head of every script that reads numbers. A key may hold anything, because it may have been
-- edited by hand.

-- MAX_NUMBER is the largest number to which Lua can add 1. The next one, 2^53, would stay as it is.
local MAX_NUMBER = 9007199254740991
-- A time in milliseconds is not valid if it is further than MAX_AHEAD_MS, a hundred years, from the
-- server's clock.
local MAX_AHEAD_MS = 3155760000000

-- number returns the integer that a text holds if both Redis and Lua can calculate with it, and
-- otherwise nil: for "1.5", "0x10", "" and numbers beyond MAX_NUMBER.
local function number(text)
  if not text or #text > 17 or text ~= '0' and not string.find(text, '^%-?[1-9]%d*$') then return nil end
  local n = tonumber(text)
  return math.abs(n) <= MAX_NUMBER and n or nil
end

-- natural returns the integer that a text holds if it is not negative, or nil.
local function natural(text)
  local n = number(text)
  return n and n >= 0 and n or nil
end

-- isTime reports whether a score is a time that a script may have written. An emulation does not
-- read an infinite one.
local function isTime(score, now)
  local ms = tonumber(score)
  return ms and ms >= 0 and ms < now + MAX_AHEAD_MS
end

-- timeOf returns a score as a time in milliseconds, at most a hundred years from now in either
-- direction.
local function timeOf(score, now)
  return math.max(now - MAX_AHEAD_MS, math.min(tonumber(score) or math.huge, now + MAX_AHEAD_MS))
end

