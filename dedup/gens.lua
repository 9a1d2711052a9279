-- The state of a window, common to all scripts (the Go side puts this text before each of them).
--
-- KEYS[1] is a string: one "start,bits,count,window;" a generation, newest first. A claim of a generation lies in one
-- of 2^bits small hashes, chosen by the first bits of the id's hash; start (ms) names the generation and its keys.
-- bits never changes while a generation lives, so whoever reads this string knows where every claim can be.
-- With no bits (layout Fast) the generation is one hash.
-- KEYS[2] never exists: while its slot moves to another node of a cluster, a node refuses a script of which some keys are there and
-- others are not. Without it the script would end in the middle, at the first bucket that has moved.
-- ARGV[1] is the window in ms, ARGV[2] the prefix of all bucket keys, ARGV[3] the floor of bits, 0 for layout Fast.
local call, sub, byte, floor = redis.call, string.sub, string.byte, math.floor
local window, prefix, floorbits = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

local gens = {}
for s, b, c, w in string.gmatch(call('GET', KEYS[1]) or '', '(%d+),(%d+),(%d+),(%d+);') do
  gens[#gens + 1] = { start = tonumber(s), bits = tonumber(b), count = tonumber(c), window = tonumber(w), prefix = prefix .. s .. ':' }
end

local t = call('TIME')
local now = t[1] * 1000 + floor(t[2] / 1000)
-- Server time never runs backwards here: a clock that was set back would make claims look younger than nothing.
if gens[1] and now < gens[1].start then now = gens[1].start end

-- A generation takes claims for one window at most; the next one may have cut it short.
local stop = now
for i = 1, #gens do
  local g = gens[i]
  g.stop = math.min(stop, g.start + g.window)
  stop = g.start
  g.unit = math.max(1, math.ceil(g.window / 16777215)) -- ms of one tick: claim times are kept in three bytes
end
-- The newest entry of a generation that stopped a window ago has left the window.
for i = #gens, 1, -1 do
  if gens[i].stop + gens[i].window <= now and now > gens[i].stop then table.remove(gens, i) end
end

-- held reports whether v, a value found in generation g, is a claim of the window.
local function held(g, v)
  if not v then return false end
  local a, b, c = byte(v, 9, 11)
  return g.start + ((a * 65536) + b * 256 + c) * g.unit + g.window > now
end

local function save()
  local s, last = {}, 0
  for i = 1, #gens do
    local g = gens[i]
    s[i] = string.format('%.0f,%d,%.0f,%.0f;', g.start, g.bits, g.count, g.window)
    last = math.max(last, g.start + 2 * g.window)
  end
  if last <= now then call('DEL', KEYS[1]) else call('SET', KEYS[1], table.concat(s), 'PX', string.format('%.0f', last - now)) end
end
