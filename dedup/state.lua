-- ARGV[4] = 'read' or 'clear'. Replies the estimated number of ids in the window, then start and bits of every
-- generation that may hold a claim. Clearing leaves one empty generation, so that a new one cannot take an old name.
local reply, len = { 0 }, 0
for i = 1, #gens do
  local g = gens[i]
  local part = 1
  if g.stop > g.start then part = math.min(1, (g.stop + g.window - now) / (g.stop - g.start)) end
  len = len + g.count * part
  reply[#reply + 1] = string.format('%.0f', g.start)
  reply[#reply + 1] = g.bits
end
reply[1] = floor(len + 0.5)
if ARGV[4] == 'clear' and gens[1] then
  if now <= gens[1].start then now = gens[1].start + 1 end
  gens = { { start = now, bits = floorbits, count = 0, window = window } }
  save()
end
return reply
