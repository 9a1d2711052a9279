-- Reading goes by time and member: a rank would shift when others add or remove events.

-- rankAfter returns the rank of the first entry after a cursor, which need not be there any more.
local function rankAfter(key, at, member)
  local rank = call('ZRANK', key, member)
  local score = rank and tonumber(call('ZSCORE', key, member))
  if rank and (score == tonumber(at) or not score or math.abs(score) > MAX_NUMBER) then return rank + 1 end
  local low = call('ZCOUNT', key, '-inf', '(' .. at)
  local high = low + call('ZCOUNT', key, at, at)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if isAfter(call('ZRANGE', key, middle, middle)[1], member) then high = middle else low = middle + 1 end
  end
  return low
end

-- firstRank returns the rank at which a page begins: after the cursor, and not before `from`. A
-- cursor may come from an earlier range.
local function firstRank(key, from, at, member)
  local rank = from == '-inf' and 0 or call('ZCOUNT', key, '-inf', '(' .. from)
  return at ~= '' and math.max(rank, rankAfter(key, at, member)) or rank
end

-- readPage appends time and member of entries from a rank on to reply: at most `entries`, and not
-- many more bytes than `bytes`. It returns how many entries and bytes these were. stop is the rank
-- after the last one.
local function readPage(key, rank, stop, entries, bytes, reply)
  local n, read, step = 0, 0, 16
  while n < entries and read < bytes and rank + n < stop do
    local last = math.min(rank + n + math.min(step, entries - n), stop) - 1
    local page = call('ZRANGE', key, rank + n, last, 'WITHSCORES')
    if #page == 0 then break end
    for i = 1, #page, 2 do
      reply[#reply + 1] = page[i + 1]
      reply[#reply + 1] = page[i]
      read = read + #page[i]
    end
    n = n + #page / 2
    step = math.max(1, math.min(500, math.floor((bytes - read) / (read / n + 1))))
  end
  return n, read
end
