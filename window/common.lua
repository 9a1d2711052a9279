-- Every script of this package begins with this.
-- KEYS 1 meta, 2 a key that never exists (see internal/redisx), 3 idle, 4 due, 5 leases,
--      6 dead, 7 expiry
-- ARGV 1 prefix of the keys, 2 layout version, 3 seed, 4 window size, 5 retention, 6 jitter
--      (ms); the script's own follow
--
-- All other keys are built from the prefix, so they are in the same slot.
local META, IDLE, DUE, LEASES, DEAD, EXPIRY = KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local PREFIX, LAYOUT, SEED = ARGV[1], ARGV[2], ARGV[3]
local JITTER = tonumber(ARGV[6])

-- A set of events is one sorted set until it has more than SPLIT_ABOVE members, and from then on
-- 64 buckets. Redis frees an expired key in one go: 5 million events in one key would
-- hold it for seconds.
local BUCKETS, SPLIT_ABOVE = 64, 2048
-- The same for the sets of names: those that all windows share, and the open windows of one key.
local SPLIT_NAMES = 16384
-- The buckets of one set expire SPREAD ms after each other, and sets of the same age apart by
-- JITTER, which is at most MAX_JITTER.
local SPREAD, SLACK, MAX_JITTER = 100, 1000, 30000
local INFINITY = math.huge
local LONGEST_MS = 367 * 86400000 -- no duration is longer

local function int(n) return string.format('%.0f', n) end -- tostring would round to 14 digits

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local meta = call('HMGET', META, 'layout', 'seed', 'size', 'clock', 'offset', 'latesplit', 'namessplit', 'kept')
if meta[1] and meta[1] ~= LAYOUT then return redis.error_reply('HEADRACE layout ' .. meta[1]) end
-- Another program may have overwritten the seed with a text that no error can carry.
if meta[2] and meta[2] ~= SEED and string.find(meta[2], '^%w+$') then return redis.error_reply('HEADRACE seed ' .. meta[2]) end
local size = number(meta[3])
if not size or size < 0 then size = tonumber(ARGV[4]) end
-- A program that still has a smaller size keeps windows for longer: they also close later.
local RETENTION = tonumber(ARGV[5]) + math.max(0, math.min(size, LONGEST_MS) - tonumber(ARGV[4]))
local lateSplit, namesSplit = meta[6], meta[7]

-- Durations are measured by a clock of our own. It is the server's, and goes on where it was when
-- that is set back.
local offset, before = number(meta[5]) or 0, number(meta[4]) or 0
if offset < 0 or offset > MAX_AHEAD_MS then offset = 0 end
if now < before and isTime(before, now) then offset = offset + before - now end
local clock = now + offset

local function infoKey(window) return PREFIX .. 'info:' .. window end
local function marksKey(key) return PREFIX .. 'marks:' .. key end
local function openKey(key) return PREFIX .. 'open:' .. key end
