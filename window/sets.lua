-- Sets in buckets: the sets of events, and the sets of names.

-- The sets that all windows share hold names of windows, and IDLE keys. Each has no name.
local SHARED = {idle = IDLE, due = DUE, leased = LEASES, dead = DEAD, expiry = EXPIRY}
local KINDS = {'idle', 'due', 'leased', 'dead', 'expiry'}

-- setKey returns the key of a set: kind is events, slide, late, open or one of KINDS; bucket 0 is
-- the set before it was split.
local function setKey(kind, name, bucket)
  local shared = SHARED[kind]
  if shared then return bucket > 0 and shared .. '.' .. bucket or shared end
  if bucket > 0 then kind = kind .. '.' .. bucket end
  return PREFIX .. kind .. ':' .. name
end

local openSplit = {} -- by key, what this script has read
local function isSplit(kind, name)
  if SHARED[kind] then return namesSplit end
  if kind == 'events' then return call('HGET', infoKey(name), 'split') end
  if kind == 'slide' then return call('HGET', marksKey(name), 'split') end
  if kind == 'open' then
    if openSplit[name] == nil then openSplit[name] = callOr(false, 'HGET', marksKey(name), 'opensplit') end
    return openSplit[name]
  end
  return kind == 'late' and lateSplit
end

-- namesLife returns for how long a bucket of names lives: longer than its windows, and apart from
-- the others.
local function namesLife(kind, bucket)
  local place = 0
  for i, k in ipairs(KINDS) do if k == kind then place = i end end
  return int(2.25 * RETENTION + SLACK + JITTER + (place * BUCKETS + bucket) * SPREAD)
end

