-- Takes ids out of the window. ARGV[4] = hashes, ARGV[5] = digests of the places that must hold them ('' = whoever
-- does), ARGV[6…] = ids. Replies how many were there.
local hashes, places, n = ARGV[4], ARGV[5], 0
for j = 1, #ARGV - 5 do
  local id, hit = ARGV[5 + j], false
  for i = 1, #gens do
    local g = gens[i]
    local key = g.prefix .. sub(hashes, j * 24 - 23, j * 24 - 24 + g.bits)
    local v = call('HGET', key, id)
    if v and (places == '' or sub(v, 1, 8) == sub(places, j * 8 - 7, j * 8)) then
      hit = hit or held(g, v)
      call('HDEL', key, id)
      g.count = math.max(0, g.count - 1)
    end
  end
  if hit then n = n + 1 end
end
save()
return n
