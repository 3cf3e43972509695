-- Gives hits back. sliding_log.lua and sliding_counter.lua have the format of the key.
--
-- KEYS[1]  the key of a limit for an id
-- ARGV[1]  hits to give back
-- ARGV[2]  time of the hits in microseconds, as it was told; -1 for the oldest that count
-- ARGV[3]  window in microseconds
-- reply    hits given back
local most, time, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local SPAN = 4294967296
local raw = redis.call('GET', KEYS[1])
if not raw or #raw < 12 then return 0 end

if #raw == 33 and string.byte(raw, 33) == 1 then
  local began, span, newest, before, count = struct.unpack('>I8I8I8I4I4', raw)
  local back = 0
  if time < 0 or time >= began then
    back = math.min(most, count)
    count = count - back
  elseif time >= began - span then
    back = math.min(most, before)
    before = before - back
  end
  local value = struct.pack('>I8I8I8I4I4B', began, span, newest, before, count, 1)
  redis.call('SET', KEYS[1], value, 'KEEPTTL')
  return back
end

local first, total, start, expiry, high, size = 0, 0, 8, 0, 0, 0
if #raw > 512 then
  first, total, expiry, high, size = struct.unpack('>I3I3I4I3B', raw, #raw - 13)
  start = 0
else
  expiry, high, size = struct.unpack('>I4I3B', raw)
  total = (#raw - 8) / size
end
local entry, modulo = '>I4', SPAN
if size == 8 then entry, modulo, high = '>I8', 2 ^ 53, 0 end
local low = struct.unpack(entry, raw, start + total * size - size + 1)
local newest = high * SPAN + low
local function time_of(place)
  return newest - (low - struct.unpack(entry, raw, start + place * size + 1)) % modulo
end

-- The first that is not older than the one sought, of those that count.
local clock = redis.call('TIME')
local oldest = math.max(clock[1] * 1000000 + clock[2], newest) - window + 1
local sought = math.max(time, oldest)
local from, past = first, total
while from < past do
  local middle = math.floor((from + past) / 2)
  if time_of(middle) < sought then from = middle + 1 else past = middle end
end
local to = from
while to < total and to - from < most and (time < 0 or time_of(to) == time) do to = to + 1 end
if to == from then return 0 end

local count = total - first - (to - from)
if count == 0 then
  redis.call('DEL', KEYS[1])
  return to - from
end
if to == total then newest = time_of(from - 1) end
local body = string.sub(raw, start + first * size + 1, start + from * size)
  .. string.sub(raw, start + to * size + 1, start + total * size)
local head = struct.pack('>I4I3B', expiry, math.floor(newest / SPAN), size)
if count * size + 8 <= 512 then
  body = head .. body
else
  body = body .. struct.pack('>I3I3', 0, count) .. head
end
redis.call('SET', KEYS[1], body, 'KEEPTTL')
return to - from