-- bucketsLife returns a time that is longer than any of these.
local function bucketsLife()
  return 2.25 * RETENTION + 2 * SLACK + MAX_JITTER + (#KINDS + 1) * BUCKETS * SPREAD
end

-- keepNames sets when the buckets of a set of names expire.
local function keepNames(kind, name)
  for bucket = 1, BUCKETS do call('PEXPIRE', setKey(kind, name, bucket), namesLife(kind, bucket)) end
end

-- checkShared stops the script if one of the shared sets has another type.
local function checkShared()
  for _, set in pairs(SHARED) do call('ZCARD', set) end
end

-- tick is called by each script that writes, before its other writes. A key of another type or a
-- missing right stops the script here, before anything is written.
local function tick()
  needs('HGET', 'HSET', 'HDEL', 'HINCRBY', 'ZADD', 'ZCOUNT', 'ZMSCORE', 'ZRANGE', 'ZRANGEBYSCORE', 'ZREM', 'ZREMRANGEBYRANK',
    'ZSCORE', 'PEXPIRE', 'PTTL', 'UNLINK')
  checkShared()
  call('HSET', META, 'layout', LAYOUT, 'seed', SEED, 'size', int(size), 'clock', int(now), 'offset', int(offset))
  -- All windows are in EXPIRY, so it is the largest.
  if not namesSplit and call('ZCARD', EXPIRY) > SPLIT_NAMES then
    call('HSET', META, 'namessplit', '1')
    namesSplit = '1'
  end
end

-- keepShared keeps what all windows share: twice as long as they live, and META, which has the seed
-- of the buckets, at least as long as the sliding sets: `slide` ms. Called at the end of a script
-- that writes.
local function keepShared(slide)
  for _, kind in ipairs(KINDS) do call('PEXPIRE', setKey(kind, '', 0), int(2 * RETENTION)) end
  local ms = math.max(2 * RETENTION, slide or 0)
  if namesSplit then
    ms = math.max(ms, bucketsLife())
    if math.abs(clock - (number(meta[8]) or 0)) > RETENTION / 4 then
      for _, kind in ipairs(KINDS) do keepNames(kind, '') end
      call('HSET', META, 'kept', int(clock))
    end
  end
  if call('PTTL', META) < ms then call('PEXPIRE', META, int(ms)) end
end

-- homeOf returns the bucket of a name, and its key. The seed is secret, so that those who choose
-- the keys cannot choose the bucket.
local function homeOf(kind, set, name)
  local bucket = tonumber(string.sub(redis.sha1hex(SEED .. name), 1, 2), 16) % BUCKETS + 1
  return bucket, setKey(kind, set, bucket)
end

-- putName adds a name to a set, or changes its score. If its bucket holds another type, it goes to
-- the first key.
local function putName(kind, set, score, name)
  local whole = setKey(kind, set, 0)
  if isSplit(kind, set) then
    local bucket, key = homeOf(kind, set, name)
    if callOr(nil, 'ZADD', key, score, name) then
      call('PEXPIRE', key, namesLife(kind, bucket))
      call('ZREM', whole, name)
      return
    end
  end
  call('ZADD', whole, score, name)
end

-- removeName removes a name, and returns 1 if the set had it. A key of another type has none.
local function removeName(kind, set, name)
  local n = callOr(0, 'ZREM', setKey(kind, set, 0), name)
  if not isSplit(kind, set) then return n end
  local _, key = homeOf(kind, set, name)
  return math.max(n, callOr(0, 'ZREM', key, name))
end

-- scoreOf returns the score of a name, or nothing. A key of another type has none.
local function scoreOf(kind, set, name)
  local score = callOr(false, 'ZSCORE', setKey(kind, set, 0), name)
  if score or not isSplit(kind, set) then return score end
  local _, key = homeOf(kind, set, name)
  return callOr(false, 'ZSCORE', key, name)
end

local function countNames(kind, set)
  local n = 0
  for bucket = 0, isSplit(kind, set) and BUCKETS or 0 do n = n + call('ZCARD', setKey(kind, set, bucket)) end
  return n
end

local function isEmpty(kind, set)
  for bucket = 0, isSplit(kind, set) and BUCKETS or 0 do
    if callOr(0, 'ZCARD', setKey(kind, set, bucket)) > 0 then return false end
  end
  return true
end

-- isAfter compares as the server does, byte by byte. (Lua's own comparison follows the locale.)
local function isAfter(a, b)
  local i = 1
  while true do
    local x, y = string.byte(a, i), string.byte(b, i)
    if not x then return false end
    if not y then return true end
    if x ~= y then return x > y end
    i = i + 1
  end
end

-- scoreNumber returns a score as a number. An emulation does not read an infinite one.
local function scoreNumber(score)
  return tonumber(score) or score == '-inf' and -INFINITY or INFINITY
end

-- inOrder returns a function that returns one name after another with its score and its key, in
-- the order of score and name, and nil after the last one. from returns the rank in a key at which
-- to begin; nil: nothing of that key. Nothing may change the set meanwhile.
local function inOrder(kind, set, from)
  local split = isSplit(kind, set)
  local step = split and 8 or 128
  local pages = {}
  local function fill(page)
    page.names = call('ZRANGE', page.key, page.rank, page.rank + step - 1, 'WITHSCORES')
    page.at = 1
  end
  for bucket = 0, split and BUCKETS or 0 do
    local page = {key = setKey(kind, set, bucket)}
    page.rank = from(page.key)
    if page.rank then
      fill(page)
      if page.names[1] then pages[#pages + 1] = page end
    end
  end
  local function isBefore(a, b)
    local x, y = scoreNumber(a.names[a.at + 1]), scoreNumber(b.names[b.at + 1])
    return x < y or x == y and isAfter(b.names[b.at], a.names[a.at])
  end
  return function()
    local first
    for i, page in ipairs(pages) do
      if not first or isBefore(page, pages[first]) then first = i end
    end
    if not first then return nil end
    local page = pages[first]
    local name, score = page.names[page.at], page.names[page.at + 1]
    page.at, page.rank = page.at + 2, page.rank + 1
    if not page.names[page.at] then fill(page) end
    if not page.names[page.at] then table.remove(pages, first) end
    return name, score, page.key
  end
end

-- firstScore returns the lowest score of a set, or nothing. A key of another type has none.
local function firstScore(kind, set)
  local _, score = inOrder(kind, set, function(key) return callOr(0, 'ZCARD', key) > 0 and 0 or nil end)()
  return score
end

-- firstOf returns the first names of a set in the order of their score: at most `most`, with scores
-- of up to upTo. A bucket of another type has none.
local function firstOf(kind, set, upTo, most)
  local whole = setKey(kind, set, 0)
  if not isSplit(kind, set) then return call('ZRANGEBYSCORE', whole, '-inf', int(upTo), 'LIMIT', 0, most) end
  local nextName = inOrder(kind, set, function(key)
    return callOr(0, 'ZCOUNT', key, '-inf', int(upTo)) > 0 and 0 or nil
  end)
  local found = {}
  while #found < most do
    local name, score, key = nextName()
    if not name or scoreNumber(score) > upTo then break end
    found[#found + 1] = {name, score, key}
  end
  local names = {}
  for i, entry in ipairs(found) do
    local name, score, key = entry[1], entry[2], entry[3]
    local _, home = homeOf(kind, set, name)
    if key ~= whole and key ~= home then -- the seed was another one: its record was deleted by hand
      call('ZREM', key, name)
      if not scoreOf(kind, set, name) then putName(kind, set, score, name) end
    end
    names[i] = name
  end
  return names
end

-- keepSet sets when a whole set of events expires.
local function keepSet(kind, name, split, ms)
  for bucket = 0, split and BUCKETS or 0 do
    call('PEXPIRE', setKey(kind, name, bucket), int(ms + SLACK + JITTER + bucket * SPREAD))
  end
end

-- since returns from which time on the events of a sliding window count. Those that are older than
-- `keep` (ms; 0: it is no sliding window) have left it, even if they have not been trimmed yet.
local function since(from, keep)
  if keep == 0 then return from end
  return int(math.max(tonumber(from), now - keep + 1))
end

-- trim removes what is not younger than upTo: a bounded part of it, in a few buckets chosen at
-- random.
local function trim(kind, name, split, upTo)
  local function trimOne(key, most)
    local old = callOr(0, 'ZCOUNT', key, '-inf', int(upTo))
    if old > 0 then call('ZREMRANGEBYRANK', key, 0, math.min(old, most) - 1) end
  end
  trimOne(setKey(kind, name, 0), 2 * SPLIT_ABOVE)
  if split then
    for i = 0, 7 do trimOne(setKey(kind, name, (JITTER + i) % BUCKETS + 1), 500) end
  end
end
