-- Stands at the head of every script that reads numbers. A key may hold anything: someone may have
-- edited it by hand.

-- MAX_NUMBER is the largest number up to which Lua holds each integer exactly.
local MAX_NUMBER = 9007199254740992

-- number returns the integer that a text holds, or nil if it holds none with which both Redis and
-- Lua can calculate: "1.5", "0x10", "" and numbers beyond MAX_NUMBER are none.
local function number(text)
  if not text or #text > 17 or text ~= '0' and not string.find(text, '^%-?[1-9]%d*$') then return nil end
  local n = tonumber(text)
  return math.abs(n) <= MAX_NUMBER and n or nil
end

