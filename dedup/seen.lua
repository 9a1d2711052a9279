-- ARGV[4] = hashes, ARGV[5…] = ids. Replies one byte an id, '1' or '0'.
local hashes, seen = ARGV[4], {}
for j = 1, #ARGV - 4 do
  local hit = '0'
  for i = 1, #gens do
    local g = gens[i]
    if held(g, call('HGET', g.prefix .. sub(hashes, j * 24 - 23, j * 24 - 24 + g.bits), ARGV[4 + j])) then
      hit = '1'
      break
    end
  end
  seen[j] = hit
end
local parts = {}
for i = 1, #seen, 1000 do parts[#parts + 1] = table.concat(seen, '', i, math.min(i + 999, #seen)) end
return table.concat(parts)
