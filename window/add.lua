-- Adds events of one key to their tumbling windows and to the key's sliding set.
-- ARGV 7 key, 8 lateness, 9 keep, 10 ahead (ms), 11 a byte for each event (its bucket), then time
--      and data of each, by time
-- Reply {how many events it is about, then how many of them are new, repeated and late, 1 if the
--      watermark has passed more windows than it closed: without events it closes the next ones}
local FIRST, MAX_WINDOWS, MAX_CLOSED, MAX_CHANGES = 12, 100, 200, 16
local key, lateness, keep, ahead, bytes = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]
local total = (#ARGV - FIRST + 1) / 2
local function at(i) return tonumber(ARGV[FIRST + 2 * i - 2]) end
local function data(i) return ARGV[FIRST + 2 * i - 1] end
local function bucket(i) return string.byte(bytes, i) % BUCKETS + 1 end

-- before returns the last event of first to last whose time is less than limit; first - 1: none.
local function lastBefore(limit, first, last)
  if at(last) < limit then return last end
  local low, high = first - 1, last -- low is before the limit, high is not
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    if at(middle) < limit then low = middle else high = middle end
  end
  return low
end

-- firstOnly returns pairs of time and member without those whose member came before. A server keeps
-- the first time of a member that is twice in one ZADD NX, and an emulation the last one.
local function firstOnly(pairs)
  if rightsCheck then return pairs end
  local seen, out = {}, {}
  for i = 1, #pairs, 2 do
    if not seen[pairs[i + 1]] then
      seen[pairs[i + 1]] = true
      out[#out + 1] = pairs[i]
      out[#out + 1] = pairs[i + 1]
    end
  end
  return out
end

-- putInto adds pairs of time and member to a bucket of a set, and returns how many are new. They go
-- to the first key of the set if the bucket holds another type: it is read before all buckets.
local function putInto(kind, name, b, ms, pairs)
  pairs = firstOnly(pairs)
  local new = callOr(nil, 'ZADD', setKey(kind, name, b), 'NX', unpack(pairs))
  if not new then
    b = 0
    new = call('ZADD', setKey(kind, name, b), 'NX', unpack(pairs))
  end
  call('PEXPIRE', setKey(kind, name, b), int(ms + SLACK + JITTER + b * SPREAD))
  return new
end

-- put adds events to a set and returns how many are new. What is there already keeps its time.
local function put(kind, name, split, ms, first, last)
  local whole = setKey(kind, name, 0)
  if not split then
    return call('ZADD', whole, 'NX', unpack(firstOnly({unpack(ARGV, FIRST + 2 * first - 2, FIRST + 2 * last - 1)})))
  end
  local members = {}
  for i = first, last do members[#members + 1] = data(i) end
  local old = call('ZMSCORE', whole, unpack(members))
  local groups = {}
  for i = first, last do
    if not old[i - first + 1] then
      local b = bucket(i)
      local group = groups[b]
      if not group then group = {} groups[b] = group end
      group[#group + 1] = ARGV[FIRST + 2 * i - 2]
      group[#group + 1] = data(i)
    end
  end
  local new = 0
  for b, group in pairs(groups) do new = new + putInto(kind, name, b, ms, group) end
  return new
end

local function has(kind, name, split, i)
  if call('ZSCORE', setKey(kind, name, 0), data(i)) then return true end
  return split and callOr(false, 'ZSCORE', setKey(kind, name, bucket(i)), data(i))
end

local marks = call('HMGET', marksKey(key), 'newest', 'floor', 'size', 'sizes', 'split', 'opensplit', 'mark')
openSplit[key] = marks[6]
local names = call('ZCARD', openKey(key))
for _, kind in ipairs({'slide', 'late'}) do call('ZCARD', setKey(kind, kind == 'slide' and key or '', 0)) end
tick()
-- An event is judged by what was there before this call, so one call cannot make its own events
-- late.
local function markOf(text) return number(text) and isTime(text, now) and number(text) or -INFINITY end
local newest, floor = markOf(marks[1]), markOf(marks[2])
local mark = math.max(markOf(marks[7]), newest - lateness) -- a larger lateness does not move it back
local slideSplit = marks[5]
local added, repeated, late, entered = 0, 0, 0, false

-- A late event names the window that it missed; "0 0": none.
local function tooLate(reason, i, start, length)
  late = late + 1
  local member = table.concat({reason, ARGV[FIRST + 2 * i - 2], int(start), int(length), #key, key .. data(i)}, ' ')
  local name, b = '', 0
  if lateSplit then
    if call('ZSCORE', setKey('late', name, 0), member) then return end
    b = bucket(i)
  end
  putInto('late', name, b, RETENTION, {int(clock), member})
end

-- The size of windows may have been changed. Windows that were open keep theirs, and events before
-- the end of the last one of them still belong to windows of the size that held then: changes has
-- {end, size}, the oldest first.
local changes = {}
for stop, length in string.gmatch(marks[4] or '', '(%d+):(%d+)') do
  if number(stop) and (number(length) or 0) > 0 then changes[#changes + 1] = {number(stop), number(length)} end
end
local function sizeAt(ms)
  for _, change in ipairs(changes) do
    if ms < change[1] then return change[2], change[1] end
  end
  return size, INFINITY
end
if number(marks[3]) and number(marks[3]) ~= size then
  local last = changes[#changes]
  local old = number(marks[3])
  if newest > -INFINITY and old > 0 and (not last or newest >= last[1]) then
    changes[#changes + 1] = {newest - newest % old + old, old}
    if #changes > MAX_CHANGES then table.remove(changes, 1) end
    local texts = {}
    for i, change in ipairs(changes) do texts[i] = int(change[1]) .. ':' .. int(change[2]) end
    call('HSET', marksKey(key), 'sizes', table.concat(texts, ','))
  end
end
call('HSET', marksKey(key), 'size', int(size))

local function enter(window, start, length, state, split, first, last)
  local new = put('events', window, split, RETENTION, first, last)
  added, repeated, entered = added + new, repeated + last - first + 1 - new, true
  newest = math.max(newest, at(last))
  if not state then
    call('HSET', infoKey(window), 'state', 'open')
    putName('open', key, int(start + length), int(start) .. ' ' .. int(length))
  end
  local known = call('HGET', infoKey(window), 'n') or '0'
  local n
  if number(known) then n = call('HINCRBY', infoKey(window), 'n', int(new)) else n = eventsOf(window, known, split) end
  book('added', new)
  book('open', new)
  putName('expiry', '', int(clock + RETENTION), window)
  call('PEXPIRE', infoKey(window), int(4 * RETENTION))
  call('PEXPIRE', setKey('events', window, 0), int(RETENTION + SLACK + JITTER))
  if not split and n > SPLIT_ABOVE then
    call('HSET', infoKey(window), 'split', '1', 'kept', int(clock))
  elseif split and clock - (number(call('HGET', infoKey(window), 'kept')) or 0) > RETENTION / 4 then
    keepSet('events', window, split, RETENTION) -- buckets that got nothing must not go before the others
    call('HSET', infoKey(window), 'kept', int(clock))
  end
end

if not openSplit[key] and names > SPLIT_NAMES then
  call('HSET', marksKey(key), 'opensplit', '1')
  openSplit[key] = '1'
end
local inTime = total > 0 and lastBefore(now + ahead + 1, 1, total) or 0
local done, windows = 0, 0
if size > 0 then
  while done < inTime and windows < MAX_WINDOWS do
    local first = done + 1
    local length, boundary = sizeAt(at(first))
    local start = at(first) - at(first) % length
    local last = lastBefore(math.min(start + length, boundary), first, inTime)
    local window = int(start) .. ' ' .. int(length) .. ' ' .. key
    local info = callOr(nil, 'HMGET', infoKey(window), 'state', 'split')
    local reason
    if not info or not callOr(nil, 'ZCARD', setKey('events', window, 0)) then
      info, reason = {}, 'unknown' -- another program has overwritten the window
    elseif start + length <= mark then reason = 'watermark'
    elseif start + length <= floor then reason = 'idle'
    elseif info[1] and info[1] ~= 'open' then reason = 'closed' end
    if not reason then
      enter(window, start, length, info[1], info[2], first, last)
    else
      for i = first, last do
        -- The events of a window outlive it, so that a retry of what was in time is known.
        if info[1] and has('events', window, info[2], i) then repeated = repeated + 1 else tooLate(reason, i, start, length) end
      end
    end
    done, windows = last, windows + 1
  end
else
  done = inTime
end
if keep > 0 and done > 0 then
  local first = lastBefore(now - keep + 1, 1, done) + 1
  if first <= done then
    local new = put('slide', key, slideSplit, keep + ahead, first, done)
    if size == 0 then added, repeated = added + new, repeated + done - first + 1 - new end
    call('PEXPIRE', setKey('slide', key, 0), int(keep + ahead + SLACK + JITTER))
    if not slideSplit and call('ZCARD', setKey('slide', key, 0)) > SPLIT_ABOVE then
      call('HSET', marksKey(key), 'split', '1')
    end
  end
  if size == 0 then
    for i = 1, first - 1 do tooLate('old', i, 0, 0) end
  end
end
if keep > 0 then trim('slide', key, slideSplit, now - keep) end
if done == inTime then
  for i = inTime + 1, total do tooLate('ahead', i, 0, 0) end
  done = total
end

mark = math.max(mark, newest - lateness)
local passed = {}
if newest > -INFINITY then
  call('HSET', marksKey(key), 'newest', int(newest), 'mark', int(mark))
  -- The windows that the watermark has passed are closed from this moment on.
  passed = firstOf('open', key, mark, MAX_CLOSED)
  for _, name in ipairs(passed) do
    local start, length = openParts(name)
    if start then close(start, length, key, 'watermark') else removeName('open', key, name) end
  end
end
if (entered or #passed > 0) and isEmpty('open', key) then
  removeName('idle', '', key)
  if openSplit[key] then call('HDEL', marksKey(key), 'opensplit') end
elseif entered then
  putName('idle', '', int(clock), key)
end
if late > 0 then
  if not lateSplit and call('ZCARD', setKey('late', '', 0)) > SPLIT_ABOVE then call('HSET', META, 'latesplit', '1') end
  trim('late', '', lateSplit, clock - RETENTION)
end
local marksLife = 2 * RETENTION + keep + ahead
if openSplit[key] then
  keepNames('open', key)
  marksLife = math.max(marksLife, bucketsLife()) -- they state that there are buckets
end
call('PEXPIRE', marksKey(key), int(marksLife))
call('PEXPIRE', openKey(key), int(2 * RETENTION))
keepShared(keep > 0 and keep + ahead)
return {done, added, repeated, late, #passed == MAX_CLOSED and 1 or 0}
