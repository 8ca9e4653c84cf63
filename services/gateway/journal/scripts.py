"""The atomic steps in Redis. Each touches the two keys of one session, which share a hash tag: one slot.

The fence: a session's head holds the owner and its epoch. A writer brings its epoch and `base`, the last
epoch that it saw stored. It is stale if another owner has stored an epoch that is not older than `base`, or
if it is itself stored with a later one: so an owner that was cut off cannot outbid a takeover, however often
it claimed by itself. An older stored epoch means that Redis lost what it had: the writer restores it.

Leases run by Redis's clock, unless a test gives the time.

Lua hashes each string that it is given, byte by byte: in a script, latents cost Redis more than twice what
they cost beside one. So large data goes beside it, in a transaction of PARK, a plain HSET and PUT_BESIDE. The
transaction goes on whatever one of its steps answers, so where the writer is refused, PARK puts the data that
it must not touch out of its way (RENAME copies nothing), and PUT_BESIDE puts it back.
"""

_NOW = """
local function now_ms(given)
  if given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local function whole(number) return string.format('%.0f', number) end
"""

_REFUSAL = """
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'revision', 'digest', 'lease_ms')
local stored, mine = tonumber(held[2]), held[1] == ARGV[1]
local epoch, base, mode = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local function refusal()
  if mode == 'new' then
    if stored then return {'exists', held[4]} end
  elseif stored and ((mine and stored > epoch) or (not mine and stored >= base)) then
    return {'fenced', held[2]}
  elseif mode == 'difference' then
    local known = mine and (stored == base or stored == epoch)
    if not known or (held[3] ~= ARGV[5] and held[3] ~= ARGV[6]) then return {'resend'} end
  end
end
local refused = refusal()
"""

_STORE = """
if refused then return refused end
local lease = held[5]
if mode ~= 'difference' then redis.call('DEL', KEYS[1], KEYS[2]) end
if ARGV[7] == '0' then
  lease = '0'
elseif ARGV[7] ~= '' then
  lease = whole(now_ms(ARGV[8]) + tonumber(ARGV[7]))
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', ARGV[2], 'revision', ARGV[6], 'lease_ms', lease)
local at = 14
for which = 1, 2 do
  for i = at + 1, at + ARGV[9 + which], 2 do redis.call('HSET', KEYS[which], ARGV[i], ARGV[i + 1]) end
  at = at + ARGV[9 + which]
end
for which = 1, 2 do
  for i = at + 1, at + ARGV[11 + which] do redis.call('HDEL', KEYS[which], ARGV[i]) end
  at = at + ARGV[11 + which]
end
for which = 1, 2 do redis.call('PEXPIRE', KEYS[which], ARGV[9]) end
if redis.call('HLEN', KEYS[2]) ~= tonumber(ARGV[14]) then return {'resend'} end
return {'ok', lease}
"""

PUT = _NOW + _REFUSAL + _STORE
"""KEYS head, data. ARGV owner, epoch, base, mode (new, whole, difference), expected revision, new revision,
lease in ms, 0 (released) or empty (unchanged), now in ms or empty, TTL in ms, four counts of arguments (head
and data to set, head and data to delete), the number of data there will be; then those arguments."""

PARK = (
    _REFUSAL
    + "if refused and redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[3]) end"
)
"""KEYS head, data, where the data is parked meanwhile. ARGV the first six of PUT."""

PUT_BESIDE = (
    _NOW
    + _REFUSAL
    + """
if refused then
  redis.call('DEL', KEYS[2])
  if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('RENAME', KEYS[3], KEYS[2]) end
end
"""
    + _STORE
)
"""KEYS as PARK, ARGV as PUT, for a difference: the data to set came between the two."""

CLAIM = (
    _NOW
    + """
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'lease_ms', 'end')
if not held[2] then return {'missing'} end
if held[4] and held[4] ~= '' then return {'ended'} end
local now = now_ms(ARGV[3])
local left = tonumber(held[3]) - now
local is_free = left <= 0 and now <= tonumber(ARGV[6]) and (ARGV[5] == '' or tonumber(held[3]) == 0)
if held[1] ~= ARGV[1] and not is_free then return {'held', held[1], whole(left)} end
local epoch, lease = whole(tonumber(held[2]) + 1), whole(now + tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', epoch, 'lease_ms', lease)
for which = 1, 2 do redis.call('PEXPIRE', KEYS[which], ARGV[4]) end
return {'ok', epoch}
"""
)
"""KEYS as PUT. ARGV owner, lease in ms, now in ms or empty, TTL in ms, whether only what was released may be
claimed (anything) or all whose lease ran out (empty), and when nobody waits for the answer any more, in ms:
Redis may have stood still, and owners could not renew."""

COUNT_IN = (
    _NOW
    + """
local now, counted = now_ms(ARGV[5]), {}
for which = 1, 2 do redis.call('ZREMRANGEBYSCORE', KEYS[which], '-inf', whole(now)) end
local num = redis.call('ZCARD', KEYS[1])
for _, try in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local at, session = string.match(try, '^([^/]+/([^/]+))')
  if session ~= ARGV[2] and not counted[session] and not redis.call('ZSCORE', KEYS[1], at) then
    counted[session], num = true, num + 1
  end
end
if num >= tonumber(ARGV[3]) then return num end
redis.call('ZADD', KEYS[2], whole(now + tonumber(ARGV[4])), ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return -1
"""
)
"""KEYS open, creating. ARGV the try to create a session (its place in the list, then what makes it unique),
the session, how many there may be with it, how long the try counts in ms, now in ms or empty. The answer: -1,
or how many there are. A session counts once, however many tries there are, open by now or not."""

RESERVE = "return not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and redis.call('GET', KEYS[1])"
"""KEYS reservation. ARGV what it shall hold, TTL in ms. The answer: what it held before, or nil."""
DROP = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"
"""KEYS reservation. ARGV what it must hold to be deleted."""
