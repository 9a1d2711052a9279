-- Acknowledges batches, each with its undo in the same step. A batch that is gone was acknowledged
-- before, and its undo was applied then: by now its claim may belong to another batch, so nothing
-- is done. Returns how many batches were acknowledged.
-- ARGV: prefix, then for each batch: id, number of undos, and four arguments for each undo.

-- readBatches reads the batches and their undos, and returns the sound ones and the ids of the
-- broken ones. Of a batch that comes twice the first one counts, as in two calls. Nothing is
-- written before everything was read: an undo on a key of a wrong type ends the script here.
local function readBatches()
  local batches, broken, seen, i = {}, {}, {}, 2
  while ARGV[i] do
    local id, last = ARGV[i], i + 1 + 4 * ARGV[i + 1]
    local meta = seen[id] and {} or read('HMGET', metaOf(id), 'n', 'st')
    seen[id] = true
    if not meta or meta[1] and not (SET_OF[meta[2]] and sizeOf(meta[1])) then
      broken[#broken + 1] = id
    elseif meta[1] then
      batches[#batches + 1] = {id = id, records = number(meta[1]), state = meta[2], undo = matchUndo(i + 2, last)}
    end
    i = last + 1
  end
  return batches, broken
end

-- acknowledge removes a batch. OPEN is the first key written, and ends the script here if it is of
-- a wrong type; in another set of a wrong type there is nothing to remove.
local function acknowledge(batch)
  redis.call('ZREM', OPEN, batch.id)
  redis.pcall('ZREM', SET_OF[batch.state], batch.id)
  applyUndo(batch.undo)
  redis.call('UNLINK', listOf(batch.id), metaOf(batch.id))
end

needs('ZREM', 'UNLINK', 'HSET', 'HINCRBY')
needsKeys('b:', 'm:')
local books = redis.call('HMGET', STAT, 'acked', 'inflight', 'layout')
checkLayout(books[3])
local acked, records, handed = 0, 0, 0
local batches, broken = readBatches()
for _, id in ipairs(broken) do setAside(id, serverTime()) end -- first: it may end the script
for _, batch in ipairs(batches) do
  acknowledge(batch)
  acked, records = acked + 1, records + batch.records
  if batch.state == 'H' then handed = handed + batch.records end
end
if acked > 0 then
  redis.call('HSET', STAT, 'acked', plus(books[1], records), 'inflight', plus(books[2], -records))
  count('handed', -handed)
end
return acked
