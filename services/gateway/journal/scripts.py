"""The atomic steps in Redis. Each touches the keys of one session, which share a hash tag: one slot.

The fence: a session's hash holds the owner and its epoch. A writer brings its epoch and `base`, the last
epoch that it saw stored. It is stale if another owner has stored an epoch that is not older than `base`, or
if it is itself stored with a later one. An older stored epoch means that Redis lost what it had: the writer
restores it.
"""

_FENCE = """
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'revision')
local stored = tonumber(held[2])
local mine = held[1] == ARGV[1]
local epoch, base = tonumber(ARGV[2]), tonumber(ARGV[3])
if stored and ((mine and stored > epoch) or (not mine and stored >= base)) then
  return {'fenced', held[1], held[2]}
end
"""

_NOW = """
local function now_ms(given)
  if given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
"""

WRITE = (
    _NOW
    + _FENCE
    + """
local is_whole, now = ARGV[6] == '1', ARGV[8]
if not is_whole then
  if not stored or not mine then return {'resend'} end
  if held[3] == ARGV[5] then return {'ok'} end
  if held[3] ~= ARGV[4] then return {'resend'} end
else
  redis.call('DEL', KEYS[2], KEYS[3])
  local lease = now_ms(now) + tonumber(ARGV[7])
  redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'lease_ms', string.format('%.0f', lease))
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'revision', ARGV[5])
local at = 14
local function each(command, key, count)
  if count > 0 then redis.call(command, key, unpack(ARGV, at + 1, at + count)) end
  at = at + count
end
each('HSET', KEYS[1], tonumber(ARGV[10]))
each('HSET', KEYS[2], tonumber(ARGV[11]))
each('HSET', KEYS[3], tonumber(ARGV[12]))
each('HDEL', KEYS[2], tonumber(ARGV[13]))
each('HDEL', KEYS[3], tonumber(ARGV[14]))
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[9]) end
return {'ok'}
"""
)
"""KEYS hash, latents, segments. ARGV owner, epoch, base, expected revision, new revision, whole, lease in ms,
now in ms or empty, TTL in ms, five counts of arguments, those arguments."""

CLAIM = (
    _NOW
    + """
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'lease_ms', 'end_reason')
if not held[2] then return {'missing'} end
if held[4] and held[4] ~= '' then return {'ended', held[4]} end
local now = now_ms(ARGV[3])
local left = tonumber(held[3]) - now
if held[1] ~= ARGV[1] and left > 0 then return {'held', held[1], string.format('%.0f', left)} end
local epoch, lease = tonumber(held[2]) + 1, string.format('%.0f', now + tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', epoch, 'lease_ms', lease)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[4]) end
return {'ok', tostring(epoch), lease}
"""
)
"""KEYS as WRITE. ARGV owner, lease in ms, now in ms or empty, TTL in ms."""

RENEW = (
    _NOW
    + _FENCE
    + """
if not stored or not mine then return {'resend'} end
local lease = string.format('%.0f', now_ms(ARGV[5]) + tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'lease_ms', lease)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[6]) end
return {'ok', lease}
"""
)
"""KEYS as WRITE. ARGV owner, epoch, base, lease in ms, now in ms or empty, TTL in ms."""
