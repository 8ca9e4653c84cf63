"""One exchange between a gateway and the others, as a script of Redis."""

EXCHANGE = """
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local me, ttl, window, size, kept = ARGV[2], ARGV[4] + 0, ARGV[5] + 0, ARGV[6] + 0, ARGV[7] + 0
local function whole(number) return string.format('%.0f', number) end

local others, all = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local ends, counts = string.match(all[i + 1], '^(%d+) (.*)$')
  if not ends or tonumber(ends) <= now then redis.call('HDEL', KEYS[1], all[i])
  elseif all[i] ~= me then others[#others + 1] = counts end
end
redis.call('HSET', KEYS[1], me, whole(now + ttl) .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ttl)

local answer, this = {others}, math.floor(now / size)
for i = 9, #ARGV, 3 do
  local kind, wish, offer = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local names, wishes = {}, {}
  for number = math.floor((now - window) / size), this do names[#names + 1] = kind .. ':' .. whole(number) end
  if wish and wish > (tonumber(redis.call('HGET', KEYS[2], names[#names]) or '') or -1) then
    redis.call('HSET', KEYS[2], names[#names], wish)
    redis.call('PEXPIRE', KEYS[2], kept)
  end
  local stored, highest = redis.call('HMGET', KEYS[2], unpack(names)), -1
  for at = #names, 1, -1 do
    local left, found = (this - #names + at + 1) * size + window - now, tonumber(stored[at] or '')
    if found and left > 0 and found > highest then
      wishes[#wishes + 1] = {whole(left), whole(found)}
      highest = found
    end
  end
  if offer ~= '' then
    redis.call('HSET', KEYS[3], kind, offer)
    redis.call('PEXPIRE', KEYS[3], ARGV[8])
  end
  answer[#answer + 1] = {wishes, redis.call('HGET', KEYS[3], kind)}
end

if redis.call('HLEN', KEYS[2]) > 4 * kept / size then
  for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
    local number = tonumber(string.match(name, '%d+$')) or 0
    if number < this - kept / size then redis.call('HDEL', KEYS[2], name) end
  end
end
return answer
"""
"""KEYS gateways, wishes, offers. ARGV now in ms or empty (Redis's clock), this gateway, its counts, how long
they count, the window, the length of a bucket, how long wishes and how long offers are kept (all in ms); then
per kind its name, and wish and offer or empty.

The answer: the counts of the others; per kind the wishes that count, as (ms that they still do, wish), the
newest first and then only what is higher than all that are newer, and the last offer or nil."""
