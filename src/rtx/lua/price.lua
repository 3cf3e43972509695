-- Store prices, unless one of a later tick is there, and then publish ticks, all in one step.
-- A price that cannot be read gives way.
-- KEYS[i]      the price of a symbol
-- ARGV[1]      milliseconds that they live
-- ARGV[i + 1]  JSON of the price, with `time` in ISO 8601 UTC with milliseconds
-- ARGV[...]    after those: channel, message, channel, message, ...
-- reply        for each price: 1 stored | 0 a later one is kept | an error
--              for each message: how many received it | an error
local find, match, sub, byte, pcall = string.find, string.match, string.sub, string.byte, redis.pcall

-- Epoch milliseconds of ISO 8601 UTC (H. Hinnant, days_from_civil).
local function epoch(iso)
  local y, m, d, h, min, s = match(iso, '^(%d+)-(%d+)-(%d+).(%d+):(%d+):([%d.]+)')
  m = tonumber(m)
  if m <= 2 then y = y - 1 end
  local era = math.floor(y / 400)
  local year = y - era * 400
  local day = math.floor((153 * ((m + 9) % 12) + 2) / 5) + d - 1
  local days = era * 146097 + year * 365 + math.floor(year / 4) - math.floor(year / 100) + day - 719468
  return ((days * 24 + h) * 60 + min) * 60000 + math.floor(s * 1000 + 0.5)
end

-- Whether a price of another program is of a later tick: epoch milliseconds, or UTC in some form.
local function is_later(old, new)
  local number = tonumber(match(old, '"time"%s*:%s*(%d+%.?%d*)%s*[,}]'))
  local time = match(new, '"time":"([^"]*)Z"')
  if number then return number > epoch(time) end
  local day, clock, zone = match(old, '"time"%s*:%s*"(%d%d%d%d%-%d%d%-%d%d).(%d%d:%d%d:%d%d%.?%d?%d?%d?)([^"]*)"')
  if not day or not (match(zone, '^%d*Z?$') or match(zone, '^%d*[+-]00:?00$')) then return false end
  return day .. 'T' .. clock > time
end

local replies, count, ttl = {}, #KEYS, ARGV[1]
for i = 1, count do
  local key, new = KEYS[i], ARGV[i + 1]
  local old, late = pcall('GET', key), false
  if old and type(old) == 'string' then
    local at = find(old, '"time":"', 1, true)
    -- Written by this script's own callers: both times are at one place and compare as text.
    if at and byte(old, at + 31) == 90 and byte(old, at + 18) == 84 and find(new, '"time":"', at, true) == at then
      late = sub(old, at + 8, at + 30) > sub(new, at + 8, at + 30)
    else
      late = is_later(old, new)
    end
  end
  if late then
    replies[i] = 0
  else
    local stored = pcall('SET', key, new, 'PX', ttl)
    replies[i] = stored.err and stored or 1
  end
end
for i = count + 2, #ARGV, 2 do
  replies[#replies + 1] = pcall('PUBLISH', ARGV[i], ARGV[i + 1])
end
return replies
